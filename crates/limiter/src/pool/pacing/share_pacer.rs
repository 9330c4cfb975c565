//! The share pacer: processes that do not communicate share a level fairly.
//!
//! Tokens are wasted only when the bucket is full, and requests are rejected only when it is empty.
//! In between, the level can be used as a shared signal: each process sends at `f(z)` times the
//! limit's rate, where `z` is the fill of the tightest bucket. `N` processes settle where `N f(z) =
//! 1`, all at the same rate.

use crate::pool::{
    bucket::UNIT,
    buckets::Buckets,
    dimension::{Charge, Margins},
};

/// The steepness of the rate over the level.
const STEEPNESS: f64 = 10.0;

/// The level at which one process alone sends at the limit's rate.
const TARGET_LEVEL: f64 = 0.6;

/// The target level of a bucket so small that a single large request takes most of it. The level
/// must be high for such a request to fit.
const HIGH_TARGET_LEVEL: f64 = 0.85;

/// The capacities, in nanoseconds of refill, between which the target level falls.
const SMALL: f64 = 8e9;
const LARGE: f64 = 30e9;

const MIN_RATE: f64 = 1.0 / 400.0;

/// The highest rate of a process, as a multiple of the limit's rate.
pub(crate) const MAX_RATE: f64 = 4.0;

/// The shortest and the longest wait until the next check, since the rate changes with the level.
const MIN_WAIT: f64 = 2_000_000.0;
const MAX_WAIT: f64 = 250_000_000.0;

/// The time constant of the mean rate, for estimates.
const MEAN_OVER: f64 = 30_000_000_000.0;

/// Returns the rate of one process at a level from 0 (empty) to 1 (full).
fn rate_at(level: f64, target: f64) -> f64 {
    (STEEPNESS * (level - target))
        .exp()
        .clamp(MIN_RATE, MAX_RATE)
}

/// Returns the target level of a bucket that holds this many nanoseconds of refill. All processes
/// compute the same.
fn target_level(capacity: f64) -> f64 {
    let smallness = ((LARGE - capacity) / (LARGE - SMALL)).clamp(0.0, 1.0);
    TARGET_LEVEL + (HIGH_TARGET_LEVEL - TARGET_LEVEL) * smallness
}

/// Returns the rate that the tightest level allows, as a multiple of the limit's rate.
pub(crate) fn shared_rate(buckets: &Buckets, margins: &Margins) -> f64 {
    let rates = buckets.known().map(|(index, bucket)| {
        let margin = margins[index];
        let room = (bucket.capacity() - margin).max(1) as f64;
        let level = (bucket.level() - margin) as f64 / room;
        let capacity = bucket.capacity() as f64 / bucket.limit().max(1) as f64;
        rate_at(level, target_level(capacity))
    });
    rates.fold(MAX_RATE, f64::min)
}

/// Returns the time that a charge takes of the tightest rate, in nanoseconds. A charge counts as at
/// most the capacity, so that a limit that only an odd header named causes no endless debt.
pub(crate) fn work(buckets: &Buckets, charge: &Charge) -> f64 {
    let work = buckets.known().map(|(index, bucket)| {
        let units = (charge[index] as f64 * UNIT as f64).min(bucket.capacity() as f64);
        units / bucket.limit().max(1) as f64
    });
    work.fold(0.0, f64::max)
}

/// A pacer with credit in nanoseconds of the tightest limit's rate.
#[derive(Debug, Default)]
pub(crate) struct SharePacer {
    on: bool,
    credit: f64,
    /// A multiple of the limit's rate.
    rate: f64,
    mean: f64,
    at: u64,
}

impl SharePacer {
    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) const fn off(&mut self) {
        self.on = false;
    }

    /// Earns credit since the last call at this rate, up to `max`.
    pub(crate) fn earn(&mut self, now: u64, rate: f64, max: f64) {
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
        self.credit = (self.credit + rate * passed).min(max);
        self.mean += (passed / MEAN_OVER).min(1.0) * (rate - self.mean);
    }

    pub(crate) fn spend(&mut self, work: f64) {
        self.credit -= work;
    }

    /// Returns the nanoseconds until there is credit at the current rate, or 0 without pacing.
    pub(crate) fn wait(&self) -> u64 {
        if !self.on || self.credit > 0.0 {
            return 0;
        }
        (-self.credit / self.rate).clamp(MIN_WAIT, MAX_WAIT) as u64
    }

    /// Returns the nanoseconds until this much work is done at the mean rate.
    pub(crate) fn until_done(&self, work: f64) -> u64 {
        ((work - self.credit) / self.mean.max(MIN_RATE)).max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::pacing::MAX_CREDIT;

    const S: u64 = 1_000_000_000;

    #[test]
    fn rate_is_the_limits_at_the_target_level_and_falls_by_e_each_tenth() {
        assert!((rate_at(0.6, TARGET_LEVEL) - 1.0).abs() < 1e-12);
        assert!((rate_at(0.5, TARGET_LEVEL) * std::f64::consts::E - 1.0).abs() < 1e-12);
        assert_eq!(rate_at(1.0, TARGET_LEVEL), 4.0);
        assert_eq!(rate_at(-3.0, TARGET_LEVEL), 1.0 / 400.0);
    }

    #[test]
    fn sixteen_processes_settle_at_a_sixteenth_at_a_third_of_the_level() {
        let level = TARGET_LEVEL - 16_f64.ln() / STEEPNESS;
        assert!((rate_at(level, TARGET_LEVEL) * 16.0 - 1.0).abs() < 1e-9);
        assert!((level - 0.32).abs() < 0.01);
    }

    #[test]
    fn small_bucket_has_a_higher_target_level() {
        assert!((target_level(60e9) - TARGET_LEVEL).abs() < 1e-12);
        assert!((target_level(19e9) - (TARGET_LEVEL + HIGH_TARGET_LEVEL) / 2.0).abs() < 1e-12);
        assert!((target_level(5e9) - HIGH_TARGET_LEVEL).abs() < 1e-12);
        assert!(
            rate_at(1.0, HIGH_TARGET_LEVEL) > 1.0,
            "a single process still gets all of it"
        );
    }

    #[test]
    fn credit_is_limited_to_a_quarter_second_and_may_be_overdrawn() {
        let mut pacer = SharePacer::default();
        assert_eq!(pacer.wait(), 0, "no pacing");
        pacer.earn(0, 1.0, MAX_CREDIT);
        assert_eq!(pacer.wait(), 2_000_000, "nothing yet");
        pacer.earn(10 * S, 1.0, MAX_CREDIT);
        pacer.spend(0.2 * S as f64);
        assert_eq!(pacer.wait(), 0);
        pacer.spend(0.15 * S as f64);
        assert_eq!(pacer.wait(), 100_000_000);
        pacer.spend(9.0 * S as f64);
        assert_eq!(
            pacer.wait(),
            250_000_000,
            "checked again, since the rate changes"
        );
        pacer.earn(19 * S + S / 10, 1.0, MAX_CREDIT);
        assert_eq!(pacer.wait(), 2_000_000);
        pacer.earn(19 * S + S / 10 + 1, 1.0, MAX_CREDIT);
        assert_eq!(pacer.wait(), 0);
    }

    #[test]
    fn work_is_estimated_at_the_mean_rate() {
        let mut pacer = SharePacer::default();
        pacer.earn(0, 0.25, MAX_CREDIT);
        assert_eq!(pacer.until_done(S as f64), 4 * S);
    }
}
