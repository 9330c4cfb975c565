//! The pacing of a scope: its pause after a 429, its share of a level that other processes use, and
//! the slow start after idling.

pub(crate) mod pause;
pub(crate) mod share_pacer;
pub(crate) mod slow_start;

use std::time::Duration;

use crate::{
    config::LimiterConfig,
    pool::pacing::{
        pause::Pause,
        share_pacer::{MAX_RATE, SharePacer},
        slow_start::SlowStartRamp,
    },
};

/// The most credit that can be accumulated, in nanoseconds of the limit's rate.
const MAX_CREDIT: f64 = 250_000_000.0;

/// The most credit during a slow start. More would be sent as the burst that it prevents.
const MAX_CREDIT_IN_SLOW_START: f64 = 10_000_000.0;

/// Pause, share pacer and slow start.
#[derive(Debug)]
pub(crate) struct Pacing {
    pause: Pause,
    pacer: SharePacer,
    slow_start: SlowStartRamp,
}

impl Pacing {
    pub(crate) fn new(config: &LimiterConfig) -> Self {
        Self {
            pause: Pause::new(config.max_pause),
            pacer: SharePacer::default(),
            slow_start: SlowStartRamp::new(config.slow_start),
        }
    }

    /// Returns the end of the pause. It may have passed.
    pub(crate) const fn paused_until(&self) -> u64 {
        self.pause.until()
    }

    /// Returns the earliest time of the next admission. Whatever the pace is, one request is
    /// admitted at `probe_at`.
    pub(crate) fn earliest(&self, now: u64, probe_at: u64) -> u64 {
        let credit = match self.pacer.wait() {
            0 => 0,
            wait => now.saturating_add(wait).min(probe_at),
        };
        self.pause.until().max(credit)
    }

    /// Earns the credit since the last call. `share` is the rate that a shared level allows, as a
    /// multiple of the limit's rate, or `None` if the limits are not shared.
    pub(crate) fn update(&mut self, now: u64, share: Option<f64>) {
        match (share, self.slow_start.rate(now)) {
            (None, None) => self.pacer.off(),
            (Some(rate), None) => self.pacer.earn(now, rate, MAX_CREDIT),
            (share, Some(max)) => {
                let rate = share.unwrap_or(MAX_RATE).min(max);
                self.pacer.earn(now, rate, MAX_CREDIT_IN_SLOW_START);
            }
        }
    }

    /// Records that a request asks for admission. `busy` is true while others are in flight or
    /// queued.
    pub(crate) fn on_request(&mut self, now: u64, busy: bool) {
        self.slow_start.on_request(now, busy);
    }

    /// Records an admission of this much work, in nanoseconds of the limit's rate.
    pub(crate) fn on_admitted(&mut self, now: u64, work: impl FnOnce() -> f64) {
        if self.pacer.is_on() {
            self.pacer.spend(work());
        }
        self.slow_start.on_activity(now);
    }

    pub(crate) const fn on_ended(&mut self, now: u64) {
        self.slow_start.on_activity(now);
    }

    pub(crate) const fn on_success(&mut self) {
        self.pause.on_success();
    }

    /// Begins or extends the pause after a 429. Returns its remaining nanoseconds.
    pub(crate) fn on_rejected(
        &mut self,
        now: u64,
        sent: Option<u64>,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> u64 {
        let wait = self.pause.on_rejected(now, sent, retry_after, jitter);
        self.slow_start.on_paused(self.pause.until());
        wait
    }

    /// Returns the nanoseconds until this work ahead is done at the mean pace, or 0 without pacing.
    pub(crate) fn wait_behind(&self, work: impl FnOnce() -> f64) -> u64 {
        if !self.pacer.is_on() {
            return 0;
        }
        self.pacer.until_done(work())
    }
}
