//! The gradual return to full traffic after an outage.

use std::time::Duration;

use tokio::time::Instant;

/// The share of calls that passes at the start of the ramp.
const START: f64 = 0.1;

/// The longest time without a passed call, so that a program that rarely calls is not rejected
/// after the outage is over.
const FLOOR: Duration = Duration::from_secs(1);

/// A period after closing in which a growing share of the calls passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ramp {
    since: Instant,
    length: Duration,
    last_pass: Instant,
}

impl Ramp {
    /// Creates a ramp that begins now, or `None` if it takes no time.
    pub(super) fn new(now: Instant, length: Option<Duration>) -> Option<Self> {
        length
            .filter(|length| !length.is_zero())
            .map(|length| Self {
                since: now,
                length,
                last_pass: now,
            })
    }

    /// Returns true if all calls pass again.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.length
    }

    /// Lets a call pass (`None`), or returns the time until the ramp would have let it pass. These
    /// times differ, so that rejected calls do not return all at once.
    pub(super) fn try_pass(&mut self, now: Instant, chance: f64) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.since);
        let call_share = ((chance - START) / (1.0 - START)).clamp(0.0, 1.0);
        let call_time = self.length.mul_f64(call_share);
        if call_time <= passed || now.saturating_duration_since(self.last_pass) >= FLOOR {
            self.last_pass = now;
            return None;
        }
        Some(call_time - passed)
    }
}
