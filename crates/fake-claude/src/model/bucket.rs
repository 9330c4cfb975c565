//! A token bucket with exact integers.

use std::time::Duration;

/// Units per token. With this unit, a limit of `L` per minute refills exactly `L` units each
/// nanosecond.
const UNITS: i128 = 60_000_000_000;

/// Reported wait of a request that can never be admitted.
const NEVER_NS: u64 = 60_000_000_000;

/// A bucket that is refilled continuously up to its capacity. A correction or output can take more
/// than the level. The level is then negative, and no request is admitted before that debt is
/// refilled.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    limit: u64,
    capacity: i128,
    level: i128,
    at: u64,
}

impl Bucket {
    /// Creates a full bucket of `limit` tokens per minute with a capacity of `burst` times the
    /// refill rate, but at least one token.
    pub(crate) fn new(limit: u64, burst: Duration, now: u64) -> Self {
        let burst = i128::try_from(burst.as_nanos()).unwrap_or(i128::MAX);
        let floor = if limit == 0 { 0 } else { UNITS };
        let capacity = i128::from(limit).saturating_mul(burst).max(floor);
        Self {
            limit,
            capacity,
            level: capacity,
            at: now,
        }
    }

    /// Refills the bucket up to `now`. An earlier `now` than before changes nothing.
    pub(crate) fn refill(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let gain = i128::from(self.limit).saturating_mul(i128::from(elapsed));
        self.level = self.level.saturating_add(gain).min(self.capacity);
    }

    /// Returns the nanoseconds until `tokens` can be admitted. 0 is now.
    ///
    /// A request above the capacity but within the limit of one minute is admitted when the bucket
    /// is full, and leaves a debt. A larger request is never admitted.
    pub(crate) fn wait(&self, tokens: u64) -> u64 {
        let cost = units(tokens);
        if self.limit == 0 || cost > self.capacity.max(units(self.limit)) {
            return NEVER_NS;
        }
        self.time_to(cost.min(self.capacity))
    }

    /// Takes `tokens`. The level may become negative.
    pub(crate) fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(units(tokens));
    }

    /// Returns `tokens` to the bucket, up to its capacity.
    pub(crate) fn give(&mut self, tokens: u64) {
        self.level = self.level.saturating_add(units(tokens)).min(self.capacity);
    }

    /// Returns the tokens in the bucket, rounded down. Negative in debt.
    pub(crate) fn level(&self) -> i64 {
        let tokens = self.level.div_euclid(UNITS);
        i64::try_from(tokens).unwrap_or(if tokens < 0 { i64::MIN } else { i64::MAX })
    }

    /// Returns the capacity in tokens.
    pub(crate) fn capacity(&self) -> u64 {
        u64::try_from(self.capacity / UNITS).unwrap_or(u64::MAX)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the nanoseconds until the bucket is full.
    pub(crate) fn full_in(&self) -> u64 {
        if self.limit == 0 {
            0
        } else {
            self.time_to(self.capacity)
        }
    }

    /// Returns the nanoseconds until the level is `target` units, rounded up.
    fn time_to(&self, target: i128) -> u64 {
        let missing = target.saturating_sub(self.level).max(0);
        let limit = i128::from(self.limit);
        let wait = missing / limit + i128::from(missing % limit != 0);
        u64::try_from(wait).unwrap_or(u64::MAX)
    }
}

fn units(tokens: u64) -> i128 {
    i128::from(tokens) * UNITS
}
