//! How long to wait when nobody says how long.

use std::time::Duration;

/// The least wait with [`Jitter::Full`], which otherwise may draw nothing at all.
const FULL_FLOOR: Duration = Duration::from_millis(100);

/// The most that is added to a wait the server asked for.
const RETRY_AFTER_SPREAD: Duration = Duration::from_secs(10);

/// No wait is longer, so that no product of waits overflows.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How the wait before a retry is spread, so that clients which failed together do not return together.
///
/// `e` is the envelope: `base` before the first retry, doubled for each further one, at most `cap`.
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

/// Exponential backoff: 1 s, doubling up to 60 s, by default.
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
    /// Waits `base` before the first retry and twice as long before each further one, at most
    /// `cap` (a day at most). A `base` over `cap` counts as `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration, jitter: Jitter) -> Self {
        let cap = cap.min(LONGEST);
        Self {
            base: base.min(cap),
            cap,
            jitter,
        }
    }

    /// The wait before retry number `retry` (from 1), after a wait of `last` (zero before the
    /// first), for a random number in `[0, 1)`.
    pub(crate) fn delay(&self, retry: u32, last: Duration, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        let envelope = self.envelope(retry);
        match self.jitter {
            Jitter::None => envelope,
            Jitter::Upward => (envelope + (envelope / 2).mul_f64(random)).min(self.cap),
            Jitter::Full => envelope.mul_f64(random).max(FULL_FLOOR.min(self.cap)),
            Jitter::Equal => envelope / 2 + (envelope / 2).mul_f64(random),
            Jitter::Decorrelated => {
                let last = last.clamp(self.base, self.cap);
                let spread = last * 3 - self.base;
                (self.base + spread.mul_f64(random)).min(self.cap)
            }
        }
    }

    /// The wait when the server asked for `retry_after`: never less, and up to half as much again
    /// (10 s at most), since everyone who was turned away got the same number.
    pub(crate) fn after(&self, retry_after: Duration, random: f64) -> Duration {
        if self.jitter == Jitter::None {
            return retry_after;
        }
        let spread = (retry_after / 2).min(RETRY_AFTER_SPREAD);
        retry_after.saturating_add(spread.mul_f64(random.clamp(0.0, 1.0)))
    }

    fn envelope(&self, retry: u32) -> Duration {
        let factor = 1_u32.checked_shl(retry.saturating_sub(1));
        self.base
            .saturating_mul(factor.unwrap_or(u32::MAX))
            .min(self.cap)
    }
}
