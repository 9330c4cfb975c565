//! The settings of a circuit.

use std::{num::NonZeroU32, time::Duration};

/// The upper limit of a server's `retry-after`: one hour.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The shortest lease of a probe: 60 s.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);

/// The settings of a circuit: the rules by which it opens and closes. The default is the
/// recommendation.
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

/// A rule that opens the circuit by the share of failures among the calls of the last 30 s, counted
/// exactly in ten buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct FailureRate {
    /// The least number of calls for the rule to apply. 20 by default.
    pub min_calls: NonZeroU32,
    /// The share in `0.0..=1.0` at which the circuit opens. 0.5 by default.
    pub share: f64,
}

/// A rule that opens the circuit by the share of slow calls among the calls of the last 30 s.
///
/// With this rule, a slow probe fails.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SlowCallRate {
    /// The time from sending to the first content at which a call is slow.
    pub slow: Duration,
    /// The least number of calls for the rule to apply. 20 by default.
    pub min_calls: NonZeroU32,
    /// The share in `0.0..=1.0` at which the circuit opens. 0.8 by default.
    pub share: f64,
}

const TWENTY: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

impl FailureRate {
    /// Creates a rule that opens the circuit at this share of at least `min_calls` calls.
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
    /// Creates a rule under which a call is slow from this time on. A share of 0.8 of at least 20
    /// calls opens the circuit.
    #[must_use]
    pub const fn new(slow: Duration) -> Self {
        Self {
            slow,
            min_calls: TWENTY,
            share: 0.8,
        }
    }

    /// Sets the least number of calls and the share.
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
            // Short, because another probe costs little and callers should not wait for minutes
            // after an outage.
            cool_down: Duration::from_secs(10),
            longest_cool_down: Duration::from_secs(20),
            forget_after: Duration::from_secs(300),
            probes: NonZeroU32::MIN,
            successes: const { NonZeroU32::new(2).expect("not zero") },
            lease: Duration::from_secs(600),
            ramp: Some(Duration::from_secs(20)),
        }
    }
}

impl BreakerConfig {
    /// Creates the recommended settings for circuits of endpoints and models. The layer starts from
    /// them, so a changed setting leaves all others as they are.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the recommended settings for circuits of credentials, from which the layer starts as
    /// well: a cool-down from 30 s to 300 s, a single successful probe, and no ramp.
    #[must_use]
    pub fn for_credentials() -> Self {
        Self::new()
            .with_cool_down(Duration::from_secs(30), Duration::from_secs(300))
            .with_probes(NonZeroU32::MIN, NonZeroU32::MIN)
            .with_ramp(None)
    }

    /// Opens the circuit after this many failures without a success between them, if the first and
    /// the last of them are at most `within` apart. 5 within 60 s by default. Values over 1,000
    /// count as 1,000.
    ///
    /// Calls that fail together on a lost connection count once, and others that fail together as
    /// at most `failures - 1`. While more than a third of the calls of the row are pending, the
    /// circuit stays closed. From a sixth of `within` on without a success, this share grows with
    /// time.
    #[must_use]
    pub const fn with_failures(mut self, failures: NonZeroU32, within: Duration) -> Self {
        self.failures = match NonZeroU32::new(1000) {
            Some(most) if failures.get() > most.get() => most,
            _ => failures,
        };
        self.within = within;
        self
    }

    /// Opens the circuit by a share of failures as well. Off by default.
    #[must_use]
    pub const fn with_failure_rate(mut self, rate: Option<FailureRate>) -> Self {
        self.failure_rate = rate;
        self
    }

    /// Opens the circuit by a share of slow calls as well. Off by default.
    #[must_use]
    pub const fn with_slow_calls(mut self, rate: Option<SlowCallRate>) -> Self {
        self.slow_calls = rate;
        self
    }

    /// Sets the cool-down before the first probe, and its upper limit. Each failed probe doubles
    /// it. From 10 s to 20 s by default. Each cool-down varies by up to 20 % either way. The
    /// server's `retry-after`, up to one hour, is a lower bound.
    #[must_use]
    pub const fn with_cool_down(mut self, first: Duration, longest: Duration) -> Self {
        self.cool_down = first;
        self.longest_cool_down = longest;
        self
    }

    /// Sets the time after closing from which the next cool-down is the first again. 5 min by
    /// default. With zero, every cool-down is the first.
    #[must_use]
    pub const fn with_forget_after(mut self, closed: Duration) -> Self {
        self.forget_after = closed;
        self
    }

    /// Sets the number of probes at once (1 by default), and the number of successful probes that
    /// close the circuit (2 by default). Another probe is admitted if none has an outcome for a
    /// minute.
    #[must_use]
    pub const fn with_probes(mut self, at_once: NonZeroU32, successes: NonZeroU32) -> Self {
        self.probes = at_once;
        self.successes = successes;
        self
    }

    /// Sets the time that an attempt may take until its first content. 600 s by default, as in the
    /// retry layer and the SDKs. A probe without an outcome after this time has failed. Values
    /// under 60 s count as 60 s.
    #[must_use]
    pub const fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.lease = if timeout.as_nanos() > SHORTEST_LEASE.as_nanos() {
            timeout
        } else {
            SHORTEST_LEASE
        };
        self
    }

    /// Sets the time after closing in which the share of admitted calls rises from 10 % to 100 %.
    /// At least one call per second is admitted. 20 s by default. With `None` all calls are
    /// admitted at once.
    #[must_use]
    pub const fn with_ramp(mut self, ramp: Option<Duration>) -> Self {
        self.ramp = ramp;
        self
    }

    /// Returns true if the time of every call matters, because slow calls count.
    pub(crate) const fn times_calls(&self) -> bool {
        self.slow_calls.is_some()
    }

    /// Returns `min(longest, first · 2^(opens − 1)) · (0.8 … 1.2)`, and at least the server's
    /// `retry-after`.
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
