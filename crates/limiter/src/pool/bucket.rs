//! Token buckets in exact integers, and the amounts that they count by dimension.
//!
//! A charge is an estimate, and its correction arrives later. The corrected level must be what it
//! would be if the actual amount had been charged from the start. A bucket that was full in the
//! meantime would have been full with the smaller charge as well, so a refund of `x` raises the
//! level by the least of `x` and the room below the capacity, at every time since the charge. The
//! highest levels since each charge are kept for this.

use std::{cmp::Reverse, time::Duration};

use tower_claude_core::Dimension;

use crate::pool::usage_cap::MAX_DEBT;

/// The counted dimensions, in the order of their indices.
pub(crate) const DIMENSIONS: [Dimension; 4] = [
    Dimension::Requests,
    Dimension::InputTokens,
    Dimension::OutputTokens,
    Dimension::TotalTokens,
];

pub(crate) const REQUESTS: usize = 0;
pub(crate) const INPUT: usize = 1;
pub(crate) const OUTPUT: usize = 2;
pub(crate) const TOTAL: usize = 3;

/// Amounts by dimension.
pub(crate) type Charge = [u64; DIMENSIONS.len()];

/// The charge of nothing.
pub(crate) const NO_CHARGE: Charge = [0; DIMENSIONS.len()];

/// Units held back by dimension, because the server's level is not known exactly.
pub(crate) type Margins = [i128; DIMENSIONS.len()];

/// Units of one token: the nanoseconds of a minute. A limit of `L` per minute then refills exactly
/// `L` units each nanosecond, for every `L`.
pub(crate) const UNIT: i128 = 60_000_000_000;

/// The upper bound of one request's charge: far over any limit, far under overflow.
pub(crate) const MAX_CHARGE: u64 = 1 << 40;

/// The most peaks of a bucket. Over it, the two with the least difference are merged.
const MAX_PEAKS: usize = 128;

/// The highest level since a charge, and since all earlier charges after the previous peak.
#[derive(Clone, Copy, Debug)]
struct Peak {
    charge: u64,
    level: i128,
}

/// The highest levels since each charge. Numbers ascend, and levels descend. Empty if no charge may
/// change any more.
#[derive(Clone, Debug, Default)]
struct PeakList(Vec<Peak>);

impl PeakList {
    /// Records a level after the last charge.
    #[inline]
    fn record(&mut self, charge: u64, level: i128) {
        match self.0.last_mut() {
            Some(last) if last.level <= level => {
                last.charge = charge;
                self.raise(level);
            }
            Some(last) if last.charge >= charge => {}
            _ => {
                self.0.push(Peak { charge, level });
                self.merge();
            }
        }
    }

    /// Raises the last peak to this level.
    #[inline]
    fn raise(&mut self, level: i128) {
        if let Some(last) = self.0.last_mut()
            && last.level < level
        {
            last.level = level;
            if self.0.len() > 1 {
                self.forget_lower(level);
            }
        }
    }

    /// Forgets the peaks before the last one that are no higher than this level.
    fn forget_lower(&mut self, level: i128) {
        let last = self.0.len() - 1;
        let higher = self.0[..last].partition_point(|earlier| earlier.level > level);
        self.0.drain(higher..last);
    }

    /// Returns the position of the first peak since this charge.
    fn position(&self, charge: u64) -> usize {
        self.0.partition_point(|peak| peak.charge < charge)
    }

    /// Returns the highest level since this charge.
    fn since(&self, charge: u64) -> Option<i128> {
        self.0.get(self.position(charge)).map(|peak| peak.level)
    }

    /// Changes the levels since this charge. With `keeps_earlier`, earlier charges keep the peak
    /// that a larger charge lowers, since it may have been before it.
    fn change(&mut self, charge: u64, change: i128, keeps_earlier: bool) {
        let first = self.position(charge);
        let Some(&Peak { level, .. }) = self.0.get(first) else {
            return;
        };
        let mut since = first;
        if change < 0 && keeps_earlier {
            let charge = charge.saturating_sub(1);
            self.0.insert(first, Peak { charge, level });
            since += 1;
        }
        for peak in &mut self.0[since..] {
            peak.level = peak.level.saturating_add(change);
        }
        let earlier = &self.0[..first];
        let higher =
            earlier.partition_point(|earlier| earlier.level > level.saturating_add(change));
        self.0.drain(higher..first);
        self.merge();
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    #[inline]
    fn merge(&mut self) {
        if self.0.len() > MAX_PEAKS {
            self.merge_nearest();
        }
    }

    #[cold]
    fn merge_nearest(&mut self) {
        // The later of equal differences is merged, because its peak is farther from the capacity.
        let difference = |index: &usize| self.0[*index].level - self.0[*index + 1].level;
        let pairs = 0..self.0.len() - 1;
        if let Some(index) = pairs.min_by_key(|index| (difference(index), Reverse(*index))) {
            let later = self.0.remove(index + 1);
            self.0[index].charge = later.charge;
        }
    }
}

/// A bucket that refills continuously up to its capacity. A level below zero is a debt.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    limit: u64,
    capacity: i128,
    level: i128,
    at: u64,
    /// The number of the last charge.
    charge: u64,
    /// The highest levels since each charge.
    peaks: PeakList,
    /// The highest levels that the server has allowed, less the refunds that it allows.
    bounds: PeakList,
}

impl Bucket {
    /// Returns a full bucket of `limit` per minute that holds `burst` nanoseconds of refill, and
    /// at least one token.
    pub(crate) fn full(limit: u64, burst: u64, now: u64) -> Self {
        let capacity = refill(limit, burst).max(UNIT);
        Self {
            limit,
            capacity,
            level: capacity,
            at: now,
            charge: 0,
            peaks: PeakList::default(),
            bounds: PeakList::default(),
        }
    }

    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) const fn capacity(&self) -> i128 {
        self.capacity
    }

    /// Returns the tokens that take the full bucket as deep into debt as usage may.
    pub(crate) fn most_charged(&self) -> u64 {
        u64::try_from((self.capacity - self.floor()) / UNIT).unwrap_or(u64::MAX)
    }

    pub(crate) const fn level(&self) -> i128 {
        self.level
    }

    /// Returns the level at `now`. A clock that steps back refills nothing.
    pub(crate) fn level_at(&self, now: u64) -> i128 {
        let gain = refill(self.limit, now.saturating_sub(self.at));
        self.level.saturating_add(gain).min(self.capacity)
    }

    /// Refills up to `now`.
    #[inline]
    pub(crate) fn refill(&mut self, now: u64) {
        if now <= self.at {
            return;
        }
        // A full bucket stays full, and that level has been recorded.
        if self.level < self.capacity {
            self.level = self.level_at(now);
            self.peaks.raise(self.level);
        }
        self.at = now;
    }

    /// Takes `tokens` for the charge of this number, into debt if necessary. Numbers ascend from 1.
    #[inline]
    pub(crate) fn take(&mut self, charge: u64, tokens: u64) {
        self.level = self.level.saturating_sub(units(tokens));
        self.charge = charge;
        self.peaks.record(self.charge, self.level);
    }

    /// Takes `tokens` for the charge of this number, which the server counts within `transit`, or
    /// twice that if it is late. Until then its bucket stays full, if it is, and refills nothing.
    /// Only a charge of most of the bucket has no other room for a late one. The first of several
    /// is counted sooner.
    pub(crate) fn take_late(&mut self, charge: u64, tokens: u64, now: u64, transit: u64) {
        if self.level >= self.capacity {
            let is_most = units(tokens) > self.capacity >> 1;
            let held = if is_most { 2 * transit } else { transit };
            self.hold(now.saturating_add(held));
        } else if self.at <= now.saturating_add(transit) {
            self.at = self.at.min(now.saturating_add(transit / 2));
        }
        self.take(charge, tokens);
    }

    /// Refills nothing until `at`.
    pub(crate) fn hold(&mut self, at: u64) {
        self.at = self.at.max(at);
    }

    /// Changes the amount of the charge of this number from `old` to `new`. An increase is taken
    /// in full, and a decrease is given back as far as there was always room for it.
    pub(crate) fn recharge(&mut self, charge: u64, old: u64, new: u64) {
        if old == new {
            return;
        }
        let peak = self.peaks.since(charge).unwrap_or(self.level);
        let peak = self
            .bounds
            .since(charge)
            .map_or(peak, |bound| bound.max(peak));
        let room = (self.capacity - peak).max(0);
        let change = (units(old) - units(new)).min(room);
        self.level = self.level.saturating_add(change);
        self.peaks.change(charge, change, true);
        self.bounds.change(charge, change, false);
    }

    /// Forgets what only the charges so far need. None of them may change any more.
    #[inline]
    pub(crate) fn forget_charges(&mut self) {
        self.peaks.clear();
        self.bounds.clear();
    }

    /// Corrects a charge by the usage that the server has reported. An increase takes the level at
    /// most [`MAX_DEBT`] of refill below zero.
    pub(crate) fn correct(&mut self, charge: u64, old: u64, new: u64) {
        let before = self.level;
        self.recharge(charge, old, new);
        if new > old {
            self.clamp(self.floor().min(before), i128::MAX);
        }
    }

    /// Returns the lowest level that usage and headers cause.
    pub(crate) fn floor(&self) -> i128 {
        -refill(self.limit, MAX_DEBT)
    }

    /// Returns true if `tokens` fit whatever the safety margin is. Margins are below half of the
    /// capacity.
    pub(crate) fn has_plenty(&self, tokens: u64) -> bool {
        self.level >= (self.capacity >> 1) + units(tokens)
    }

    /// Returns true if `tokens` are within the limit, and fit whatever the safety margin is.
    #[inline]
    pub(crate) fn fits(&self, tokens: u64) -> bool {
        tokens <= self.limit && self.has_plenty(tokens)
    }

    /// Returns the nanoseconds until the level is `need` units, rounded up.
    pub(crate) fn wait(&self, need: i128) -> u64 {
        let missing = need.saturating_sub(self.level);
        if missing <= 0 {
            return 0;
        }
        let limit = i128::from(self.limit.max(1));
        let wait = missing / limit + i128::from(missing % limit != 0);
        u64::try_from(wait).unwrap_or(u64::MAX)
    }

    /// Returns the nanoseconds from `now` until the bucket is full.
    pub(crate) fn full_in(&self, now: u64) -> u64 {
        let passed = now.saturating_sub(self.at);
        self.wait(self.capacity).saturating_sub(passed)
    }

    /// Bounds the level. The upper bound wins if the bounds contradict each other.
    pub(crate) fn clamp(&mut self, low: i128, high: i128) {
        self.level = self.level.max(low).min(high).min(self.capacity);
        self.peaks.raise(self.level);
    }

    /// Bounds the level by one that the server has shown. With all charges as they are in truth,
    /// the level is at most `high` as well, so earlier charges give back no more than that.
    pub(crate) fn bound(&mut self, low: i128, high: i128) {
        self.clamp(low, high);
        let room = high.min(self.capacity).saturating_sub(self.level);
        self.bounds.record(self.charge, self.capacity - room);
    }

    /// Sets the limit per minute. A debt is not longer than before at any limit.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        self.level = self.level.max(self.floor());
    }

    pub(crate) fn set_capacity(&mut self, capacity: i128) {
        self.capacity = capacity.max(UNIT);
        self.level = self.level.min(self.capacity);
    }
}

/// Returns the units that `limit` per minute refills in this time.
pub(crate) fn refill(limit: u64, nanos: u64) -> i128 {
    // The product of two `u64` fits a `u128`, and only absurd ones do not fit an `i128`.
    i128::try_from(u128::from(limit) * u128::from(nanos)).unwrap_or(i128::MAX)
}

/// Returns the units of this many tokens.
pub(crate) fn units(tokens: u64) -> i128 {
    i128::from(tokens) * UNIT
}

/// Returns whole tokens, rounded down.
pub(crate) fn tokens(units: i128) -> i64 {
    let tokens = units.div_euclid(UNIT);
    i64::try_from(tokens).unwrap_or(if tokens < 0 { i64::MIN } else { i64::MAX })
}

/// Returns the duration in nanoseconds, at most `u64::MAX` (584 years).
pub(crate) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().checked_mul(1_000_000_000);
    let nanos = seconds.and_then(|nanos| nanos.checked_add(duration.subsec_nanos().into()));
    nanos.unwrap_or(u64::MAX)
}

/// Returns the nearest whole number, halves away from zero, and 0 below zero.
pub(crate) fn rounded(x: f64) -> u64 {
    // A cast of a float truncates and saturates. One to a signed integer takes half the time.
    let whole = x as i64;
    if whole == i64::MAX {
        return x as u64;
    }
    let nearest = whole + i64::from(x - whole as f64 >= 0.5);
    nearest.max(0).unsigned_abs()
}

/// Returns the next whole number, and 0 below zero.
pub(crate) fn rounded_up(x: f64) -> u64 {
    let whole = x as i64;
    if whole == i64::MAX {
        return x as u64;
    }
    let next = whole + i64::from(x > whole as f64);
    next.max(0).unsigned_abs()
}

/// Returns the integer as a float. Most 128-bit integers fit 64 bits.
pub(crate) fn float(x: i128) -> f64 {
    match i64::try_from(x) {
        Ok(x) => x as f64,
        Err(_) => wide_float(x),
    }
}

// Out of line, or the compiler calls the conversion unconditionally to save a jump.
#[cold]
#[inline(never)]
fn wide_float(x: i128) -> f64 {
    x as f64
}

/// Returns the whole part, saturating.
pub(crate) fn whole(x: f64) -> i128 {
    if x.abs() < (1_u64 << 63) as f64 {
        return i128::from(x as i64);
    }
    x as i128
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: i128 = 1_000 * UNIT;

    struct Charged {
        at: u64,
        tokens: u64,
        actual: u64,
        open: bool,
    }

    /// Returns the level of a bucket that took these amounts from the start.
    fn replayed(charges: &[Charged], now: u64) -> i128 {
        let (mut level, mut at) = (CAPACITY, 0);
        for charge in charges {
            level = CAPACITY.min(level + refill(1_000, charge.at - at)) - units(charge.tokens);
            at = charge.at;
        }
        CAPACITY.min(level + refill(1_000, now - at))
    }

    /// Charges estimates at random times and corrects them in random order. `check` gets the level
    /// and that of the replay after each step.
    fn correct(
        seed: u64,
        most_open: usize,
        actual: impl Fn(&mut fastrand::Rng, u64) -> u64,
        check: impl Fn(i128, i128),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bucket = Bucket::full(1_000, 60_000_000_000, 0);
        let mut charges: Vec<Charged> = Vec::new();
        let most = if rng.bool() {
            300
        } else {
            4_000 / most_open as u64
        };
        let mut now = 0;
        for _ in 0..600 {
            if rng.bool() {
                now += rng.u64(0..6_000_000_000);
                bucket.refill(now);
            }
            let open = charges.iter().filter(|charge| charge.open).count();
            if open < most_open && rng.u8(0..3) > 0 {
                let tokens = rng.u64(0..=most);
                bucket.take(charges.len() as u64 + 1, tokens);
                charges.push(Charged {
                    at: now,
                    tokens,
                    actual: actual(&mut rng, tokens),
                    open: true,
                });
            } else if open > 0 {
                let open = (1..).zip(&mut charges).filter(|(_, charge)| charge.open);
                let (number, charge) = rng.choice(open.collect::<Vec<_>>()).expect("open");
                bucket.recharge(number, charge.tokens, charge.actual);
                (charge.tokens, charge.open) = (charge.actual, false);
            }
            assert!(bucket.peaks.0.len() <= MAX_PEAKS);
            check(bucket.level(), replayed(&charges, now));
        }
    }

    #[test]
    fn larger_charge_widens_the_room_of_earlier_ones_below_a_shown_level() {
        let mut bucket = Bucket::full(60, 60_000_000_000, 0);
        bucket.take(1, 30);
        bucket.take(2, 10);
        bucket.bound(i128::MIN, 25 * UNIT);
        bucket.recharge(2, 10, 20);
        bucket.recharge(1, 30, 15);
        assert_eq!(bucket.level(), 25 * UNIT);
        // The room is used up, for earlier charges too.
        bucket.recharge(1, 15, 0);
        bucket.recharge(2, 20, 0);
        assert_eq!(bucket.level(), 25 * UNIT);
        // A later charge has room of its own.
        bucket.take(3, 10);
        bucket.recharge(3, 10, 0);
        assert_eq!(bucket.level(), 25 * UNIT);
    }

    #[test]
    fn corrected_level_equals_that_of_actual_charges_from_the_start() {
        for seed in 0..40 {
            let less = |rng: &mut fastrand::Rng, tokens| rng.u64(0..=tokens);
            correct(seed, 60, less, |level, replayed| {
                assert_eq!(level, replayed, "{seed}");
            });
        }
    }

    #[test]
    fn level_corrected_upwards_is_at_most_that_of_actual_charges() {
        for seed in 0..40 {
            let any = |rng: &mut fastrand::Rng, tokens| rng.u64(0..=tokens * 2);
            correct(seed, 60, any, |level, replayed| {
                assert!(level <= replayed, "{seed}");
            });
        }
    }

    #[test]
    fn level_with_more_open_charges_than_peaks_is_little_below_that_of_actual_charges() {
        for seed in 0..40 {
            let less = |rng: &mut fastrand::Rng, tokens| rng.u64(0..=tokens);
            correct(seed, 400, less, |level, replayed| {
                assert!(level <= replayed, "{seed}");
                assert!(level >= replayed - CAPACITY / 16, "{seed}");
            });
        }
    }

    #[test]
    fn refund_after_a_refill_is_lost_as_the_refill_would_have_been() {
        let mut bucket = Bucket::full(1_000, 60_000_000_000, 0);
        bucket.take(1, 800);
        bucket.refill(48_000_000_000);
        assert_eq!(bucket.level(), CAPACITY);
        bucket.take(2, 500);
        bucket.recharge(1, 800, 10);
        assert_eq!(bucket.level(), CAPACITY / 2);
        bucket.recharge(2, 500, 10);
        assert_eq!(bucket.level(), units(990));
    }

    #[test]
    fn refund_after_a_shown_level_is_at_most_the_shown_level() {
        let mut bucket = Bucket::full(1_000, 60_000_000_000, 0);
        bucket.take(1, 800);
        bucket.bound(i128::MIN, units(300));
        bucket.recharge(1, 800, 10);
        assert_eq!(bucket.level(), units(300));
    }

    #[test]
    fn conversions_equal_those_of_the_standard_library() {
        let mut floats = vec![0.0, -0.0, 0.49999999999999994, f64::MIN_POSITIVE, f64::NAN];
        for bits in 0..128 {
            let power = 2_f64.powi(bits);
            floats.extend([power, power.next_up(), power.next_down(), power + 0.5]);
            floats.extend([power / 3.0, power + 1.5, 1.0 / power]);
        }
        floats.extend([f64::MAX, f64::INFINITY]);
        for x in floats.into_iter().flat_map(|x| [x, -x]) {
            assert_eq!(rounded(x), x.round() as u64, "{x:?}");
            assert_eq!(rounded_up(x), x.ceil() as u64, "{x:?}");
            assert_eq!(whole(x), x as i128, "{x:?}");
            let wide = x as i128;
            assert_eq!(float(wide), wide as f64, "{x:?}");
        }
    }
}
