//! The way back to full traffic after an outage.

use std::time::Duration;

use tokio::time::Instant;

/// The share of calls that the ramp begins with.
const START: f64 = 0.1;

/// The ramp lets one call through this often, so that a program that calls once in a while is not refused after the
/// outage is over.
const FLOOR: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Ramp {
    since: Instant,
    length: Duration,
    last_pass: Instant,
}

impl Ramp {
    /// A ramp that begins now; none, when it takes no time.
    pub(super) fn new(now: Instant, length: Option<Duration>) -> Option<Self> {
        length
            .filter(|length| !length.is_zero())
            .map(|length| Self {
                since: now,
                length,
                last_pass: now,
            })
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.length
    }

    /// Lets a call pass (`None`), or tells it when the ramp would have reached it. That spreads those who come back.
    pub(super) fn climb(&mut self, now: Instant, chance: f64) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.since);
        let its_share = ((chance - START) / (1.0 - START)).clamp(0.0, 1.0);
        let its_time = self.length.mul_f64(its_share);
        if its_time <= passed || now.saturating_duration_since(self.last_pass) >= FLOOR {
            self.last_pass = now;
            return None;
        }
        Some(its_time - passed)
    }
}
