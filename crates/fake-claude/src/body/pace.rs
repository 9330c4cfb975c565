//! How fast an answer is made.

use std::time::Duration;

/// When the tokens of an answer come.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) first: Duration,
    /// `None` is all at once.
    pub(crate) per_second: Option<f64>,
}

impl Pace {
    /// When `tokens` are there, counted from admission.
    pub(crate) fn time_of(&self, tokens: u64) -> Duration {
        let Some(rate) = self.per_second else {
            return self.first;
        };
        let seconds = tokens.saturating_sub(1) as f64 / rate;
        self.first
            .saturating_add(Duration::try_from_secs_f64(seconds).unwrap_or(FAR))
    }

    /// How many of `total` tokens are there after `elapsed`.
    pub(crate) fn made(&self, elapsed: Duration, total: u64) -> u64 {
        let Some(since) = elapsed.checked_sub(self.first) else {
            return 0;
        };
        let Some(rate) = self.per_second else {
            return total;
        };
        // A timer fires up to a millisecond late, and seconds in a float are a hair off: never one token short.
        ((since.as_secs_f64() * rate + 1e-6) as u64)
            .saturating_add(1)
            .min(total)
    }
}

/// Longer than anything here waits.
pub(crate) const FAR: Duration = Duration::from_secs(365 * 86_400);
