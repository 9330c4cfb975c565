//! Limits beside the main one of a dimension: further rates, and limits per day.

use std::time::{Duration, SystemTime};

use tower_claude_core::Dimension;

use crate::{
    limits::PoolLimits,
    nanos::nanos,
    pool::{
        bucket::{Bucket, tokens, units},
        daily::DailyLimit,
        dimension::{Charge, DIMENSIONS, INPUT, OUTPUT, REQUESTS, TOTAL},
    },
    snapshot::DimensionSnapshot,
};

/// A limit that must admit a request as well. Response headers do not correct it.
#[derive(Debug)]
pub(crate) struct AdditionalLimit {
    pub(crate) dimension: usize,
    kind: AdditionalBucket,
}

#[derive(Debug)]
enum AdditionalBucket {
    Minute(Bucket),
    Day(Box<DailyLimit>),
}

impl AdditionalLimit {
    /// Returns the daily limit of `limits`, and all limits of its `additional`, recursively.
    pub(crate) fn all(limits: &PoolLimits, now: u64) -> Vec<Self> {
        let mut all = Vec::new();
        collect(limits, now, true, &mut all);
        all
    }

    /// Returns the limit per minute or day.
    pub(crate) const fn limit(&self) -> u64 {
        match &self.kind {
            AdditionalBucket::Minute(bucket) => bucket.limit(),
            AdditionalBucket::Day(day) => day.limit(),
        }
    }

    /// Returns the name of the limit in snapshots and rejections.
    pub(crate) const fn name(&self) -> Dimension {
        match self.kind {
            AdditionalBucket::Minute(_) => DIMENSIONS[self.dimension],
            AdditionalBucket::Day(_) => Dimension::TokensPerDay,
        }
    }

    /// Returns the bucket of a limit per minute.
    pub(crate) const fn bucket(&self) -> Option<&Bucket> {
        match &self.kind {
            AdditionalBucket::Minute(bucket) => Some(bucket),
            AdditionalBucket::Day(_) => None,
        }
    }

    pub(crate) fn advance(&mut self, now: u64) {
        match &mut self.kind {
            AdditionalBucket::Minute(bucket) => bucket.refill(now),
            AdditionalBucket::Day(day) => day.advance(now),
        }
    }

    /// Records the wall time, which a day that resets at a time of day follows.
    pub(crate) fn set_wall_time(&mut self, now: u64, wall: SystemTime) {
        if let AdditionalBucket::Day(day) = &mut self.kind {
            day.set_wall_time(now, wall);
        }
    }

    pub(crate) fn take(&mut self, charge: &Charge) {
        match &mut self.kind {
            AdditionalBucket::Minute(bucket) => bucket.take(charge[self.dimension]),
            AdditionalBucket::Day(day) => day.take(charge[self.dimension]),
        }
    }

    /// Replaces the charge of a request that was sent at `sent_at`.
    pub(crate) fn recharge(&mut self, sent_at: u64, old: &Charge, new: &Charge) {
        let (old, new) = (old[self.dimension], new[self.dimension]);
        match &mut self.kind {
            AdditionalBucket::Minute(bucket) => bucket.recharge(old, new),
            AdditionalBucket::Day(day) => day.recharge(sent_at, old, new),
        }
    }

    /// Returns the safety margin of this limit, given that of its dimension. A limit per day needs
    /// none.
    fn margin(&self, margin: i128) -> i128 {
        self.bucket()
            .map_or(0, |bucket| margin.min(bucket.capacity() / 10))
    }

    /// Returns true if this amount fits whatever the safety margin is.
    pub(crate) fn has_plenty(&self, amount: u64) -> bool {
        self.bucket()
            .is_some_and(|bucket| bucket.has_plenty(amount))
    }

    /// Returns the nanoseconds until this amount and the margin are available after `ahead` was
    /// taken. An amount over the capacity is admitted into debt when the limit is full.
    pub(crate) fn wait(&self, now: u64, ahead: u64, amount: u64, margin: i128) -> u64 {
        match &self.kind {
            AdditionalBucket::Minute(bucket) => {
                let need = units(amount).saturating_add(self.margin(margin));
                bucket.wait(units(ahead).saturating_add(need.min(bucket.capacity())))
            }
            AdditionalBucket::Day(day) => day.wait_behind(now, ahead, amount),
        }
    }

    /// Returns the nanoseconds in which the limit allows as much as is used of it.
    pub(crate) fn spent(&self, now: u64) -> u64 {
        match &self.kind {
            AdditionalBucket::Minute(bucket) => bucket.full_in(now),
            AdditionalBucket::Day(day) => day.spent(now),
        }
    }

    /// Returns the state at `now`, given the safety margin of its dimension.
    pub(crate) fn snapshot(&self, now: u64, margin: i128) -> DimensionSnapshot {
        let (capacity, available, renews_in) = match &self.kind {
            AdditionalBucket::Minute(bucket) => {
                let mut bucket = bucket.clone();
                bucket.refill(now);
                let capacity = tokens(bucket.capacity()).max(0) as u64;
                (capacity, tokens(bucket.level()), None)
            }
            AdditionalBucket::Day(day) => {
                let mut day = day.clone();
                day.advance(now);
                (day.limit(), day.left(), Some(day.renews_in(now)))
            }
        };
        DimensionSnapshot {
            dimension: self.name(),
            limit: self.limit(),
            capacity,
            available,
            safety_margin: tokens(self.margin(margin)).max(0) as u64,
            learned: false,
            renews_in: renews_in.map(Duration::from_nanos),
        }
    }
}

fn collect(limits: &PoolLimits, now: u64, main: bool, into: &mut Vec<AdditionalLimit>) {
    let rates = [
        (REQUESTS, limits.requests),
        (INPUT, limits.input_tokens),
        (OUTPUT, limits.output_tokens),
        (TOTAL, limits.total_tokens),
    ];
    // The rates of the main limits are the dimensions' own buckets.
    for (dimension, limit) in rates.into_iter().filter(|_| !main) {
        into.extend(limit.map(|limit| AdditionalLimit {
            dimension,
            kind: AdditionalBucket::Minute(Bucket::full(limit.get(), nanos(limits.burst), now)),
        }));
    }
    into.extend(limits.tokens_per_day.map(|limit| AdditionalLimit {
        dimension: TOTAL,
        kind: AdditionalBucket::Day(Box::new(DailyLimit::new(limit.get(), limits.day, now))),
    }));
    for limits in &limits.additional {
        collect(limits, now, false, into);
    }
}
