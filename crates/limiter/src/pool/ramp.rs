//! Slow start after rest: the pace begins at a quarter of the limit's rate and doubles every 5 s.
//!
//! A server may refuse a sharp rise in use whatever its levels say, and a crowd that waited for the
//! same pause to end is one.

use super::pause::nanos;
use crate::SlowStart;

/// Where the pace begins, as a share of the limit's rate.
const START: f64 = 0.25;

/// The slow start, if it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Ramp {
    rise: Option<SlowStart>,
    /// When the present rise began or begins.
    since: Option<u64>,
    /// When something was last sent or ended.
    active: Option<u64>,
}

impl Ramp {
    pub(crate) const fn new(rise: Option<SlowStart>) -> Self {
        Self {
            rise,
            since: None,
            active: None,
        }
    }

    /// Something is sent, or ends.
    pub(crate) const fn active(&mut self, now: u64) {
        if self.rise.is_some() {
            self.active = Some(now);
        }
    }

    /// Somebody asks: begins a rise when nothing was sent for long. `busy` while something is in
    /// flight or waits.
    pub(crate) fn asked(&mut self, now: u64, busy: bool) {
        let Some(rise) = self.rise else { return };
        let rested = self
            .active
            .is_none_or(|at| now.saturating_sub(at) >= nanos(rise.after_idle));
        if rested && !busy && self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// A pause ends then.
    pub(crate) fn paused(&mut self, until: u64) {
        if self.rise.is_some() {
            self.since = Some(self.since.unwrap_or(0).max(until));
        }
    }

    /// The most that may be sent now, as a multiple of the limit's rate; `None` is any.
    pub(crate) fn pace(&mut self, now: u64) -> Option<f64> {
        let (rise, since) = (self.rise?, self.since?);
        let doublings = now.saturating_sub(since) as f64 / nanos(rise.doubles_in).max(1) as f64;
        let pace = START * doublings.exp2();
        if pace >= 1.0 {
            self.since = None;
            return None;
        }
        Some(pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn ramp() -> Ramp {
        Ramp::new(Some(SlowStart::new()))
    }

    #[test]
    fn rises_to_the_limit_in_ten_seconds_after_a_minutes_rest() {
        let mut ramp = ramp();
        ramp.active(0);
        ramp.asked(59 * S, false);
        assert_eq!(ramp.pace(59 * S), None);
        ramp.asked(60 * S, true);
        assert_eq!(ramp.pace(60 * S), None, "busy");
        ramp.asked(60 * S, false);
        assert_eq!(ramp.pace(60 * S), Some(0.25));
        ramp.asked(65 * S, false);
        assert_eq!(ramp.pace(65 * S), Some(0.5));
        assert_eq!(ramp.pace(70 * S), None);
        assert_eq!(ramp.pace(60 * S), None, "over");
    }

    #[test]
    fn rises_again_when_a_pause_ends() {
        let mut ramp = ramp();
        ramp.paused(30 * S);
        assert_eq!(ramp.pace(10 * S), Some(0.25));
        ramp.paused(20 * S);
        assert_eq!(
            ramp.pace(35 * S),
            Some(0.5),
            "a shorter pause changes nothing"
        );
    }

    #[test]
    fn is_off_unless_asked_for() {
        let mut ramp = Ramp::new(None);
        ramp.asked(0, false);
        ramp.paused(30 * S);
        assert_eq!(ramp.pace(30 * S), None);
    }
}
