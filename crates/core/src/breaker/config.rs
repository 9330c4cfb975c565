//! When a circuit opens, for how long, and how it closes.

use std::{num::NonZeroU32, time::Duration};

/// The longest cool-down that a server's `retry-after` can ask for: one hour.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// No probe is given up sooner: 60 s.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);

/// The settings of a [`Breaker`](super::Breaker). The default is the recommendation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerConfig {
    pub(super) failures: NonZeroU32,
    pub(super) within: Duration,
    pub(super) failure_rate: Option<FailureRate>,
    pub(super) slow_calls: Option<SlowCallRate>,
    pub(super) cool_down: Duration,
    pub(super) longest_cool_down: Duration,
    pub(super) forget_after: Duration,
    pub(super) probes: NonZeroU32,
    pub(super) successes: NonZeroU32,
    pub(super) lease: Duration,
    pub(super) ramp: Option<Duration>,
}

/// Opens on the share of failures among the calls of the last 30 s, counted exactly in ten buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct FailureRate {
    /// Fewer calls than this tell nothing. 20 by default.
    pub min_calls: NonZeroU32,
    /// The share, in `0.0..=1.0`, from which on the circuit opens. 0.5 by default.
    pub share: f64,
}

/// Opens on the share of calls, among those of the last 30 s, whose first content took too long.
///
/// Where it is set, a slow probe fails.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SlowCallRate {
    /// From this time on, from sending to the first content, a call is slow.
    pub slow: Duration,
    /// Fewer calls than this tell nothing. 20 by default.
    pub min_calls: NonZeroU32,
    /// The share, in `0.0..=1.0`, from which on the circuit opens. 0.8 by default.
    pub share: f64,
}

const TWENTY: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

impl FailureRate {
    /// From this share on, given so many calls.
    #[must_use]
    pub const fn new(min_calls: NonZeroU32, share: f64) -> Self {
        Self { min_calls, share }
    }
}

impl Default for FailureRate {
    fn default() -> Self {
        Self::new(TWENTY, 0.5)
    }
}

impl SlowCallRate {
    /// Calls are slow from this time on; 80 % of at least 20 open the circuit.
    #[must_use]
    pub const fn new(slow: Duration) -> Self {
        Self {
            slow,
            min_calls: TWENTY,
            share: 0.8,
        }
    }

    /// The same with another share and another least number of calls.
    #[must_use]
    pub const fn with_share(mut self, min_calls: NonZeroU32, share: f64) -> Self {
        self.min_calls = min_calls;
        self.share = share;
        self
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: const { NonZeroU32::new(5).expect("not zero") },
            within: Duration::from_secs(60),
            failure_rate: None,
            slow_calls: None,
            cool_down: Duration::from_secs(30),
            longest_cool_down: Duration::from_secs(300),
            forget_after: Duration::from_secs(300),
            probes: NonZeroU32::MIN,
            successes: const { NonZeroU32::new(2).expect("not zero") },
            lease: Duration::from_secs(600),
            ramp: Some(Duration::from_secs(30)),
        }
    }
}

impl BreakerConfig {
    /// The recommended settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens after this many failures without a success between them, the first and the last of them no further
    /// apart than `within`. 5 within 60 s by default; at most 1,000 are counted.
    #[must_use]
    pub const fn with_failures(mut self, failures: NonZeroU32, within: Duration) -> Self {
        self.failures = match NonZeroU32::new(1000) {
            Some(most) if failures.get() > most.get() => most,
            _ => failures,
        };
        self.within = within;
        self
    }

    /// Opens on a share of failures as well. Off by default.
    #[must_use]
    pub const fn with_failure_rate(mut self, rate: Option<FailureRate>) -> Self {
        self.failure_rate = rate;
        self
    }

    /// Opens on a share of slow calls as well. Off by default.
    #[must_use]
    pub const fn with_slow_calls(mut self, rate: Option<SlowCallRate>) -> Self {
        self.slow_calls = rate;
        self
    }

    /// How long the circuit stays open before the first probe, and at most when probes go on failing: 30 s, doubling to
    /// 300 s. Both vary by up to 20 % either way; a server's `retry-after` of up to an hour is a lower bound.
    #[must_use]
    pub const fn with_cool_down(mut self, first: Duration, longest: Duration) -> Self {
        self.cool_down = first;
        self.longest_cool_down = longest;
        self
    }

    /// After this time closed, the next cool-down is the first again. 5 min by default.
    #[must_use]
    pub const fn with_forget_after(mut self, closed: Duration) -> Self {
        self.forget_after = closed;
        self
    }

    /// How many probes may be out at once (1 by default), and how many of them must succeed to close the circuit (2).
    #[must_use]
    pub const fn with_probes(mut self, at_once: NonZeroU32, successes: NonZeroU32) -> Self {
        self.probes = at_once;
        self.successes = successes;
        self
    }

    /// How long an attempt may take until its first content: 600 s by default, as the retry layer and the SDKs have it. A
    /// probe without a verdict after that, and after 60 s at least, has failed.
    #[must_use]
    pub const fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.lease = if timeout.as_nanos() > SHORTEST_LEASE.as_nanos() {
            timeout
        } else {
            SHORTEST_LEASE
        };
        self
    }

    /// After closing, calls are let through with a chance that rises from 10 % to 100 % over this time, one per second at
    /// least. 30 s by default; `None` lets all through at once.
    #[must_use]
    pub const fn with_ramp(mut self, ramp: Option<Duration>) -> Self {
        self.ramp = ramp;
        self
    }

    /// How long a probe may be out.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        self.lease
    }

    /// Whether slow calls count: only then must every call tell when it was [sent](super::Breaker::sent).
    #[must_use]
    pub const fn times_calls(&self) -> bool {
        self.slow_calls.is_some()
    }

    /// `min(longest, first · 2^(opens − 1)) · (0.8 … 1.2)`, and no less than the server asks for.
    pub(super) fn cool_down(
        &self,
        opens: u32,
        retry_after: Option<Duration>,
        chance: f64,
    ) -> Duration {
        let doublings = opens.saturating_sub(1).min(31);
        let cool = self
            .cool_down
            .saturating_mul(1 << doublings)
            .min(self.longest_cool_down);
        let jitter = 0.8 + 0.4 * chance.clamp(0.0, 1.0);
        let jittered = Duration::try_from_secs_f64(cool.as_secs_f64() * jitter).unwrap_or(cool);
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        jittered.max(asked)
    }
}
