//! Limits beside the main one of a dimension: further rates, and limits per day in whole tokens.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use tower_claude_core::Dimension;

use crate::{
    limits::{Day, PoolLimits},
    pool::{
        bucket::{
            Bucket, Charge, DIMENSIONS, INPUT, OUTPUT, REQUESTS, TOTAL, nanos, tokens, units,
        },
        in_flight::SendSnapshot,
        share_message::SharePeriod,
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

    /// Returns the bucket of a limit per minute, to change it.
    pub(crate) const fn bucket_mut(&mut self) -> Option<&mut Bucket> {
        match &mut self.kind {
            AdditionalBucket::Minute(bucket) => Some(bucket),
            AdditionalBucket::Day(_) => None,
        }
    }

    /// Returns the bucket of a limit per minute.
    pub(crate) const fn bucket(&self) -> Option<&Bucket> {
        match &self.kind {
            AdditionalBucket::Minute(bucket) => Some(bucket),
            AdditionalBucket::Day(_) => None,
        }
    }

    /// Returns the accounting period.
    pub(crate) fn period(&self) -> SharePeriod {
        match &self.kind {
            AdditionalBucket::Minute(_) => SharePeriod::Minute,
            AdditionalBucket::Day(day) => day.period(),
        }
    }

    /// Lowers or raises a limit that other processes use as well. The capacity keeps its time of
    /// refill.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        match &mut self.kind {
            AdditionalBucket::Minute(bucket) => {
                let capacity = bucket.capacity() / i128::from(bucket.limit().max(1));
                bucket.set_limit(limit);
                bucket.set_capacity(capacity.saturating_mul(i128::from(limit)));
            }
            AdditionalBucket::Day(day) => day.limit = limit,
        }
    }

    /// Sets the level, in units.
    pub(crate) fn set_level(&mut self, level: i128) {
        match &mut self.kind {
            AdditionalBucket::Minute(bucket) => bucket.clamp(level, level),
            AdditionalBucket::Day(day) => day.set_left(tokens(level)),
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

    /// Takes the charge of this number.
    pub(crate) fn take(&mut self, number: u64, charge: &Charge) {
        match &mut self.kind {
            AdditionalBucket::Minute(bucket) => bucket.take(number, charge[self.dimension]),
            AdditionalBucket::Day(day) => day.take(charge[self.dimension]),
        }
    }

    /// Replaces the charge of a request.
    pub(crate) fn recharge(&mut self, sent: &SendSnapshot, old: &Charge, new: &Charge) {
        let (old, new) = (old[self.dimension], new[self.dimension]);
        match &mut self.kind {
            AdditionalBucket::Minute(bucket) => bucket.correct(sent.number, old, new),
            AdditionalBucket::Day(day) => day.recharge(sent.at, old, new),
        }
    }

    /// Returns the safety margin of this limit, given that of its dimension. A limit per day needs
    /// none.
    fn margin(&self, margin: i128) -> i128 {
        self.bucket()
            .map_or(0, |bucket| margin.min(bucket.capacity() / 10))
    }

    /// Returns true if this amount is within the limit, and fits whatever the safety margin is.
    pub(crate) fn fits(&self, amount: u64) -> bool {
        match &self.kind {
            AdditionalBucket::Minute(bucket) => bucket.fits(amount),
            AdditionalBucket::Day(day) => day.fits(amount),
        }
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
                let capacity = tokens(bucket.capacity()).max(0) as u64;
                (capacity, tokens(bucket.level_at(now)), None)
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

const DAY: u64 = 86_400_000_000_000;

/// The step in which a rolling day forgets usage.
const QUARTER: u64 = DAY / 96;

/// The shortest day. Clocks that step back and forth around the reset begin one new day only.
const LEAST_DAY: u64 = DAY / 2;

/// A limit per day.
#[derive(Clone, Debug)]
pub(crate) struct DailyLimit {
    limit: u64,
    used: i64,
    renewal: Renewal,
}

#[derive(Clone, Debug)]
enum Renewal {
    /// The usage in each quarter of an hour of the last day, by its number, oldest first.
    Rolling(VecDeque<(u64, i64)>),
    Resets {
        /// Nanoseconds after midnight UTC.
        offset: u64,
        /// Days since 1970 that begin at the offset, once the wall time is known.
        number: Option<u64>,
        /// The beginning of the current day.
        began: Option<u64>,
        next: u64,
    },
}

impl DailyLimit {
    pub(crate) fn new(limit: u64, day: Day, now: u64) -> Self {
        let renewal = match day {
            Day::Rolling => Renewal::Rolling(VecDeque::from([(now / QUARTER, 0)])),
            Day::ResetsAt {
                seconds_after_midnight_utc: seconds,
            } => Renewal::Resets {
                offset: u64::from(seconds) * 1_000_000_000 % DAY,
                number: None,
                began: None,
                next: now.saturating_add(DAY),
            },
        };
        Self {
            limit,
            used: 0,
            renewal,
        }
    }

    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    fn period(&self) -> SharePeriod {
        match &self.renewal {
            Renewal::Rolling(_) => SharePeriod::RollingDay,
            Renewal::Resets { offset, .. } => SharePeriod::Day {
                begins_at: (offset / 1_000_000_000) as u32,
            },
        }
    }

    /// Changes the usage to that of all processes. The difference counts as recent.
    fn set_left(&mut self, left: i64) {
        let used = signed(self.limit).saturating_sub(left);
        let change = used.saturating_sub(self.used);
        self.used = used;
        if let Renewal::Rolling(quarters) = &mut self.renewal
            && let Some((_, taken)) = quarters.back_mut()
        {
            *taken = taken.saturating_add(change);
        }
    }

    pub(crate) fn left(&self) -> i64 {
        i64::try_from(self.limit)
            .unwrap_or(i64::MAX)
            .saturating_sub(self.used)
    }

    pub(crate) fn advance(&mut self, now: u64) {
        match &mut self.renewal {
            Renewal::Rolling(quarters) => {
                let current = now / QUARTER;
                while let Some((quarter, taken)) = quarters.front().copied()
                    && gone_at(quarter) <= now
                {
                    quarters.pop_front();
                    self.used -= taken;
                }
                if quarters.back().is_none_or(|(last, _)| *last < current) {
                    quarters.push_back((current, 0));
                }
            }
            Renewal::Resets {
                number,
                began,
                next,
                ..
            } if now >= *next => {
                let days = 1 + (now - *next) / DAY;
                *number = number.map(|number| number.saturating_add(days));
                *began = Some(next.saturating_add((days - 1).saturating_mul(DAY)));
                *next = next.saturating_add(days.saturating_mul(DAY));
                self.used = 0;
            }
            Renewal::Resets { .. } => {}
        }
    }

    /// Records the wall time at `at`. The wall clock may be set, and two clocks may disagree about
    /// the day, so the next reset is moved, and a new day begins unless one has just begun.
    pub(crate) fn set_wall_time(&mut self, at: u64, wall: SystemTime) {
        let Renewal::Resets {
            offset,
            number,
            began,
            next,
        } = &mut self.renewal
        else {
            return;
        };
        let wall = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u128::from(nanos(since)));
        // A day early, so that nothing is negative.
        let since = wall + u128::from(DAY - *offset);
        let today = (since / u128::from(DAY)) as u64;
        let into = (since % u128::from(DAY)) as u64;
        let just_began = |at: u64| began.is_some_and(|began| at.saturating_sub(began) < LEAST_DAY);
        *next = at.saturating_add(DAY - into);
        if just_began(*next) {
            *next = next.saturating_add(DAY);
        }
        if number.is_some_and(|number| today > number) && !just_began(at) {
            self.used = 0;
            *began = Some(at);
        }
        *number = Some(today);
    }

    pub(crate) fn take(&mut self, amount: u64) {
        let amount = signed(amount);
        self.used = self.used.saturating_add(amount);
        if let Renewal::Rolling(quarters) = &mut self.renewal
            && let Some((_, taken)) = quarters.back_mut()
        {
            *taken = taken.saturating_add(amount);
        }
    }

    /// Corrects an amount that was taken at `sent_at`. A decrease of an amount that was taken
    /// before the day began does not change the current day.
    pub(crate) fn recharge(&mut self, sent_at: u64, old: u64, new: u64) {
        if old == new {
            return;
        }
        let change = signed(new) - signed(old);
        match &mut self.renewal {
            Renewal::Rolling(quarters) => {
                let quarter = sent_at / QUARTER;
                let Ok(at) = quarters.binary_search_by_key(&quarter, |(quarter, _)| *quarter)
                else {
                    return;
                };
                quarters[at].1 += change;
            }
            Renewal::Resets {
                began: Some(began), ..
            } if change < 0 && sent_at < *began => return,
            Renewal::Resets { .. } => {}
        }
        self.used = self.used.saturating_add(change);
    }

    /// Returns true if this amount is left.
    fn fits(&self, amount: u64) -> bool {
        amount <= self.limit && signed(amount) <= self.left()
    }

    /// Returns the nanoseconds until this amount is left. An amount over the limit waits until
    /// nothing is used.
    pub(crate) fn wait(&self, now: u64, amount: u64) -> u64 {
        let missing = signed(amount.min(self.limit)).saturating_sub(self.left());
        if missing <= 0 {
            return 0;
        }
        match &self.renewal {
            Renewal::Rolling(quarters) => {
                let mut freed = 0_i64;
                let at = quarters.iter().find(|(_, taken)| {
                    freed = freed.saturating_add(*taken);
                    freed >= missing
                });
                let at = at.or(quarters.back());
                at.map_or(0, |(quarter, _)| {
                    gone_at(*quarter).saturating_sub(now).max(1)
                })
            }
            Renewal::Resets { next, .. } => next.saturating_sub(now).max(1),
        }
    }

    /// Returns the wait for an amount after `ahead` was taken, which may take whole days.
    pub(crate) fn wait_behind(&self, now: u64, ahead: u64, amount: u64) -> u64 {
        let all = ahead.saturating_add(amount.min(self.limit));
        let days = all.saturating_sub(1) / self.limit.max(1);
        let rest = all - days * self.limit;
        self.wait(now, rest)
            .saturating_add(days.saturating_mul(DAY))
    }

    /// Returns the nanoseconds until the whole limit is available without further use.
    pub(crate) fn renews_in(&self, now: u64) -> u64 {
        if self.used <= 0 {
            return 0;
        }
        match &self.renewal {
            Renewal::Rolling(quarters) => {
                let last = quarters.iter().rev().find(|(_, taken)| *taken > 0);
                last.map_or(0, |(quarter, _)| gone_at(*quarter).saturating_sub(now))
            }
            Renewal::Resets { next, .. } => next.saturating_sub(now),
        }
    }

    /// Returns the used share as a part of a day, at most the time until it renews.
    pub(crate) fn spent(&self, now: u64) -> u64 {
        let used = u128::from(self.used.max(0).unsigned_abs());
        let share = used * u128::from(DAY) / u128::from(self.limit.max(1));
        u64::try_from(share)
            .unwrap_or(u64::MAX)
            .min(self.renews_in(now))
    }
}

/// Returns the time at which all of this quarter is a day old.
const fn gone_at(quarter: u64) -> u64 {
    (quarter + 1).saturating_mul(QUARTER).saturating_add(DAY)
}

/// Returns the amount as a signed one. Only configured limits can be over the bound.
fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
