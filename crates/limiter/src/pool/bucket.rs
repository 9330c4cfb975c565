//! A token bucket in exact integers.

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
