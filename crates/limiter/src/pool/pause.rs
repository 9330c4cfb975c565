//! The pause of a scope after a 429.

use std::time::Duration;

use crate::LimiterConfig;

const FIRST_INFERRED: u64 = 1_000_000_000;

/// The most that jitter adds to a wait the server asked for, as in a retry layer: a minute's
/// patience must be enough for most of a minute's wait.
const MOST_SPREAD: u64 = 10_000_000_000;

/// 429s in a row are backed off from up to here even where the server asks for less: it reckons without
/// the others who take what it refills.
const MOST_BACKOFF: u64 = 4_000_000_000;

/// One gate for the whole scope, so that requests do not sleep each on its own and come back as a herd.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    until: u64,
    /// When the last one began: a 429 for a request sent before it is not a new strike.
    began: Option<u64>,
    strikes: u32,
}

impl Pause {
    pub(crate) const fn until(&self) -> u64 {
        self.until
    }

    pub(crate) const fn succeeded(&mut self) {
        self.strikes = 0;
    }

    /// Doubles with every 429 in a row.
    const fn backoff(&self) -> u64 {
        let doublings = self.strikes.saturating_sub(1);
        FIRST_INFERRED << if doublings < 30 { doublings } else { 30 }
    }

    /// Begins or lengthens the pause after a 429 for a request sent at `sent`, and returns how long it
    /// still is. `jitter` is in 0..1 and adds up to half, to a wait that was asked for at most 10 s.
    pub(crate) fn rejected(
        &mut self,
        now: u64,
        sent: Option<u64>,
        retry_after: Option<Duration>,
        jitter: f64,
        max_inferred: u64,
    ) -> u64 {
        if self
            .began
            .is_none_or(|began| sent.is_none_or(|sent| sent > began))
        {
            self.strikes = self.strikes.saturating_add(1);
            self.began = Some(now);
        }
        // Zero, or a date in the past, says nothing: taken at its word, everyone would be back at once.
        let (base, most, spread) = match retry_after.filter(|wait| !wait.is_zero()) {
            Some(wait) => {
                let most = nanos(LimiterConfig::MAX_EXPLICIT_PAUSE);
                let again = self.backoff().min(MOST_BACKOFF);
                (nanos(wait).max(again).min(most), most, MOST_SPREAD)
            }
            None => (self.backoff().min(max_inferred), max_inferred, max_inferred),
        };
        let jitter = if jitter.is_finite() {
            jitter.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let extra = ((base / 2).min(spread) as f64 * jitter) as u64;
        let wait = base.saturating_add(extra).min(most);
        self.until = self.until.max(now.saturating_add(wait));
        self.until - now
    }
}

/// Whole nanoseconds; more than 584 years count as those.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
