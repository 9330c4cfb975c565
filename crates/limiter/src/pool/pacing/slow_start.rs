//! Slow start after idling: the pace begins at a quarter of the limit's rate and doubles regularly.
//!
//! A server may reject a sharp rise in use whatever its levels are. The requests that waited for
//! the end of a pause are such a rise.

use crate::{nanos::nanos, policy::SlowStart};

/// The initial pace, as a share of the limit's rate.
const START: f64 = 0.25;

/// The pace of a slow start, if one is configured.
#[derive(Debug, Default)]
pub(crate) struct SlowStartRamp {
    config: Option<SlowStart>,
    /// The beginning of the current ramp, which may be in the future.
    since: Option<u64>,
    /// The time at which a request was last sent or ended.
    active: Option<u64>,
}

impl SlowStartRamp {
    pub(crate) const fn new(config: Option<SlowStart>) -> Self {
        Self {
            config,
            since: None,
            active: None,
        }
    }

    /// Records that a request was sent or ended.
    pub(crate) const fn on_activity(&mut self, now: u64) {
        if self.config.is_some() {
            self.active = Some(now);
        }
    }

    /// Begins a ramp for a request after idling. `busy` is true while others are in flight or
    /// queued.
    pub(crate) fn on_request(&mut self, now: u64, busy: bool) {
        let Some(config) = self.config else { return };
        let idle = self
            .active
            .is_none_or(|at| now.saturating_sub(at) >= nanos(config.after_idle));
        if idle && !busy && self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// Begins a ramp at the end of a pause.
    pub(crate) fn on_paused(&mut self, until: u64) {
        if self.config.is_some() {
            self.since = Some(self.since.unwrap_or(0).max(until));
        }
    }

    /// Returns the highest pace, as a multiple of the limit's rate, or `None` for any.
    pub(crate) fn rate(&mut self, now: u64) -> Option<f64> {
        let (config, since) = (self.config?, self.since?);
        let doublings = now.saturating_sub(since) as f64 / nanos(config.doubles_in).max(1) as f64;
        let rate = START * doublings.exp2();
        if rate >= 1.0 {
            self.since = None;
            return None;
        }
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn ramp() -> SlowStartRamp {
        SlowStartRamp::new(Some(SlowStart::new()))
    }

    #[test]
    fn ramp_reaches_the_limit_in_ten_seconds_after_a_minute_of_idling() {
        let mut ramp = ramp();
        ramp.on_activity(0);
        ramp.on_request(59 * S, false);
        assert_eq!(ramp.rate(59 * S), None);
        ramp.on_request(60 * S, true);
        assert_eq!(ramp.rate(60 * S), None, "busy");
        ramp.on_request(60 * S, false);
        assert_eq!(ramp.rate(60 * S), Some(0.25));
        ramp.on_request(65 * S, false);
        assert_eq!(ramp.rate(65 * S), Some(0.5));
        assert_eq!(ramp.rate(70 * S), None);
        assert_eq!(ramp.rate(60 * S), None, "over");
    }

    #[test]
    fn ramp_begins_again_at_the_end_of_a_pause() {
        let mut ramp = ramp();
        ramp.on_paused(30 * S);
        assert_eq!(ramp.rate(10 * S), Some(0.25));
        ramp.on_paused(20 * S);
        assert_eq!(
            ramp.rate(35 * S),
            Some(0.5),
            "a shorter pause changes nothing"
        );
    }

    #[test]
    fn unconfigured_ramp_never_begins() {
        let mut ramp = SlowStartRamp::new(None);
        ramp.on_request(0, false);
        ramp.on_paused(30 * S);
        assert_eq!(ramp.rate(30 * S), None);
    }
}
