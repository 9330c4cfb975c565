//! The price law: how processes that know nothing of each other share a level.
//!
//! A bucket loses something only while it is full and refuses only while it is empty; in between every
//! level is as good as any other. So the level itself can be the price that all see: each process goes
//! at `f(z)` times the limit's rate, where `z` is how full the tightest bucket is. `N` of them settle
//! where `N f(z) = 1`, all at the same rate.

use super::{Pool, bucket::UNIT, lane::LANES};

/// How steep the price is.
const STEEPNESS: f64 = 10.0;

/// The level at which one process alone goes at the limit's rate.
const PAR: f64 = 0.6;

/// The same of a bucket that holds so little that a single big request takes most of it: the level must
/// be high for one to fit.
const HIGH_PAR: f64 = 0.85;
const LITTLE: f64 = 8e9;
const ENOUGH: f64 = 30e9;

const LEAST_PACE: f64 = 1.0 / 400.0;
const MOST_PACE: f64 = 4.0;

/// The most credit that can be saved up, in nanoseconds of the limit's rate.
const MOST_CREDIT: f64 = 250_000_000.0;

/// The same during a slow start: what the pause before it saved up would be the herd that it is to prevent.
const MOST_CREDIT_RISING: f64 = 10_000_000.0;

/// The pace changes with the level: look again no later, and no sooner than a timer can.
const LEAST_WAIT: f64 = 2_000_000.0;
const MOST_WAIT: f64 = 250_000_000.0;

/// Time constant of the mean pace, for estimates.
const MEAN_OVER: f64 = 30_000_000_000.0;

/// The share of the limit's rate at which a level (0 empty, 1 full) lets one process go.
fn price(level: f64, par: f64) -> f64 {
    (STEEPNESS * (level - par))
        .exp()
        .clamp(LEAST_PACE, MOST_PACE)
}

/// The par of a bucket that holds so many nanoseconds of refill: all who share it know the same.
fn par(holds: f64) -> f64 {
    let little = ((ENOUGH - holds) / (ENOUGH - LITTLE)).clamp(0.0, 1.0);
    PAR + (HIGH_PAR - PAR) * little
}

/// Credit in nanoseconds of the tightest limit's rate.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    on: bool,
    credit: f64,
    /// Times the limit's rate.
    rate: f64,
    mean: f64,
    at: u64,
}

impl Pace {
    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) const fn off(&mut self) {
        self.on = false;
    }

    /// Earns credit since the last time, at this share of the limit's rate, up to `most`.
    pub(crate) fn earn(&mut self, now: u64, rate: f64, most: f64) {
        if !self.on {
            *self = Self {
                on: true,
                credit: 0.0,
                rate,
                mean: rate.min(1.0),
                at: now,
            };
            return;
        }
        let passed = now.saturating_sub(self.at) as f64;
        self.at = now;
        self.rate = rate;
        self.credit = (self.credit + rate * passed).min(most);
        self.mean += (passed / MEAN_OVER).min(1.0) * (rate - self.mean);
    }

    pub(crate) fn spend(&mut self, work: f64) {
        self.credit -= work;
    }

    /// Nanoseconds until there is credit, as far as the pace stays what it is; zero when there is some
    /// or no pace to keep.
    pub(crate) fn wait(&self) -> u64 {
        if !self.on || self.credit > 0.0 {
            return 0;
        }
        (-self.credit / self.rate).clamp(LEAST_WAIT, MOST_WAIT) as u64
    }

    /// Nanoseconds until this much work is done at the mean pace; zero when there is no pace to keep.
    pub(crate) fn until_done(&self, work: f64) -> u64 {
        if !self.on {
            return 0;
        }
        ((work - self.credit) / self.mean.max(LEAST_PACE)).max(0.0) as u64
    }
}

impl Pool {
    /// Earns the credit of the time that has passed, where a pace is to be kept.
    pub(super) fn keep_pace(&mut self, now: u64) {
        let ramp = self.ramp.pace(now);
        let shared = self.drains.is_shared(self.config.sharing, now);
        if !shared && ramp.is_none() {
            self.pace.off();
            return;
        }
        let rate = if shared { self.price() } else { MOST_PACE };
        match ramp {
            Some(most) => self.pace.earn(now, rate.min(most), MOST_CREDIT_RISING),
            None => self.pace.earn(now, rate, MOST_CREDIT),
        }
    }

    /// The pace that the tightest level allows.
    fn price(&self) -> f64 {
        let guards = self.guards(0);
        let mut least = MOST_PACE;
        for (lane, guard) in self.lanes.iter().zip(guards) {
            let Some(bucket) = &lane.bucket else { continue };
            let room = (bucket.capacity() - guard).max(1) as f64;
            let level = (bucket.level() - guard) as f64 / room;
            let holds = bucket.capacity() as f64 / bucket.limit().max(1) as f64;
            least = least.min(price(level, par(holds)));
        }
        least
    }

    /// What a charge takes of the tightest limit, in nanoseconds of its rate, and no more than fits: a
    /// limit that only an odd header named must not run up a debt for ever.
    pub(super) fn work(&self, charge: &[u64; LANES]) -> f64 {
        let mut work = 0.0_f64;
        for (lane, charge) in self.lanes.iter().zip(charge) {
            if let Some(bucket) = &lane.bucket {
                let units = (*charge as f64 * UNIT as f64).min(bucket.capacity() as f64);
                work = work.max(units / bucket.limit().max(1) as f64);
            }
        }
        work
    }

    /// When there is credit, as far as is known now. Whatever the price, one goes after the longest
    /// pause and finds out.
    pub(super) fn credit_at(&self, now: u64) -> u64 {
        match self.pace.wait() {
            0 => 0,
            wait => (now.saturating_add(wait)).min(self.last_grant.saturating_add(self.max_pause)),
        }
    }

    /// How long a newcomer waits for credit behind this much work.
    pub(super) fn pace_wait(&self, ahead: &[u64; LANES]) -> u64 {
        if !self.pace.is_on() {
            return 0;
        }
        self.pace.until_done(self.work(ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn the_pace_is_the_limits_own_at_par_and_falls_e_times_each_tenth() {
        assert!((price(0.6, PAR) - 1.0).abs() < 1e-12);
        assert!((price(0.5, PAR) * std::f64::consts::E - 1.0).abs() < 1e-12);
        assert_eq!(price(1.0, PAR), 4.0);
        assert_eq!(price(-3.0, PAR), 1.0 / 400.0);
    }

    #[test]
    fn sixteen_are_at_a_sixteenth_at_a_third() {
        let level = PAR - 16_f64.ln() / STEEPNESS;
        assert!((price(level, PAR) * 16.0 - 1.0).abs() < 1e-9);
        assert!((level - 0.32).abs() < 0.01);
    }

    #[test]
    fn a_small_bucket_is_kept_fuller() {
        assert!((par(60e9) - PAR).abs() < 1e-12);
        assert!((par(19e9) - (PAR + HIGH_PAR) / 2.0).abs() < 1e-12);
        assert!((par(5e9) - HIGH_PAR).abs() < 1e-12);
        assert!(price(1.0, HIGH_PAR) > 1.0, "one alone still gets all of it");
    }

    #[test]
    fn credit_is_saved_for_a_quarter_second_and_may_be_overdrawn() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait(), 0, "no pace to keep");
        pace.earn(0, 1.0, MOST_CREDIT);
        assert_eq!(pace.wait(), 2_000_000, "nothing yet");
        pace.earn(10 * S, 1.0, MOST_CREDIT);
        pace.spend(0.2 * S as f64);
        assert_eq!(pace.wait(), 0);
        pace.spend(0.15 * S as f64);
        assert_eq!(pace.wait(), 100_000_000);
        pace.spend(9.0 * S as f64);
        assert_eq!(
            pace.wait(),
            250_000_000,
            "looks again, since the price moves"
        );
        pace.earn(19 * S + S / 10, 1.0, MOST_CREDIT);
        assert_eq!(pace.wait(), 2_000_000);
        pace.earn(19 * S + S / 10 + 1, 1.0, MOST_CREDIT);
        assert_eq!(pace.wait(), 0);
    }

    #[test]
    fn estimates_go_by_the_mean_pace() {
        let mut pace = Pace::default();
        assert_eq!(pace.until_done(S as f64), 0);
        pace.earn(0, 0.25, MOST_CREDIT);
        assert_eq!(pace.until_done(S as f64), 4 * S);
    }
}
