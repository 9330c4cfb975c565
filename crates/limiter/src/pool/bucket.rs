//! Token buckets in exact integers, and the amounts that they count by dimension.

use std::time::Duration;

use tower_claude_core::Dimension;

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

/// A bucket that refills continuously up to its capacity. A level below zero is a debt.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    limit: u64,
    capacity: i128,
    level: i128,
    at: u64,
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
        }
    }

    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) const fn capacity(&self) -> i128 {
        self.capacity
    }

    pub(crate) const fn level(&self) -> i128 {
        self.level
    }

    /// Refills up to `now`. A clock that steps back refills nothing.
    pub(crate) fn refill(&mut self, now: u64) {
        if now > self.at {
            let gain = refill(self.limit, now - self.at);
            self.level = self.level.saturating_add(gain).min(self.capacity);
            self.at = now;
        }
    }

    /// Takes `tokens`, into debt if necessary.
    pub(crate) fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(units(tokens));
    }

    /// Returns `tokens` to the bucket, up to its capacity.
    pub(crate) fn give(&mut self, tokens: u64) {
        self.level = self.level.saturating_add(units(tokens)).min(self.capacity);
    }

    /// Changes the amount of a charge from `old` to `new`.
    pub(crate) fn recharge(&mut self, old: u64, new: u64) {
        if new > old {
            self.take(new - old);
        } else {
            self.give(old - new);
        }
    }

    /// Returns true if `tokens` fit whatever the safety margin is. Margins are below half of the
    /// capacity.
    pub(crate) fn has_plenty(&self, tokens: u64) -> bool {
        self.level >= (self.capacity >> 1) + units(tokens)
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
    }

    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
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
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the nearest whole number, halves away from zero, and 0 below zero.
pub(crate) fn rounded(x: f64) -> u64 {
    // A cast of a float truncates and saturates.
    let whole = x as u64;
    whole.saturating_add(u64::from(x - whole as f64 >= 0.5))
}

/// Returns the next whole number, and 0 below zero.
pub(crate) fn rounded_up(x: f64) -> u64 {
    let whole = x as u64;
    whole.saturating_add(u64::from(x > whole as f64))
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
