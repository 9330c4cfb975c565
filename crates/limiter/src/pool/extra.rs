//! Limits beside those of the lanes: more of them on one dimension, and limits per day. No header speaks
//! of them. All must admit.

use std::time::SystemTime;

use tower_claude_core::Dimension;

use super::{
    bucket::{Bucket, tokens, units},
    day::Daily,
    lane::{Charge, DIMENSIONS, INPUT, OUTPUT, REQUESTS, TOTAL},
    pause::nanos,
};
use crate::{DimensionSnapshot, PoolLimits};

/// One more limit on what a lane counts.
#[derive(Debug)]
pub(super) struct Extra {
    lane: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Minute(Bucket),
    Day(Box<Daily>),
}

/// The extra limits of a pool, those of `limits` itself and of all [`additional`](PoolLimits::additional) under it.
pub(super) fn extras(limits: &PoolLimits, now: u64) -> Vec<Extra> {
    let mut found = Vec::new();
    collect(limits, now, true, &mut found);
    found
}

fn collect(limits: &PoolLimits, now: u64, own: bool, into: &mut Vec<Extra>) {
    let rates = [
        (REQUESTS, limits.requests),
        (INPUT, limits.input_tokens),
        (OUTPUT, limits.output_tokens),
        (TOTAL, limits.total_tokens),
    ];
    // Its own rates are the lanes.
    for (lane, limit) in rates.into_iter().filter(|_| !own) {
        if let Some(limit) = limit {
            let bucket = Bucket::full(limit.get(), nanos(limits.burst), now);
            into.push(Extra {
                lane,
                kind: Kind::Minute(bucket),
            });
        }
    }
    if let Some(limit) = limits.tokens_per_day {
        into.push(Extra {
            lane: TOTAL,
            kind: Kind::Day(Box::new(Daily::new(limit.get(), limits.day, now))),
        });
    }
    for limits in &limits.additional {
        collect(limits, now, false, into);
    }
}

impl Extra {
    pub(super) const fn lane(&self) -> usize {
        self.lane
    }

    pub(super) const fn dimension(&self) -> Dimension {
        match self.kind {
            Kind::Minute(_) => DIMENSIONS[self.lane],
            Kind::Day(_) => Dimension::TokensPerDay,
        }
    }

    pub(super) const fn limit(&self) -> u64 {
        match &self.kind {
            Kind::Minute(bucket) => bucket.limit(),
            Kind::Day(day) => day.limit(),
        }
    }

    /// The limit per minute, if it is one.
    pub(super) const fn per_minute(&self) -> Option<u64> {
        match &self.kind {
            Kind::Minute(bucket) => Some(bucket.limit()),
            Kind::Day(_) => None,
        }
    }

    #[cfg(test)]
    pub(super) const fn bucket(&self) -> Option<&Bucket> {
        match &self.kind {
            Kind::Minute(bucket) => Some(bucket),
            Kind::Day(_) => None,
        }
    }

    pub(super) fn advance(&mut self, now: u64) {
        match &mut self.kind {
            Kind::Minute(bucket) => bucket.refill(now),
            Kind::Day(day) => day.advance(now),
        }
    }

    /// What time it is outside: a day that resets at a time of day follows it.
    pub(super) fn set_wall_time(&mut self, now: u64, wall: SystemTime) {
        if let Kind::Day(day) = &mut self.kind {
            day.set_wall_time(now, wall);
        }
    }

    pub(super) fn take(&mut self, charge: &Charge) {
        match &mut self.kind {
            Kind::Minute(bucket) => bucket.take(charge[self.lane]),
            Kind::Day(day) => day.take(charge[self.lane]),
        }
    }

    /// Replaces what a request took that was sent then.
    pub(super) fn recharge(&mut self, sent_at: u64, old: &Charge, new: &Charge) {
        let (old, new) = (old[self.lane], new[self.lane]);
        match &mut self.kind {
            Kind::Minute(bucket) if new > old => bucket.take(new - old),
            Kind::Minute(bucket) => bucket.give(old - new),
            Kind::Day(day) => day.recharge(sent_at, old, new),
        }
    }

    /// What is held back of it, in units. A limit per day needs nothing.
    fn guard(&self, guard: i128) -> i128 {
        match &self.kind {
            Kind::Minute(bucket) => guard.min(bucket.capacity() / 10),
            Kind::Day(_) => 0,
        }
    }

    /// Whether there is no wait for this much, whatever the guard.
    pub(super) fn has_plenty(&self, amount: u64) -> bool {
        match &self.kind {
            Kind::Minute(bucket) => bucket.has_plenty(amount),
            Kind::Day(_) => false,
        }
    }

    /// Nanoseconds until this much is there beside the guard. What never fits is admitted when all is
    /// there, into debt.
    pub(super) fn wait(&self, now: u64, amount: u64, guard: i128) -> u64 {
        self.wait_behind(now, 0, amount, guard)
    }

    /// The same when so much more is taken before. A pause refills nothing here: estimates add it.
    pub(super) fn wait_behind(&self, now: u64, ahead: u64, amount: u64, guard: i128) -> u64 {
        match &self.kind {
            Kind::Minute(bucket) => {
                let need = units(amount).saturating_add(self.guard(guard));
                bucket.wait(units(ahead).saturating_add(need.min(bucket.capacity())))
            }
            Kind::Day(day) => day.wait_behind(now, ahead, amount),
        }
    }

    /// Nanoseconds that the limit takes to allow what is used of it.
    pub(super) fn spent(&self, now: u64) -> u64 {
        match &self.kind {
            Kind::Minute(bucket) => bucket.whole_in(now),
            Kind::Day(day) => day.spent(now),
        }
    }

    /// What is known of it; `guard` is that of its lane.
    pub(super) fn snapshot(&self, now: u64, guard: i128) -> DimensionSnapshot {
        let (capacity, available, renews_in) = match &self.kind {
            Kind::Minute(bucket) => {
                let mut bucket = bucket.clone();
                bucket.refill(now);
                let capacity = tokens(bucket.capacity()).max(0) as u64;
                (capacity, tokens(bucket.level()), None)
            }
            Kind::Day(day) => {
                let mut day = day.clone();
                day.advance(now);
                (day.limit(), day.left(), Some(day.renews_in(now)))
            }
        };
        DimensionSnapshot {
            dimension: self.dimension(),
            limit: self.limit(),
            capacity,
            available,
            safety_margin: tokens(self.guard(guard)).max(0) as u64,
            learned: false,
            renews_in: renews_in.map(std::time::Duration::from_nanos),
        }
    }
}
