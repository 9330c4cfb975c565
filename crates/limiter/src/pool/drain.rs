//! Who else draws on the levels: what the headers take away and our own use does not explain.

use super::{
    Pool,
    book::Sent,
    bucket::{Bucket, UNIT, units},
    float::float,
    guard::SIGMAS,
    lane::{INPUT, Lane, OUTPUT, REQUESTS, TOTAL},
};
use crate::Sharing;

const SECOND: u64 = 1_000_000_000;

/// Two drains within this time are no accident, and what was drained fades over it.
const TWICE_WITHIN: u64 = 10 * SECOND;

/// How long a level is taken to be shared after the last sign of it.
const SHARED_FOR: u64 = 600 * SECOND;

/// How long a capacity that proved too high is not believed.
const CEILING_FOR: u64 = 600 * SECOND;

/// Whether others draw on the levels, as far as the headers show.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    shared_until: u64,
    first: Option<u64>,
}

impl Drains {
    pub(crate) const fn is_shared(&self, sharing: Sharing, now: u64) -> bool {
        match sharing {
            Sharing::Auto => now < self.shared_until,
            Sharing::Exclusive => false,
            Sharing::Shared => true,
        }
    }

    /// Whether others draw on the levels, or there was a first sign of it lately.
    pub(crate) fn may_be_shared(&self, sharing: Sharing, now: u64) -> bool {
        let lately = |first: u64| now.saturating_sub(first) <= TWICE_WITHIN;
        self.is_shared(sharing, now) || self.first.is_some_and(lately)
    }

    /// A sure sign.
    pub(crate) const fn share(&mut self, now: u64) {
        self.shared_until = now.saturating_add(SHARED_FOR);
        self.first = None;
    }

    /// A sign that counts when it comes twice, or again.
    fn drained(&mut self, now: u64) {
        let again = |first: u64| now > first && now - first <= TWICE_WITHIN;
        if now < self.shared_until || self.first.is_some_and(again) {
            self.share(now);
        } else {
            self.first = Some(now);
        }
    }
}

/// What the headers took away from one level less what they gave, fading. An estimate that was wrong
/// is taken away and given back; what others use is only taken away.
#[derive(Debug)]
pub(crate) struct Drift {
    /// In units.
    net: f64,
    at: u64,
    /// Since when limit and capacity are what they are, and the capacity then.
    known_since: u64,
    fitted: i128,
    ceiling: Option<(i128, u64)>,
}

impl Drift {
    pub(crate) const fn new() -> Self {
        Self {
            net: 0.0,
            at: 0,
            known_since: u64::MAX,
            fitted: 0,
            ceiling: None,
        }
    }

    /// The most that is believed to fit.
    pub(crate) const fn ceiling(&self, now: u64) -> i128 {
        match self.ceiling {
            Some((most, since)) if now.saturating_sub(since) < CEILING_FOR => most,
            _ => i128::MAX,
        }
    }

    /// Whether limit and capacity were known when something was sent.
    pub(crate) const fn known_at(&self, sent: u64) -> bool {
        sent > self.known_since
    }

    fn add(&mut self, now: u64, taken: f64) -> f64 {
        let passed = now.saturating_sub(self.at);
        self.at = now;
        if self.net != 0.0 {
            let passed = passed as f64 / TWICE_WITHIN as f64;
            self.net *= (-passed).exp();
        }
        self.net += taken;
        self.net
    }
}

/// Whether two capacities are a twentieth apart at most. Less than half of that needs no division to see.
fn is_about(old: i128, new: i128) -> bool {
    let apart = (old - new).abs();
    apart <= new >> 5 || apart <= twentieth(new)
}

// Apart, or the compiler divides in any case, to save a jump.
#[cold]
#[inline(never)]
fn twentieth(of: i128) -> i128 {
    of / 20
}

impl Lane {
    /// Limit and capacity, once a header has shown the level.
    pub(super) fn known(&self) -> Option<(u64, i128)> {
        let bucket = self.bucket.as_ref().filter(|_| self.observed)?;
        Some((bucket.limit(), bucket.capacity()))
    }

    pub(super) fn level(&self) -> i128 {
        self.bucket.as_ref().map_or(0, Bucket::level)
    }
}

impl Pool {
    /// A header has moved a level: looks whether others draw on it.
    pub(super) fn moved(
        &mut self,
        now: u64,
        index: usize,
        sent: &Sent,
        known: Option<(u64, i128)>,
        before: i128,
    ) {
        if self.config.sharing != Sharing::Auto {
            return;
        }
        let Some((limit, capacity)) = self.lanes[index].known() else {
            return;
        };
        let lane = &mut self.lanes[index];
        // Against what it was when it was last new: it may creep.
        let same =
            known.is_some_and(|(old, _)| old == limit) && is_about(lane.drift.fitted, capacity);
        if !same {
            lane.drift.net = 0.0;
            lane.drift.known_since = now;
            lane.drift.fitted = capacity;
            if known.is_none_or(|(old, _)| old != limit) {
                lane.drift.ceiling = None;
            }
            return;
        }
        let taken = before - lane.level();
        let net = lane.drift.add(now, float(taken));
        if taken <= 0 || net <= 0.0 {
            return;
        }
        let in_flight = units(lane.sent.wrapping_sub(sent.seen[index]).max(0) as u64);
        if net < self.doubt(index, in_flight, capacity) {
            return;
        }
        let shared = self.drains.is_shared(Sharing::Auto, now);
        let lane = &mut self.lanes[index];
        lane.drift.net = 0.0;
        if !shared && before + in_flight >= capacity - capacity / 100 {
            // It may have been full: then less fits than the stamps say, and nobody took anything.
            let held = lane.level() + in_flight;
            lane.drift.ceiling = Some((held, now));
            let most = held.max(lane.peak).min(capacity);
            if let Some(bucket) = &mut lane.bucket {
                bucket.set_capacity(most);
            }
            return;
        }
        self.drains.drained(now);
        self.believe_stamps(now);
    }

    /// A 429 for want of a level that we thought we knew.
    pub(super) fn drained(&mut self, now: u64) {
        self.drains.share(now);
        self.believe_stamps(now);
    }

    /// Others explain what was missing, so that the capacity is what the stamps say after all.
    fn believe_stamps(&mut self, now: u64) {
        if self.drains.is_shared(Sharing::Auto, now) {
            for lane in &mut self.lanes {
                lane.drift.ceiling = None;
            }
        }
    }

    /// The least that is not within the errors of our own books.
    fn doubt(&self, index: usize, in_flight: i128, capacity: i128) -> f64 {
        let input = self.input.error() * in_flight as f64;
        let output = self.output.variance().sqrt() * UNIT as f64;
        // The answers in flight are the longer ones, and after a burst all of them are at once.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = SECOND;

    #[test]
    fn twice_within_ten_seconds_is_shared_for_ten_minutes() {
        let mut drains = Drains::default();
        drains.drained(S);
        drains.drained(S);
        drains.drained(12 * S);
        assert!(!drains.is_shared(Sharing::Auto, 12 * S));
        assert!(drains.is_shared(Sharing::Shared, 12 * S));
        drains.drained(22 * S);
        assert!(drains.is_shared(Sharing::Auto, 22 * S));
        assert!(!drains.is_shared(Sharing::Exclusive, 22 * S));
        drains.drained(300 * S);
        assert!(
            drains.is_shared(Sharing::Auto, 899 * S),
            "once is enough now"
        );
        assert!(!drains.is_shared(Sharing::Auto, 900 * S));
    }

    #[test]
    fn what_is_given_back_is_no_drain() {
        let mut drift = Drift::new();
        for at in 1..100 {
            drift.add(at * S, 5.0);
            assert!(drift.add(at * S, -5.0).abs() < 1e-9);
        }
        assert!(drift.add(101 * S, 5.0) > 4.9);
        assert!(drift.add(111 * S, 0.0) < 1.9);
    }
}
