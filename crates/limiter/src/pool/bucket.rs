//! One bucket in exact integers.

/// Nanoseconds of a minute, and so the units of one token: a limit of `L` per minute then refills
/// exactly `L` units each nanosecond, for every `L`.
pub(crate) const UNIT: i128 = 60_000_000_000;

/// The most that one request is taken to cost: far over any limit, far under overflow.
pub(crate) const MAX_CHARGE: u64 = 1 << 40;

/// Refilled continuously up to its capacity; below zero in debt, which is repaid first.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    limit: u64,
    capacity: i128,
    level: i128,
    at: u64,
}

impl Bucket {
    /// A full bucket of `limit` per minute that holds `burst` nanoseconds of refill, and at least one.
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

    /// Brings the level up to `now`. A clock that steps back refills nothing.
    pub(crate) fn refill(&mut self, now: u64) {
        if now > self.at {
            let gain = refill(self.limit, now - self.at);
            self.level = self.level.saturating_add(gain).min(self.capacity);
            self.at = now;
        }
    }

    /// Takes `tokens`, into debt if need be.
    pub(crate) fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(units(tokens));
    }

    /// Gives `tokens` back; what does not fit is lost.
    pub(crate) fn give(&mut self, tokens: u64) {
        self.level = self.level.saturating_add(units(tokens)).min(self.capacity);
    }

    /// Whether so much can be taken whatever is held back, which is never half of what fits.
    pub(crate) fn has_plenty(&self, tokens: u64) -> bool {
        self.level >= (self.capacity >> 1) + units(tokens)
    }

    /// Nanoseconds until the level is `need` units, rounded up so that waiting them is enough.
    pub(crate) fn wait(&self, need: i128) -> u64 {
        let missing = need.saturating_sub(self.level);
        if missing <= 0 {
            return 0;
        }
        let limit = i128::from(self.limit.max(1));
        let wait = missing / limit + i128::from(missing % limit != 0);
        u64::try_from(wait).unwrap_or(u64::MAX)
    }

    /// Nanoseconds from `now` until it is full.
    pub(crate) fn whole_in(&self, now: u64) -> u64 {
        let passed = now.saturating_sub(self.at);
        self.wait(self.capacity).saturating_sub(passed)
    }

    /// Bounds the level; where the bounds contradict each other the upper one stands.
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

/// What `limit` per minute refills in this time.
pub(crate) fn refill(limit: u64, nanos: u64) -> i128 {
    // The product of two `u64` fits a `u128`, and only absurd ones do not fit an `i128`.
    i128::try_from(u128::from(limit) * u128::from(nanos)).unwrap_or(i128::MAX)
}

pub(crate) fn units(tokens: u64) -> i128 {
    i128::from(tokens) * UNIT
}

/// Whole tokens, rounded down.
pub(crate) fn tokens(units: i128) -> i64 {
    let tokens = units.div_euclid(UNIT);
    i64::try_from(tokens).unwrap_or(if tokens < 0 { i64::MIN } else { i64::MAX })
}
