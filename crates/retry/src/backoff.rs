//! Exponential backoff with jitter.

use std::time::Duration;

/// The shortest wait with [`Jitter::Full`], which could draw zero otherwise.
const FULL_FLOOR: Duration = Duration::from_millis(100);

/// The most that is added to a `retry-after`.
const RETRY_AFTER_SPREAD: Duration = Duration::from_secs(10);

/// The longest wait, so that no product of waits overflows.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The random part of a wait, so that clients that failed together do not retry together.
///
/// `e` is the exponential delay: `base` before the first retry, doubled for each further retry, at
/// most `cap`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// Uniform in `[e, 1.5 e]`, at most `cap`. Never earlier than the schedule.
    #[default]
    Upward,
    /// Uniform in `[0, e]`, at least 100 ms.
    Full,
    /// Uniform in `[e / 2, e]`.
    Equal,
    /// Uniform in `[base, 3 × the last wait]`, at most `cap`.
    Decorrelated,
    /// Exactly `e`, and exactly the server's `retry-after`. For tests and demonstrations.
    None,
}

/// Exponential backoff, by default from 1 s to 60 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    jitter: Jitter,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(
            Duration::from_secs(1),
            Duration::from_secs(60),
            Jitter::default(),
        )
    }
}

impl Backoff {
    /// Creates a backoff of `base` before the first retry, doubled for each further retry, at most
    /// `cap`. `cap` is limited to a day, and a `base` over `cap` counts as `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration, jitter: Jitter) -> Self {
        let cap = cap.min(LONGEST);
        Self {
            base: base.min(cap),
            cap,
            jitter,
        }
    }

    /// Returns the wait before retry number `retry` (from 1) for a random number in `[0, 1)`.
    /// `last` is the last wait, and zero before the first retry.
    pub(crate) fn delay(&self, retry: u32, last: Duration, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        let exponential = self.exponential(retry);
        match self.jitter {
            Jitter::None => exponential,
            Jitter::Upward => (exponential + (exponential / 2).mul_f64(random)).min(self.cap),
            Jitter::Full => exponential.mul_f64(random).max(FULL_FLOOR.min(self.cap)),
            Jitter::Equal => exponential / 2 + (exponential / 2).mul_f64(random),
            Jitter::Decorrelated => {
                let last = last.clamp(self.base, self.cap);
                let spread = last * 3 - self.base;
                (self.base + spread.mul_f64(random)).min(self.cap)
            }
        }
    }

    /// Returns the wait for a `retry-after` of the server: never less, and up to half as much again
    /// (at most 10 s), because all rejected clients get the same number.
    pub(crate) fn after(&self, retry_after: Duration, random: f64) -> Duration {
        if self.jitter == Jitter::None {
            return retry_after;
        }
        let spread = (retry_after / 2).min(RETRY_AFTER_SPREAD);
        retry_after.saturating_add(spread.mul_f64(random.clamp(0.0, 1.0)))
    }

    fn exponential(&self, retry: u32) -> Duration {
        let factor = 1_u32.checked_shl(retry.saturating_sub(1));
        self.base
            .saturating_mul(factor.unwrap_or(u32::MAX))
            .min(self.cap)
    }
}
