//! The detection of external use: decreases of the server's levels that this pool's own use does
//! not explain.

use crate::{
    config::Sharing,
    pool::{
        bucket::{DIMENSIONS, INPUT, OUTPUT, REQUESTS, TOTAL, UNIT, float, units},
        buckets::DimensionState,
        forecast::{Forecast, SIGMAS},
        in_flight::SendSnapshot,
    },
};

const SECOND: u64 = 1_000_000_000;

/// The time within which a second sign confirms the first, and the time constant of unexplained
/// use.
const CONFIRMED_WITHIN: u64 = 10 * SECOND;

/// The time for which limits are taken to be shared after the last sign.
const SHARED_FOR: u64 = 600 * SECOND;

/// The time for which a capacity that proved too high is bounded.
const CEILING_FOR: u64 = 600 * SECOND;

/// Signs that other processes use the same limits.
#[derive(Debug)]
pub(crate) struct ExternalUse {
    sharing: Sharing,
    shared_until: u64,
    first_sign: Option<u64>,
    unexplained: [UnexplainedUse; DIMENSIONS.len()],
}

/// The unexplained use of one level: decreases by headers minus increases, decaying. A wrong
/// estimate causes a decrease and an increase, while external use only causes decreases.
#[derive(Debug)]
struct UnexplainedUse {
    /// In units.
    net: f64,
    at: u64,
    /// The time since which limit and capacity have been the same, and the capacity then.
    known_since: u64,
    known_capacity: i128,
    /// A bound of the capacity, with the time at which it was found.
    ceiling: Option<(i128, u64)>,
}

/// A change of a level by a header.
#[derive(Debug)]
pub(crate) struct LevelChange<'a> {
    pub(crate) index: usize,
    pub(crate) sent: &'a SendSnapshot,
    /// Limit and capacity before the header, if they were known.
    pub(crate) known: Option<(u64, i128)>,
    pub(crate) level_before: i128,
}

impl ExternalUse {
    pub(crate) fn new(sharing: Sharing) -> Self {
        Self {
            sharing,
            shared_until: 0,
            first_sign: None,
            unexplained: std::array::from_fn(|_| UnexplainedUse::new()),
        }
    }

    /// Returns true if the limits are taken to be shared.
    pub(crate) const fn is_shared(&self, now: u64) -> bool {
        match self.sharing {
            Sharing::Auto => now < self.shared_until,
            Sharing::Exclusive => false,
            Sharing::Shared => true,
        }
    }

    /// Returns true if the limits are shared, or a first sign of it is recent.
    pub(crate) fn may_be_shared(&self, now: u64) -> bool {
        let recent = |first: u64| now.saturating_sub(first) <= CONFIRMED_WITHIN;
        self.is_shared(now) || self.first_sign.is_some_and(recent)
    }

    /// Returns the bound of a capacity that proved too high.
    pub(crate) const fn capacity_ceiling(&self, index: usize, now: u64) -> i128 {
        match self.unexplained[index].ceiling {
            Some((ceiling, since)) if now.saturating_sub(since) < CEILING_FOR => ceiling,
            _ => i128::MAX,
        }
    }

    /// Records a 429 that an exhausted level explains. If limit and capacity were known when the
    /// request was sent, the limits are shared. A level that is lower than believed by no more than
    /// the errors of estimates is only a sign of it.
    pub(crate) fn on_exhausted(
        &mut self,
        now: u64,
        change: &LevelChange<'_>,
        shown: Option<i128>,
        dimension: &DimensionState,
        forecast: &Forecast,
    ) {
        if change.sent.at <= self.unexplained[change.index].known_since {
            return;
        }
        // The rejected request itself was not counted.
        let in_flight = dimension.uncertain(change.index, change.sent);
        let in_flight = units(in_flight as u64);
        let capacity = change.known.map_or(0, |(_, capacity)| capacity);
        let most = error_bound(forecast, change.index, in_flight, capacity);
        if shown.is_some_and(|shown| float(change.level_before - shown) < most) {
            self.on_sign(now);
        } else {
            self.share(now);
        }
        self.forget_ceilings(now);
    }

    /// Records that a header has changed a level. Returns a lower bound of the bucket's capacity if
    /// the bucket may have been full, so that its capacity explains the decrease.
    pub(crate) fn on_level_change(
        &mut self,
        now: u64,
        change: &LevelChange<'_>,
        dimension: &DimensionState,
        forecast: &Forecast,
    ) -> Option<i128> {
        if self.sharing != Sharing::Auto {
            return None;
        }
        let (limit, capacity) = dimension.known()?;
        let unexplained = &mut self.unexplained[change.index];
        let same_limit = change.known.is_some_and(|(old, _)| old == limit);
        // Compared with the capacity when it was last new, since it may change slowly.
        if !same_limit || !is_about(unexplained.known_capacity, capacity) {
            unexplained.net = 0.0;
            unexplained.known_since = now;
            unexplained.known_capacity = capacity;
            if !same_limit {
                unexplained.ceiling = None;
            }
            return None;
        }
        let level = dimension.level();
        let taken = change.level_before - level;
        let net = unexplained.add(now, float(taken));
        if taken <= 0 || net <= 0.0 {
            return None;
        }
        let in_flight = dimension.sent_since(change.index, change.sent).max(0);
        let in_flight = units(in_flight as u64);
        if net < error_bound(forecast, change.index, in_flight, capacity) {
            return None;
        }
        unexplained.net = 0.0;
        let was_full = change.level_before + in_flight >= capacity - capacity / 100;
        if was_full && now >= self.shared_until {
            let held = level + in_flight;
            unexplained.ceiling = Some((held, now));
            return Some(held);
        }
        self.on_sign(now);
        self.forget_ceilings(now);
        None
    }

    /// Records a sign that counts if it is confirmed.
    fn on_sign(&mut self, now: u64) {
        let confirms = |first: u64| now > first && now - first <= CONFIRMED_WITHIN;
        if now < self.shared_until || self.first_sign.is_some_and(confirms) {
            self.share(now);
        } else {
            self.first_sign = Some(now);
        }
    }

    const fn share(&mut self, now: u64) {
        self.shared_until = now.saturating_add(SHARED_FOR);
        self.first_sign = None;
    }

    /// Forgets all signs, since the levels that showed them were wrong.
    pub(crate) fn forget(&mut self) {
        *self = Self::new(self.sharing);
    }

    /// Forgets the capacity bounds, since external use explains the decreases after all.
    fn forget_ceilings(&mut self, now: u64) {
        if self.is_shared(now) {
            for unexplained in &mut self.unexplained {
                unexplained.ceiling = None;
            }
        }
    }
}

impl UnexplainedUse {
    const fn new() -> Self {
        Self {
            net: 0.0,
            at: 0,
            known_since: u64::MAX,
            known_capacity: 0,
            ceiling: None,
        }
    }

    /// Adds a decrease and returns the decayed sum.
    fn add(&mut self, now: u64, taken: f64) -> f64 {
        let passed = now.saturating_sub(self.at);
        self.at = now;
        if self.net != 0.0 {
            self.net *= (-(passed as f64) / CONFIRMED_WITHIN as f64).exp();
        }
        self.net += taken;
        self.net
    }
}

/// Returns the smallest difference that the estimation error of this pool cannot explain.
fn error_bound(forecast: &Forecast, index: usize, in_flight: i128, capacity: i128) -> f64 {
    let input = forecast.input.error() * in_flight as f64;
    let output = forecast.output.variance().sqrt() * UNIT as f64;
    // Long responses are in flight for longer, and after a burst all of them are at once.
    let longer = in_flight as f64;
    let error = match index {
        INPUT => SIGMAS * input,
        OUTPUT => SIGMAS * output + longer,
        TOTAL => SIGMAS * (input + output) + longer,
        _ => 0.0,
    };
    let rounding = if index == REQUESTS { 2 } else { 1_000 };
    error
        .max(capacity as f64 / 100.0)
        .max(units(rounding) as f64)
}

/// Returns true if two capacities differ by at most a twentieth. Less than half of that needs no
/// division.
fn is_about(old: i128, new: i128) -> bool {
    let apart = (old - new).abs();
    apart <= new >> 5 || apart <= twentieth(new)
}

// Out of line, or the compiler divides unconditionally to save a jump.
#[cold]
#[inline(never)]
fn twentieth(of: i128) -> i128 {
    of / 20
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = SECOND;

    #[test]
    fn second_sign_within_ten_seconds_shares_the_limits_for_ten_minutes() {
        let mut external = ExternalUse::new(Sharing::Auto);
        external.on_sign(S);
        external.on_sign(S);
        external.on_sign(12 * S);
        assert!(!external.is_shared(12 * S));
        external.on_sign(22 * S);
        assert!(external.is_shared(22 * S));
        external.on_sign(300 * S);
        assert!(external.is_shared(899 * S), "one sign is enough now");
        assert!(!external.is_shared(900 * S));
        assert!(ExternalUse::new(Sharing::Shared).is_shared(0));
        external.sharing = Sharing::Exclusive;
        external.share(900 * S);
        assert!(!external.is_shared(900 * S));
    }

    #[test]
    fn decrease_followed_by_an_increase_is_explained() {
        let mut unexplained = UnexplainedUse::new();
        for at in 1..100 {
            unexplained.add(at * S, 5.0);
            assert!(unexplained.add(at * S, -5.0).abs() < 1e-9);
        }
        assert!(unexplained.add(101 * S, 5.0) > 4.9);
        assert!(unexplained.add(111 * S, 0.0) < 1.9);
    }
}
