//! The buckets of a pool, one for each counted dimension, and its additional limits.

use std::{num::NonZeroU64, time::SystemTime};

use tower_claude_core::{Cost, RejectReason};

use crate::{
    config::{LimiterConfig, OutputAccounting},
    limits::PoolLimits,
    pool::{
        additional::AdditionalLimit,
        bucket::{
            Bucket, Charge, DIMENSIONS, INPUT, Margins, NO_CHARGE, OUTPUT, REQUESTS, TOTAL, UNIT,
            nanos, refill, tokens, units,
        },
        in_flight::{InFlight, SendSnapshot},
        share_message::SharePeriod,
    },
    snapshot::DimensionSnapshot,
};

/// The work of a request if no rate is known.
const EQUAL_WORK: u64 = 1_000_000_000;

/// The time for which a size that the server has refused is not tried again: 5 minutes.
const REFUSED_FOR: u64 = 300_000_000_000;

/// The time after which nearly every request has reached the server: 100 ms.
pub(crate) const ARRIVES_IN: u64 = 100_000_000;

/// The point in a response at which the server has surely counted a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    AtHead,
    AtEnd,
}

/// A counted dimension: its bucket, if a limit is known, and its flow counters.
#[derive(Debug)]
pub(crate) struct DimensionState {
    pub(crate) bucket: Option<Bucket>,
    counted: Counted,
    /// The sum of all charges sent. It wraps, since only differences are used.
    sent: i64,
    /// The part of `sent` that the server has surely counted.
    seen: i64,
    /// A header has shown the server's level.
    pub(crate) observed: bool,
    /// The time at which a header last named the limit, if headers did.
    pub(crate) confirmed: Option<u64>,
    /// The number of the latest request whose response named the limit.
    pub(crate) named_by: u64,
    /// The smallest charge over the limit that the server has refused, and the last time at which
    /// it did.
    refused: Option<Refused>,
}

/// A charge over the limit that the server has refused.
#[derive(Debug)]
struct Refused {
    charge: u64,
    at: u64,
    times: u32,
}

impl DimensionState {
    fn new(limit: Option<NonZeroU64>, burst: u64, counted: Counted, now: u64) -> Self {
        Self {
            bucket: limit.map(|limit| Bucket::full(limit.get(), burst, now)),
            counted,
            sent: 0,
            seen: 0,
            observed: false,
            confirmed: None,
            named_by: 0,
            refused: None,
        }
    }

    /// Returns true if the server has recently refused a charge of this size twice in a row.
    fn is_refused(&self, now: u64, charge: u64) -> bool {
        self.refused.as_ref().is_some_and(|refused| {
            let is_recent = now.saturating_sub(refused.at) <= REFUSED_FOR;
            refused.times >= 2 && charge >= refused.charge && is_recent
        })
    }

    pub(crate) fn level(&self) -> i128 {
        self.bucket.as_ref().map_or(0, Bucket::level)
    }

    /// Returns limit and capacity, once a header has shown the level.
    pub(crate) fn known(&self) -> Option<(u64, i128)> {
        let bucket = self.bucket.as_ref().filter(|_| self.observed)?;
        Some((bucket.limit(), bucket.capacity()))
    }

    /// Returns the charges sent since the server had counted everything seen at `sent`.
    pub(crate) fn sent_since(&self, index: usize, sent: &SendSnapshot) -> i64 {
        self.sent.wrapping_sub(sent.seen[index])
    }

    /// Returns the charges that may or may not be in the level that a response shows.
    pub(crate) fn uncertain(&self, index: usize, sent: &SendSnapshot) -> i64 {
        let all = self.sent_since(index, sent);
        match self.counted {
            // The response shows the level after its own request.
            Counted::AtHead => all.wrapping_sub(sent.counted[index] as i64).max(0),
            Counted::AtEnd => all.max(0),
        }
    }

    #[inline]
    fn charge(&mut self, now: u64, number: u64, tokens: u64) {
        match &mut self.bucket {
            Some(bucket) if self.observed => {
                bucket.take_late(number, tokens, now, ARRIVES_IN / 2);
            }
            Some(bucket) => bucket.take(number, tokens),
            None => {}
        }
        self.sent = self.sent.wrapping_add(tokens as i64);
    }

    fn recharge(&mut self, now: u64, number: u64, old: u64, new: u64, counted: &mut u64) {
        if old == new {
            return;
        }
        if let Some(bucket) = &mut self.bucket {
            bucket.refill(now);
            bucket.correct(number, old, new);
        }
        if self.counted == Counted::AtEnd {
            self.sent = self.sent.wrapping_add(new as i64).wrapping_sub(old as i64);
            *counted = new;
        }
    }

    fn refund(&mut self, now: u64, request: &InFlight, charge: u64, counted: u64) {
        if let Some(bucket) = &mut self.bucket {
            bucket.refill(now);
            bucket.recharge(request.sent.number, charge, 0);
        }
        self.sent = self.sent.wrapping_sub(counted as i64);
        if request.head_received && self.counted == Counted::AtHead {
            self.seen = self.seen.wrapping_sub(counted as i64);
        }
    }
}

/// The limits of a pool on requests and tokens.
#[derive(Debug)]
pub(crate) struct Buckets {
    pub(crate) dimensions: [DimensionState; DIMENSIONS.len()],
    additional: Vec<AdditionalLimit>,
    /// The longest time for which a limit that only a header named holds requests back.
    max_hold: u64,
    last_admission: u64,
    /// The number of charges so far.
    charges: u64,
    /// The time up to which all limits have been refilled.
    at: u64,
}

impl Buckets {
    /// Returns full buckets.
    pub(crate) fn new(limits: &PoolLimits, config: &LimiterConfig, now: u64) -> Self {
        let output = match config.output_accounting {
            OutputAccounting::AsProduced => Counted::AtEnd,
            OutputAccounting::MaxTokensReserved => Counted::AtHead,
        };
        let new = |limit, counted| DimensionState::new(limit, nanos(limits.burst), counted, now);
        Self {
            dimensions: [
                new(limits.requests, Counted::AtHead),
                new(limits.input_tokens, Counted::AtHead),
                new(limits.output_tokens, output),
                new(limits.total_tokens, output),
            ],
            additional: AdditionalLimit::all(limits, now),
            max_hold: nanos(config.max_pause),
            last_admission: now,
            charges: 0,
            at: now,
        }
    }

    /// Returns the buckets with their indices.
    pub(crate) fn known(&self) -> impl Iterator<Item = (usize, &Bucket)> {
        let dimensions = self.dimensions.iter().enumerate();
        dimensions.filter_map(|(index, dimension)| Some((index, dimension.bucket.as_ref()?)))
    }

    /// Returns the buckets of limits on input, alone or together with output.
    pub(crate) fn of_input(&self) -> impl Iterator<Item = &Bucket> {
        let counts = |dimension: usize| matches!(dimension, INPUT | TOTAL);
        let main = self.known().filter(move |(index, _)| counts(*index));
        let additional = self.additional.iter();
        let additional = additional.filter(move |limit| counts(limit.dimension));
        main.map(|(_, bucket)| bucket)
            .chain(additional.filter_map(AdditionalLimit::bucket))
    }

    /// Returns the number of limits: the dimensions, then the additional limits.
    pub(crate) const fn count(&self) -> usize {
        DIMENSIONS.len() + self.additional.len()
    }

    /// Returns the bucket of a limit, if it is known and no limit per day.
    pub(crate) fn bucket(&self, index: usize) -> Option<&Bucket> {
        match index.checked_sub(DIMENSIONS.len()) {
            None => self.dimensions[index].bucket.as_ref(),
            Some(index) => self.additional[index].bucket(),
        }
    }

    /// Returns the dimension that a limit counts.
    pub(crate) fn dimension_of(&self, index: usize) -> usize {
        match index.checked_sub(DIMENSIONS.len()) {
            None => index,
            Some(index) => self.additional[index].dimension,
        }
    }

    /// Returns the limit per minute or day, if it is known.
    pub(crate) fn limit_of(&self, index: usize) -> Option<u64> {
        match index.checked_sub(DIMENSIONS.len()) {
            None => self.bucket(index).map(Bucket::limit),
            Some(index) => Some(self.additional[index].limit()),
        }
    }

    /// Returns the accounting period of a limit.
    pub(crate) fn period(&self, index: usize) -> SharePeriod {
        match index.checked_sub(DIMENSIONS.len()) {
            None => SharePeriod::Minute,
            Some(index) => self.additional[index].period(),
        }
    }

    /// Sets a limit that other processes use as well. A limit that is not configured was named by
    /// headers.
    pub(crate) fn adopt_limit(
        &mut self,
        now: u64,
        index: usize,
        limit: u64,
        burst: u64,
        is_configured: bool,
    ) {
        if let Some(index) = index.checked_sub(DIMENSIONS.len()) {
            self.additional[index].set_limit(limit);
            return;
        }
        let dimension = &mut self.dimensions[index];
        match &mut dimension.bucket {
            Some(bucket) if bucket.limit() == limit => return,
            Some(bucket) => {
                bucket.set_limit(limit);
                bucket.set_capacity(refill(limit, burst));
            }
            None => dimension.bucket = Some(Bucket::full(limit, burst, now)),
        }
        dimension.confirmed = (!is_configured).then_some(now);
    }

    /// Sets the level of a limit, in units.
    pub(crate) fn set_level(&mut self, index: usize, level: i128) {
        match index.checked_sub(DIMENSIONS.len()) {
            None => {
                if let Some(bucket) = &mut self.dimensions[index].bucket {
                    bucket.clamp(level, level);
                }
            }
            Some(index) => self.additional[index].set_level(level),
        }
    }

    #[cfg(test)]
    pub(crate) fn additional(&self) -> &[AdditionalLimit] {
        &self.additional
    }

    /// Forgets what only earlier charges need, when none of them is open.
    pub(crate) fn forget_charges(&mut self) {
        for dimension in &mut self.dimensions {
            if let Some(bucket) = &mut dimension.bucket {
                bucket.forget_charges();
            }
        }
        for limit in &mut self.additional {
            if let Some(bucket) = limit.bucket_mut() {
                bucket.forget_charges();
            }
        }
    }

    pub(crate) fn has_additional(&self) -> bool {
        !self.additional.is_empty()
    }

    /// Returns true if the server reserves `max_tokens` when it admits a request.
    pub(crate) fn reserves_output(&self) -> bool {
        self.dimensions[OUTPUT].counted == Counted::AtHead
    }

    /// Returns true if all of a charge is within all limits, and fits whatever the safety margins
    /// are. Its size, its wait and its debt then need no other check.
    #[inline]
    pub(crate) fn fit(&self, charge: &Charge) -> bool {
        let mut additional = self.additional.iter();
        self.known()
            .all(|(index, bucket)| bucket.fits(charge[index]))
            && additional.all(|limit| limit.fits(charge[limit.dimension]))
    }

    /// Returns true if every bucket is more than half full.
    pub(crate) fn has_plenty(&self) -> bool {
        self.known().all(|(_, bucket)| bucket.has_plenty(0))
    }

    /// Returns true if a header has shown the level of a bucket.
    pub(crate) fn is_observed(&self) -> bool {
        let mut known = self
            .dimensions
            .iter()
            .filter(|dimension| dimension.bucket.is_some());
        known.any(|dimension| dimension.observed)
    }

    /// Returns the time at which one request is admitted although headers would hold it back, to
    /// find out whether they are still right.
    pub(crate) const fn probe_at(&self) -> u64 {
        self.last_admission.saturating_add(self.max_hold)
    }

    /// Refills up to `now`.
    pub(crate) fn advance(&mut self, now: u64) {
        if now <= self.at {
            return;
        }
        self.at = now;
        for dimension in &mut self.dimensions {
            if let Some(bucket) = &mut dimension.bucket {
                bucket.refill(now);
            }
        }
        for limit in &mut self.additional {
            limit.advance(now);
        }
    }

    /// Records the wall time, for limits per day.
    pub(crate) fn set_wall_time(&mut self, now: u64, wall: SystemTime) {
        for limit in &mut self.additional {
            limit.set_wall_time(now, wall);
        }
    }

    /// Returns the rejection of a charge that a limit can never admit.
    ///
    /// Only what is known rejects: a number of requests, counted input, a reserved `max_tokens`, or
    /// an estimate of a size that the server has refused. Any other estimate is tried when the
    /// bucket is full. A limit that only a header named must have been confirmed recently, so that
    /// one odd header cannot reject for ever.
    pub(crate) fn check_size(
        &self,
        now: u64,
        cost: &Cost,
        charge: &Charge,
    ) -> Result<(), RejectReason> {
        // An expected cache read is a guess, so the rest of a count is a guess as well.
        let knows_input = cost.counted && cost.cached_tokens.is_none();
        let knows_output = self.reserves_output() && cost.max_output_tokens.is_some();
        let input = if knows_input { charge[INPUT] } else { 0 };
        let output = if knows_output { charge[OUTPUT] } else { 0 };
        let known = [charge[REQUESTS], input, output, input + output];
        let certain = |index: usize| {
            let refused = self.dimensions[index].is_refused(now, charge[index]);
            if refused { charge[index] } else { known[index] }
        };
        let main = self.known().filter(|(index, _)| {
            let confirmed = self.dimensions[*index].confirmed;
            confirmed.is_none_or(|at| now.saturating_sub(at) <= self.max_hold)
        });
        let main = main.map(|(index, bucket)| (index, DIMENSIONS[index], bucket.limit()));
        let additional = self.additional.iter();
        let additional = additional.map(|limit| (limit.dimension, limit.name(), limit.limit()));
        for (index, dimension, limit) in main.chain(additional) {
            let cost = certain(index);
            if cost > limit {
                return Err(RejectReason::Oversized {
                    dimension,
                    cost,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Returns true if a charge is over a known limit, so that the server may never admit it.
    pub(crate) fn is_oversized(&self, charge: &Charge) -> bool {
        self.known()
            .any(|(index, bucket)| charge[index] > bucket.limit())
    }

    /// Returns true if a charge is most of what its bucket holds.
    pub(crate) fn is_most(&self, index: usize, charge: &Charge) -> bool {
        let bucket = self.dimensions[index].bucket.as_ref();
        bucket.is_some_and(|bucket| units(charge[index]) > bucket.capacity() >> 1)
    }

    /// Records that the server answered a request with a 429. If its charge was over a limit, the
    /// limit may not admit it at all.
    pub(crate) fn on_rejected(&mut self, now: u64, charge: &Charge) {
        for index in [INPUT, TOTAL] {
            let dimension = &mut self.dimensions[index];
            let limit = dimension.bucket.as_ref().map_or(u64::MAX, Bucket::limit);
            if charge[index] <= limit {
                continue;
            }
            let times = match &dimension.refused {
                Some(refused) if charge[index] >= refused.charge => refused.times + 1,
                _ => 1,
            };
            dimension.refused = Some(Refused {
                charge: charge[index],
                at: now,
                times,
            });
        }
    }

    /// Records that the server took a request of this charge.
    pub(crate) fn on_accepted(&mut self, charge: &Charge) {
        for index in [INPUT, TOTAL] {
            let dimension = &mut self.dimensions[index];
            if let Some(refused) = &dimension.refused
                && charge[index] >= refused.charge
            {
                dimension.refused = None;
            }
        }
    }

    /// Returns the earliest time at which all of the charge is available beside the safety margins.
    /// The margins are computed only if a bucket is less than half full.
    ///
    /// A charge over the capacity is admitted into debt when the bucket is full. A `shared` bucket
    /// may never be full, so half of it must do.
    pub(crate) fn earliest(
        &self,
        now: u64,
        charge: &Charge,
        shared: bool,
        margins: impl Fn() -> Margins,
    ) -> u64 {
        let mut until = now;
        let mut cached = None;
        let mut margin = |index: usize| cached.get_or_insert_with(&margins)[index];
        for limit in &self.additional {
            let amount = charge[limit.dimension];
            if !limit.has_plenty(amount) {
                let wait = limit.wait(now, 0, amount, margin(limit.dimension));
                until = until.max(now.saturating_add(wait));
            }
        }
        for (index, bucket) in self.known() {
            if bucket.has_plenty(charge[index]) {
                continue;
            }
            let need = units(charge[index]).saturating_add(margin(index));
            let most = if shared && units(charge[index]) > bucket.capacity() {
                bucket.capacity() / 2
            } else {
                bucket.capacity()
            };
            let wait = bucket.wait(need.min(most));
            if wait == 0 {
                continue;
            }
            let mut at = now.saturating_add(wait);
            if let Some(confirmed) = self.dimensions[index].confirmed {
                at = at.min(confirmed.saturating_add(self.max_hold).max(self.probe_at()));
            }
            until = until.max(at);
        }
        until
    }

    /// Returns the nanoseconds after a pause until the charge is available behind the work `ahead`.
    pub(crate) fn wait_behind(
        &self,
        now: u64,
        pause: u64,
        ahead: &Charge,
        charge: &Charge,
        margins: &Margins,
    ) -> u64 {
        let mut longest = 0;
        for (index, bucket) in self.known() {
            let need = units(charge[index])
                .saturating_add(margins[index])
                .min(bucket.capacity());
            // The refill during the pause counts as far as it fits.
            let level = bucket.level().saturating_add(refill(bucket.limit(), pause));
            let lacking = bucket.level() - level.min(bucket.capacity());
            let need = need
                .saturating_add(units(ahead[index]))
                .saturating_add(lacking);
            longest = longest.max(bucket.wait(need));
        }
        for limit in &self.additional {
            let index = limit.dimension;
            let wait = limit.wait(now, ahead[index], charge[index], margins[index]);
            longest = longest.max(wait.saturating_sub(pause));
        }
        longest
    }

    /// Returns the time that a charge takes of the tightest rate, in nanoseconds. Without a known
    /// rate all requests are equal. Limits per day do not count, since they are rarely the
    /// bottleneck.
    pub(crate) fn work(&self, charge: &Charge) -> u64 {
        let main = self.known().map(|(index, bucket)| (index, bucket.limit()));
        let additional = self.additional.iter();
        let additional =
            additional.filter_map(|limit| Some((limit.dimension, limit.bucket()?.limit())));
        let work = main.chain(additional).map(|(index, limit)| {
            // A share need not be exact, and division of 128-bit integers is slow.
            (charge[index] as f64 * (UNIT as f64 / limit.max(1) as f64)) as u64
        });
        work.max()
            .unwrap_or_else(|| if *charge == NO_CHARGE { 0 } else { EQUAL_WORK })
    }

    /// Returns the nanoseconds in which the most spent limit allows as much as is used of it.
    pub(crate) fn spent(&self, now: u64) -> u64 {
        let main = self.known().map(|(_, bucket)| bucket.full_in(now));
        let additional = self.additional.iter().map(|limit| limit.spent(now));
        main.chain(additional).max().unwrap_or(0)
    }

    /// Returns a charge that takes no bucket deeper into debt than the usage of a request may. An
    /// estimate far over the limit is a guess.
    pub(crate) fn without_long_debt(&self, mut charge: Charge) -> Charge {
        for (tokens, dimension) in charge.iter_mut().zip(&self.dimensions) {
            if let Some(bucket) = &dimension.bucket
                && *tokens > bucket.limit()
            {
                *tokens = (*tokens).min(bucket.most_charged());
            }
        }
        charge
    }

    /// Charges a request that is being admitted.
    #[inline]
    pub(crate) fn charge(&mut self, now: u64, charge: &Charge) -> SendSnapshot {
        self.charges += 1;
        let number = self.charges;
        let seen = std::array::from_fn(|index| self.dimensions[index].seen);
        for (index, dimension) in self.dimensions.iter_mut().enumerate() {
            dimension.charge(now, number, charge[index]);
        }
        for limit in &mut self.additional {
            limit.take(number, charge);
        }
        self.last_admission = now;
        SendSnapshot {
            at: now,
            number,
            counted: *charge,
            seen,
        }
    }

    /// Replaces the tokens charged for a request, at `now`. Returns the old charge.
    pub(crate) fn recharge(&mut self, now: u64, request: &mut InFlight, new: Charge) -> Charge {
        let old = std::mem::replace(&mut request.charge, new);
        let number = request.sent.number;
        for index in [INPUT, OUTPUT, TOTAL] {
            let counted = &mut request.sent.counted[index];
            self.dimensions[index].recharge(now, number, old[index], new[index], counted);
        }
        self.recharge_additional(now, &request.sent, &old, &new);
        old
    }

    /// Gives back everything that was charged for a request, at `now`. Returns the old charge.
    pub(crate) fn refund(&mut self, now: u64, request: &mut InFlight) -> Charge {
        let old = std::mem::replace(&mut request.charge, NO_CHARGE);
        let counted = std::mem::replace(&mut request.sent.counted, NO_CHARGE);
        for (index, dimension) in self.dimensions.iter_mut().enumerate() {
            dimension.refund(now, request, old[index], counted[index]);
        }
        self.recharge_additional(now, &request.sent, &old, &NO_CHARGE);
        old
    }

    fn recharge_additional(&mut self, now: u64, sent: &SendSnapshot, old: &Charge, new: &Charge) {
        for limit in &mut self.additional {
            limit.advance(now);
            limit.recharge(sent, old, new);
        }
    }

    /// Records that the server has counted the charges of a request that count at its head.
    pub(crate) fn mark_seen(&mut self, counted: &Charge) {
        for (dimension, counted) in self.dimensions.iter_mut().zip(counted) {
            if dimension.counted == Counted::AtHead {
                dimension.seen = dimension.seen.wrapping_add(*counted as i64);
            }
        }
    }

    /// Records that a request has ended, so that the server has counted all of its charge.
    pub(crate) fn mark_ended(&mut self, request: &InFlight) {
        for (dimension, counted) in self.dimensions.iter_mut().zip(request.sent.counted) {
            if dimension.counted == Counted::AtEnd || !request.head_received {
                dimension.seen = dimension.seen.wrapping_add(counted as i64);
            }
        }
    }

    /// Returns the state of all limits at `now`.
    pub(crate) fn snapshot(&self, now: u64, margins: &Margins) -> Vec<DimensionSnapshot> {
        let main = self.known().map(|(index, bucket)| DimensionSnapshot {
            dimension: DIMENSIONS[index],
            limit: bucket.limit(),
            capacity: tokens(bucket.capacity()).max(0) as u64,
            available: tokens(bucket.level_at(now)),
            safety_margin: tokens(margins[index]).max(0) as u64,
            learned: self.dimensions[index].confirmed.is_some(),
            renews_in: None,
        });
        let additional = self.additional.iter();
        let additional = additional.map(|limit| limit.snapshot(now, margins[limit.dimension]));
        main.chain(additional).collect()
    }
}
