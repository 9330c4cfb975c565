//! The pause of a scope after a 429.

use std::time::Duration;

use crate::{config::LimiterConfig, nanos::nanos};

/// The first inferred pause.
const FIRST_INFERRED: u64 = 1_000_000_000;

/// The most that jitter adds to an explicit `retry-after`, as in the retry layer. A caller that
/// waits for a minute must be served by most pauses of a minute.
const MAX_SPREAD: u64 = 10_000_000_000;

/// The most that 429s in a row extend a shorter `retry-after`. The server's value does not consider
/// that other clients use the refill.
const MAX_EXPLICIT_BACKOFF: u64 = 4_000_000_000;

/// The pause of a whole scope, so that its requests do not sleep separately and return as a herd.
#[derive(Debug)]
pub(crate) struct Pause {
    max_inferred: u64,
    until: u64,
    /// The beginning of the last pause. A 429 for a request sent before it is not a new strike.
    began: Option<u64>,
    strikes: u32,
}

impl Pause {
    /// Returns no pause. `max_inferred` is the longest pause without a `retry-after`.
    pub(crate) fn new(max_inferred: Duration) -> Self {
        Self {
            max_inferred: nanos(max_inferred),
            until: 0,
            began: None,
            strikes: 0,
        }
    }

    pub(crate) const fn until(&self) -> u64 {
        self.until
    }

    pub(crate) const fn on_success(&mut self) {
        self.strikes = 0;
    }

    /// Returns the inferred pause, which doubles with every 429 in a row.
    const fn backoff(&self) -> u64 {
        let doublings = self.strikes.saturating_sub(1);
        FIRST_INFERRED << if doublings < 30 { doublings } else { 30 }
    }

    /// Begins or extends the pause after a 429 for a request sent at `sent`. Returns its remaining
    /// nanoseconds. `jitter` in 0..1 adds up to half, but at most 10 s to a `retry-after`.
    pub(crate) fn on_rejected(
        &mut self,
        now: u64,
        sent: Option<u64>,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> u64 {
        if self
            .began
            .is_none_or(|began| sent.is_none_or(|sent| sent > began))
        {
            self.strikes = self.strikes.saturating_add(1);
            self.began = Some(now);
        }
        // A zero, or a date in the past, is ignored. Otherwise all requests would return at once.
        let max_inferred = self.max_inferred;
        let (base, max, spread) = match retry_after.filter(|wait| !wait.is_zero()) {
            Some(wait) => {
                let max = nanos(LimiterConfig::MAX_EXPLICIT_PAUSE);
                let again = self.backoff().min(MAX_EXPLICIT_BACKOFF);
                (nanos(wait).max(again).min(max), max, MAX_SPREAD)
            }
            None => (self.backoff().min(max_inferred), max_inferred, max_inferred),
        };
        let jitter = if jitter.is_finite() {
            jitter.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let extra = ((base / 2).min(spread) as f64 * jitter) as u64;
        let wait = base.saturating_add(extra).min(max);
        self.until = self.until.max(now.saturating_add(wait));
        self.until - now
    }
}
