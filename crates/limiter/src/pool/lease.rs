//! The lease of a pool whose limits several processes share through a store.
//!
//! The store owns the levels. A pool asks it for a block, which is the charge of the head of the
//! queue and of a share of the requests behind it. The store charges the block at once and answers
//! the time from which on it may be used. Until then the level of the store is negative. So a block
//! takes one round trip, and each process has at most one of each class outstanding.
//!
//! The buckets of the pool are an image of the store's levels. Corrections of charges, and bounds
//! that response headers show, are collected and sent with the next block. Without answers from the
//! store, the pool admits by its share of the limits.

use std::time::Duration;

use crate::{
    limits::PoolLimits,
    pool::{
        bucket::{
            Bucket, Charge, DIMENSIONS, Margins, NO_CHARGE, UNIT, nanos, refill, tokens, units,
        },
        buckets::Buckets,
        queue::flow::{PRIORITIES, WaiterId},
        share_message::{
            ShareBlock, ShareLimit, ShareMessage, ShareOutcome, SharePeriod, SharePolicy,
            ShareReply, ShareSettings,
        },
    },
};

/// The time of the limit that the blocks of all processes take together, in nanoseconds.
const BLOCKS: u64 = 250_000_000;

/// The most work of a block of several requests, in nanoseconds.
const MAX_BLOCK: u64 = 1_000_000_000;

/// The wait after which the store is asked for a pause before a block is used.
const VERIFIED_AFTER: u64 = 1_000_000_000;

/// The shortest outage after which the local share still holds for a while, and the longest such
/// time. Other processes come back later, and have not charged the store yet.
const HELD_AFTER: u64 = 500_000_000;
const MAX_HOLD: u64 = 5_000_000_000;

/// The time between the returns of the first and the last process after an outage: 2 s.
const RETURNS_WITHIN: u64 = 2_000_000_000;

/// The tenths of the limits that processes use without the store. The rest makes up for levels that
/// were nearly empty, and for requests that arrive in another order.
const SHARE_TENTHS: u64 = 9;

/// The time in which requests of all processes reach the server, if some are busy: 500 ms. A level
/// of so much refill is left once headers have shown the server's level.
const TRANSIT: u64 = 500_000_000;

/// The time between two messages with settings: 5 s.
const SETTINGS_EVERY: u64 = 5_000_000_000;

/// The time after which a learned limit that still holds is sent again: 60 s.
const LEARNED_EVERY: u64 = 60_000_000_000;

/// The longest wait for a block of a request that waits without end, and until it is asked for
/// again after a refusal.
const MAX_WAIT: u64 = 3_600_000_000_000;
const MAX_RETRY: u64 = 30_000_000_000;
const MIN_RETRY: u64 = 1_000_000;

/// The divisor of the part of a bucket that is reserved for more urgent classes, by class.
const RESERVES: [Option<i128>; PRIORITIES.len()] = [Some(8), Some(64), None];

/// A request for a block.
#[derive(Clone, Copy, Debug)]
struct Ask {
    head: WaiterId,
    amount: Charge,
    margins: Margins,
    /// The work of the head, and of the whole block.
    head_work: u64,
    work: u64,
    /// The time at which the head gives up.
    expiry: u64,
    since: u64,
}

/// A block that may be used from a time on.
#[derive(Clone, Copy, Debug)]
struct Grant {
    head: WaiterId,
    amount: Charge,
    due: u64,
    /// A message that was built when the block was due must be answered first, since the scope may
    /// have been paused.
    verifies: bool,
}

/// A message whose answer is outstanding.
#[derive(Debug)]
struct Sent {
    id: u64,
    ask: Option<Ask>,
    at: u64,
    has_settings: bool,
    pause: Option<u64>,
    /// The positions of its limits, with their credits and ceilings.
    limits: Vec<(usize, i128, Option<i128>)>,
}

/// One limit of the pool, as far as it is shared.
#[derive(Debug)]
struct LeasedLimit {
    dimension: usize,
    period: SharePeriod,
    configured: Option<u64>,
    hint: Option<u64>,
    burst: u64,
    /// A limit that a header has named and the store does not know, with the time of the last
    /// message about it.
    learned: Option<u64>,
    learned_at: Option<u64>,
    /// Corrections that the store does not know, in units.
    credit: i128,
    /// The time at which the store's bucket was last full. What was charged later is given back
    /// as a whole.
    full_at: u64,
    /// Headers have lowered the level below the store's.
    is_bounded: bool,
    /// The most that the level can be after an outage, in units.
    ceiling: Option<i128>,
    /// The share of this process without the store, and the charges admitted by it.
    share: Option<Bucket>,
    used: i128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaseState {
    Shared,
    /// The store does not answer since this time.
    Local(u64),
}

/// The lease of a pool.
#[derive(Debug)]
pub(crate) struct Lease {
    patience: u64,
    fail_closed: bool,
    state: LeaseState,
    /// The time until which the local share holds beside the store.
    held_until: u64,
    /// The store is known to be unreachable.
    is_down: bool,
    /// The charges that may be admitted now, and the head that they were granted for.
    available: Charge,
    granted_for: Option<WaiterId>,
    grants: [Option<Grant>; PRIORITIES.len()],
    ask: Option<Ask>,
    sent: Option<Sent>,
    /// A message is due although no block is asked for.
    is_due: bool,
    retry_at: u64,
    pause: Option<u64>,
    limits: Vec<LeasedLimit>,
    /// Levels before a change.
    before: Vec<i128>,
    epoch: Option<u64>,
    processes: u32,
    quantum: u64,
    /// The work by which blocks so far were smaller than those of others.
    deficit: i64,
    /// The time that own blocks take, as a multiple of their work.
    slowdown: f64,
    settings_at: Option<u64>,
    next_id: u64,
}

impl Lease {
    pub(crate) fn new(
        policy: &SharePolicy,
        limits: &PoolLimits,
        are_hints: bool,
        buckets: &Buckets,
    ) -> Self {
        let caps = if are_hints {
            Default::default()
        } else {
            limits.caps()
        };
        let leased = (0..buckets.count()).map(|index| {
            let own = buckets.limit_of(index);
            let configured = caps.get(index).map_or(own, |cap| *cap);
            LeasedLimit {
                dimension: buckets.dimension_of(index),
                period: buckets.period(index),
                configured,
                hint: own.filter(|_| configured.is_none()),
                burst: nanos(limits.burst),
                learned: None,
                learned_at: None,
                credit: 0,
                full_at: u64::MAX,
                is_bounded: false,
                ceiling: None,
                share: None,
                used: 0,
            }
        });
        let limits: Vec<_> = leased.collect();
        Self {
            patience: nanos(policy.patience),
            fail_closed: policy.fail_closed,
            state: LeaseState::Shared,
            held_until: 0,
            is_down: false,
            available: NO_CHARGE,
            granted_for: None,
            grants: [None; PRIORITIES.len()],
            ask: None,
            sent: None,
            is_due: false,
            retry_at: 0,
            pause: None,
            before: vec![0; limits.len()],
            limits,
            epoch: None,
            processes: policy.assumed_processes.get(),
            quantum: 0,
            deficit: 0,
            slowdown: 1.0,
            settings_at: None,
            next_id: 0,
        }
    }

    pub(crate) const fn is_local(&self) -> bool {
        matches!(self.state, LeaseState::Local(_))
    }

    /// Returns true if requests must be rejected.
    pub(crate) const fn is_refusing(&self) -> bool {
        self.fail_closed && self.is_local()
    }

    /// Returns true if no answer and no block is outstanding.
    pub(crate) fn is_idle(&self) -> bool {
        self.sent.is_none() && self.ask.is_none() && self.grants.iter().all(Option::is_none)
    }

    /// Returns true if this request is being asked for, so that its wait is decided soon.
    pub(crate) fn is_asking_for(&self, id: WaiterId) -> bool {
        self.asked().is_some_and(|ask| ask.head == id) && !self.is_local()
    }

    fn asked(&self) -> Option<&Ask> {
        let sent = self.sent.as_ref().and_then(|sent| sent.ask.as_ref());
        sent.or(self.ask.as_ref())
    }

    /// Returns the factor by which other processes slow this one down.
    pub(crate) fn slowdown(&self) -> f64 {
        if self.is_local() { 1.0 } else { self.slowdown }
    }

    /// Returns true if the block at hand covers the charge. What was granted for `head` covers an
    /// estimate that has risen a little since.
    fn covers(&self, charge: &Charge, head: Option<WaiterId>) -> bool {
        let is_for_head = head.is_some() && head == self.granted_for;
        let slack = |charge: u64| if is_for_head { charge / 8 } else { 0 };
        let mut pairs = self.available.iter().zip(charge);
        pairs.all(|(available, charge)| available + slack(*charge) >= *charge)
    }

    /// Returns the earliest time at which the charge may be admitted without another call.
    pub(crate) fn earliest(&self, now: u64, charge: &Charge, head: Option<WaiterId>) -> u64 {
        if self.is_local() {
            return now.saturating_add(self.wait_behind(now, &NO_CHARGE, charge));
        }
        if self.covers(charge, head) {
            return if now < self.held_until {
                let wait = self.wait_behind(now, &NO_CHARGE, charge);
                now.saturating_add(wait).min(self.held_until)
            } else {
                now
            };
        }
        let due = self.grants.iter().flatten().map(|grant| {
            if grant.due > now {
                grant.due
            } else {
                grant.due.saturating_add(self.patience)
            }
        });
        let answered = self
            .asked()
            .map(|ask| ask.since.saturating_add(self.patience));
        let retry = Some(self.retry_at).filter(|at| *at > now);
        due.chain(answered).chain(retry).min().unwrap_or(u64::MAX)
    }

    /// Returns the nanoseconds until the charge is admitted by the local share behind `ahead`.
    pub(crate) fn wait_behind(&self, now: u64, ahead: &Charge, charge: &Charge) -> u64 {
        let shares = self.limits.iter().filter_map(|limit| {
            let share = limit.share.as_ref()?;
            let need = units(charge[limit.dimension]).min(share.capacity());
            Some(wait_at(share, now, need + units(ahead[limit.dimension])))
        });
        shares.max().unwrap_or(0)
    }

    /// Takes the charge of an admitted request.
    pub(crate) fn spend(&mut self, now: u64, charge: &Charge) {
        let is_local = self.is_local();
        for limit in &mut self.limits {
            let amount = units(charge[limit.dimension]);
            if is_local {
                limit.used += amount;
            }
            if let Some(share) = &mut limit.share {
                give(share, now, -amount);
            }
        }
        if is_local {
            return;
        }
        self.granted_for = None;
        let mut lacking = NO_CHARGE;
        for (index, charge) in charge.iter().enumerate() {
            lacking[index] = charge.saturating_sub(self.available[index]);
            self.available[index] = self.available[index].saturating_sub(*charge);
        }
        for limit in &mut self.limits {
            limit.credit -= units(lacking[limit.dimension]);
        }
    }

    /// Remembers the levels before a charge is corrected.
    pub(crate) fn before_change(&mut self, buckets: &Buckets) {
        for (index, before) in self.before.iter_mut().enumerate() {
            *before = buckets.bucket(index).map_or(0, Bucket::level);
        }
    }

    /// Records the correction of a charge from `old` to `new`, for a request sent at `sent_at`.
    pub(crate) fn after_change(
        &mut self,
        now: u64,
        buckets: &Buckets,
        sent_at: u64,
        old: &Charge,
        new: &Charge,
    ) {
        let is_local = matches!(self.state, LeaseState::Local(since) if sent_at >= since);
        for (index, limit) in self.limits.iter_mut().enumerate() {
            let change = match buckets.bucket(index) {
                // The local level refills between two answers as if this process was alone, so that
                // it may be full although the store's is not.
                Some(bucket) if is_local || sent_at <= limit.full_at => {
                    bucket.level() - self.before[index]
                }
                _ => units(old[limit.dimension]) - units(new[limit.dimension]),
            };
            if is_local {
                limit.used -= change;
                if let Some(share) = &mut limit.share {
                    give(share, now, change);
                }
            } else {
                limit.credit += change;
            }
        }
    }

    /// Records what headers have changed in the levels and limits.
    pub(crate) fn after_head(&mut self, now: u64, buckets: &Buckets) {
        for (index, limit) in self.limits.iter_mut().enumerate().take(DIMENSIONS.len()) {
            let Some(bucket) = buckets.bucket(index) else {
                continue;
            };
            let lowered = self.before[index] - bucket.level();
            if lowered > 0 {
                limit.is_bounded = true;
                self.is_due |= lowered > bucket.capacity() >> 6;
            }
            if buckets.dimensions[index].confirmed == Some(now)
                && limit
                    .learned_at
                    .is_none_or(|at| now.saturating_sub(at) >= LEARNED_EVERY)
            {
                limit.learned = Some(bucket.limit());
            }
        }
    }

    /// Records that headers have named another limit of this dimension.
    pub(crate) fn on_limit_changed(&mut self, index: usize, limit: u64) {
        self.limits[index].learned = Some(limit);
        self.is_due = true;
    }

    /// Records a pause by a 429.
    pub(crate) fn on_paused(&mut self, until: u64) {
        self.pause = Some(until);
        self.is_due = true;
    }

    /// Decides whether corrections are sent without a block: when the scope becomes idle, or when
    /// they are a considerable part of a limit.
    pub(crate) fn review(&mut self, buckets: &Buckets, is_idle: bool) {
        let is_large = |(index, limit): (usize, &LeasedLimit)| {
            let bucket = buckets.bucket(index);
            bucket.is_some_and(|bucket| limit.credit.abs() > bucket.capacity() >> 6)
        };
        let has_news = |limit: &LeasedLimit| limit.credit != 0 || limit.is_bounded;
        let idle = is_idle && (self.limits.iter().any(has_news) || self.available != NO_CHARGE);
        if idle || self.limits.iter().enumerate().any(is_large) {
            self.is_due = true;
        }
    }

    /// Makes due blocks available, and falls back to the local share if the store does not answer.
    pub(crate) fn advance(&mut self, now: u64, buckets: &Buckets) {
        let patience = self.patience;
        if self.held_until != 0 && self.held_until <= now && !self.is_local() {
            self.held_until = 0;
            self.limits.iter_mut().for_each(|limit| limit.share = None);
        }
        for grant in &mut self.grants {
            let Some(granted) = grant.filter(|grant| grant.due <= now) else {
                continue;
            };
            if granted.verifies && now < granted.due.saturating_add(patience) {
                let built = self.sent.as_ref().map(|sent| sent.at);
                self.is_due |= built.is_none_or(|at| at < granted.due);
                continue;
            }
            for (available, amount) in self.available.iter_mut().zip(granted.amount) {
                *available += amount;
            }
            self.granted_for = Some(granted.head);
            *grant = None;
        }
        let asked = self.asked().map(|ask| ask.since.saturating_add(patience));
        if asked.is_some_and(|until| until <= now) && !self.is_local() {
            self.go_local(now, buckets);
        }
    }

    /// Sets the reachability of the store.
    pub(crate) fn set_down(&mut self, now: u64, down: bool, buckets: &Buckets) {
        self.is_down = down;
        if down && !self.is_local() {
            self.go_local(now, buckets);
        }
        // The answer shows that the store works again.
        self.is_due |= self.is_local();
    }

    fn go_local(&mut self, now: u64, buckets: &Buckets) {
        self.state = LeaseState::Local(now);
        self.ask = None;
        self.is_due = true;
        let grants = self.grants.iter_mut().filter_map(Option::take);
        let amounts = grants.map(|grant| grant.amount);
        for amount in amounts.chain([std::mem::replace(&mut self.available, NO_CHARGE)]) {
            for limit in &mut self.limits {
                limit.credit += units(amount[limit.dimension]);
            }
        }
        let processes = self.processes.max(1);
        for (index, limit) in self.limits.iter_mut().enumerate() {
            limit.used = 0;
            limit.share = buckets.bucket(index).map(|bucket| {
                let used = u128::from(bucket.limit()) * u128::from(SHARE_TENTHS) / 10;
                let own = u64::try_from(used / u128::from(processes))
                    .unwrap_or(u64::MAX)
                    .max(1);
                let mut share = Bucket::full(own, burst_of(bucket), now);
                let ceiling = limit.ceiling.take().unwrap_or(i128::MAX);
                let mut level = bucket.level().min(ceiling) - transit(buckets, index);
                if level < 0 {
                    // The blocks that other processes were granted are no debt: they give them
                    // back, or they use them as a part of their share.
                    level = level.saturating_add(refill(bucket.limit(), BLOCKS)).min(0);
                }
                let level = (level / i128::from(processes)).max(share.floor());
                share.clamp(level, level);
                share
            });
        }
    }

    /// Charges the store for what was admitted by the local share, as far as time has not refilled
    /// it since. In a longer outage the store was refilled for all, and others may use their shares
    /// still. So its level is set to what remains if all have used as much as this process.
    fn go_shared(&mut self, now: u64) {
        let LeaseState::Local(since) = self.state else {
            return;
        };
        self.state = LeaseState::Shared;
        let outage = now.saturating_sub(since);
        let is_long = outage >= HELD_AFTER;
        self.held_until = if is_long {
            now.saturating_add(outage.clamp(RETURNS_WITHIN, MAX_HOLD))
        } else {
            0
        };
        for limit in &mut self.limits {
            let used = std::mem::take(&mut limit.used).max(0);
            match &limit.share {
                Some(share) if is_long && used > 0 => {
                    let level = share.level_at(now);
                    limit.ceiling = Some(level.saturating_mul(self.processes.max(1).into()));
                }
                Some(share) => {
                    let missing = share.capacity() - share.level_at(now);
                    limit.credit -= used.min(missing.max(0));
                }
                None => limit.credit -= used,
            }
            limit.share = limit.share.take().filter(|_| is_long);
        }
        self.is_due = true;
    }

    /// Asks for a block for the head of the queue, unless a block of its class or of a more urgent
    /// one is outstanding. `behind` is the charge of the requests that wait behind it. Returns true
    /// if it asks.
    pub(crate) fn ask(
        &mut self,
        now: u64,
        (head, charge, expiry): (WaiterId, &Charge, u64),
        behind: &Charge,
        buckets: &Buckets,
        margins: Margins,
    ) -> bool {
        let is_outstanding = self.grants[head.flow.class()..].iter().any(Option::is_some);
        if self.is_local()
            || self.is_down
            || self.asked().is_some()
            || is_outstanding
            || now < self.retry_at
            || self.covers(charge, Some(head))
        {
            return false;
        }
        let head_work = buckets.work(charge);
        let share = BLOCKS / u64::from(self.processes.max(1));
        let size = share.max(self.quantum.min(MAX_BLOCK));
        let target = size.saturating_add_signed(self.deficit);
        let room = target.saturating_sub(head_work) as f64;
        let part = (room / buckets.work(behind).max(1) as f64).min(1.0);
        let amount: Charge = std::array::from_fn(|index| {
            let behind = (behind[index] as f64 * part).ceil() as u64;
            (charge[index] + behind).saturating_sub(self.available[index])
        });
        let work = buckets.work(&amount);
        self.deficit = if part < 1.0 {
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            let missing = i64::try_from(target).unwrap_or(i64::MAX);
            let missing = missing.saturating_sub(i64::try_from(work).unwrap_or(i64::MAX));
            missing.clamp(-size, size)
        } else {
            0
        };
        self.ask = Some(Ask {
            head,
            amount,
            margins,
            head_work,
            work,
            expiry,
            since: now,
        });
        true
    }

    /// Returns true if [`take_message`](Self::take_message) returns a message.
    pub(crate) const fn has_message(&self) -> bool {
        self.sent.is_none() && (self.ask.is_some() || (self.is_due && !self.is_down))
    }

    /// Takes the next message to the store. `gives_back` is true if no request waits, so that the
    /// rest of a block is not needed.
    pub(crate) fn take_message(
        &mut self,
        now: u64,
        buckets: &Buckets,
        gives_back: bool,
    ) -> Option<ShareMessage> {
        if !self.has_message() {
            return None;
        }
        self.is_due = false;
        let ask = self.ask.take();
        if gives_back && ask.is_none() {
            let rest = std::mem::replace(&mut self.available, NO_CHARGE);
            for limit in &mut self.limits {
                limit.credit += units(rest[limit.dimension]);
            }
        }
        let unspent = self.unspent();
        let is_stale = |at: u64| now.saturating_sub(at) >= SETTINGS_EVERY;
        let has_settings = self.settings_at.is_none_or(is_stale)
            || self.limits.iter().any(|limit| limit.learned.is_some());
        let mut sent = Vec::with_capacity(self.limits.len());
        let mut limits = Vec::with_capacity(self.limits.len());
        for (index, limit) in self.limits.iter_mut().enumerate() {
            let bucket = buckets.bucket(index);
            // The store may know a limit that this process does not know yet.
            if bucket.is_none() && limit.period == SharePeriod::Minute && !has_settings {
                limit.credit = 0;
                continue;
            }
            let dimension = limit.dimension;
            let credit = std::mem::take(&mut limit.credit);
            let is_bounded = std::mem::take(&mut limit.is_bounded);
            let ceiling = limit.ceiling.take();
            let level = bucket.map(|bucket| bucket.level_at(now) - units(unspent[dimension]));
            let bound = level
                .filter(|_| is_bounded)
                .into_iter()
                .chain(ceiling)
                .min();
            let capacity = bucket.map_or(0, Bucket::capacity);
            let (mut cost, mut need) = (0, 0);
            if let Some(ask) = &ask {
                cost = ask.amount[dimension];
                let margin = ask.margins[dimension] + transit(buckets, index);
                let margin = margin.min(capacity / 10);
                let reserve =
                    RESERVES[ask.head.flow.class()].map_or(0, |divisor| capacity / divisor);
                need = cost.saturating_add(tokens(margin + reserve).max(0).unsigned_abs());
            }
            let start = level.filter(|_| self.epoch.is_some());
            let start = start.map(|level| float(level.min(capacity / 2) - credit));
            limits.push(ShareLimit {
                index,
                period: limit.period,
                cost,
                need,
                credit: float(credit),
                ceiling: bound.map(float),
                settings: ShareSettings {
                    configured: limit.configured,
                    hint: limit.hint,
                    learned: limit.learned,
                    burst: Duration::from_nanos(bucket.map_or(limit.burst, burst_of)),
                    start,
                },
            });
            if limit.learned.take().is_some() {
                limit.learned_at = Some(now);
            }
            sent.push((index, credit, ceiling));
        }
        if has_settings {
            self.settings_at = Some(now);
        }
        let until = self.pause.take();
        let pause = until.map(|until| Duration::from_nanos(until.saturating_sub(now)));
        self.next_id += 1;
        self.sent = Some(Sent {
            id: self.next_id,
            ask,
            at: now,
            has_settings,
            pause: until,
            limits: sent,
        });
        Some(ShareMessage {
            id: self.next_id,
            has_settings,
            pause: pause.filter(|pause| !pause.is_zero()),
            block: ask.map(|ask| ShareBlock {
                max_wait: Duration::from_nanos(ask.expiry.saturating_sub(now).min(MAX_WAIT)),
                work: Duration::from_nanos(ask.head_work),
            }),
            limits,
        })
    }

    /// Returns what the store has charged and no request has used.
    fn unspent(&self) -> Charge {
        let mut unspent = self.available;
        for grant in self.grants.iter().flatten() {
            for (sum, amount) in unspent.iter_mut().zip(grant.amount) {
                *sum += amount;
            }
        }
        unspent
    }

    /// Records that message `id` was not answered. It may have been applied or not, so that only
    /// corrections that lower levels are sent again.
    pub(crate) fn on_failed(&mut self, now: u64, id: u64, buckets: &Buckets) {
        let Some(sent) = self.sent.take_if(|sent| sent.id == id) else {
            return;
        };
        for (index, credit, ceiling) in sent.limits {
            self.limits[index].credit += credit.min(0);
            self.limits[index].ceiling = ceiling;
        }
        if sent.has_settings {
            self.settings_at = None;
            self.limits.iter_mut().for_each(|it| it.learned_at = None);
        }
        self.pause = self.pause.max(sent.pause);
        if !self.is_local() {
            self.go_local(now, buckets);
        }
        self.is_due = true;
    }

    /// Applies the answer to message `id`. Returns the refused request with its wait.
    pub(crate) fn on_reply(
        &mut self,
        now: u64,
        id: u64,
        reply: &ShareReply,
        buckets: &mut Buckets,
    ) -> Option<(WaiterId, u64)> {
        let sent = self.sent.take_if(|sent| sent.id == id)?;
        if reply.outcome == ShareOutcome::StateMissing {
            for (index, credit, ceiling) in sent.limits {
                self.limits[index].credit += credit;
                self.limits[index].ceiling = ceiling;
            }
            self.settings_at = None;
            self.pause = self.pause.max(sent.pause);
            self.ask = self.ask.or(sent.ask).filter(|_| !self.is_local());
            self.is_due = true;
            return None;
        }
        self.go_shared(now);
        self.epoch = Some(reply.epoch);
        if reply.processes > 0 {
            self.processes = reply.processes;
        }
        self.quantum = nanos(reply.quantum);
        let mut refused = None;
        match (reply.outcome, sent.ask) {
            (ShareOutcome::Granted(wait), Some(ask)) => {
                // No store grants later, unless it is broken.
                let wait = nanos(wait).min(MAX_WAIT);
                let slowdown = wait as f64 / ask.work.max(1) as f64;
                let slowdown = slowdown.clamp(1.0, f64::from(self.processes.max(1)));
                self.slowdown = f64::midpoint(self.slowdown, slowdown);
                self.grants[ask.head.flow.class()] = Some(Grant {
                    head: ask.head,
                    amount: ask.amount,
                    due: now.saturating_add(wait),
                    verifies: wait > VERIFIED_AFTER,
                });
            }
            (ShareOutcome::Refused(wait), Some(ask)) => {
                let wait = nanos(wait);
                self.retry_at = now.saturating_add((wait / 2).clamp(MIN_RETRY, MAX_RETRY));
                self.deficit = 0;
                refused = Some((ask.head, wait));
            }
            _ => {}
        }
        for grant in self.grants.iter_mut().flatten() {
            grant.verifies &= sent.at < grant.due;
        }
        let unspent = self.unspent();
        for ((index, ..), shared) in sent.limits.iter().zip(&reply.limits) {
            let limit = &mut self.limits[*index];
            limit.full_at = now.saturating_sub(nanos(shared.full_ago));
            if shared.limit > 0 {
                let is_configured = Some(shared.limit) == limit.configured;
                buckets.adopt_limit(now, *index, shared.limit, limit.burst, is_configured);
            }
            let level = i128::from(shared.level) * (UNIT / 1_000);
            let level = level + units(unspent[limit.dimension]) + limit.credit;
            buckets.set_level(*index, level);
        }
        refused
    }

    /// Returns true if another block may be asked for at once after a refusal.
    pub(crate) const fn retry_now(&mut self) {
        self.retry_at = 0;
    }
}

/// Returns the refill in the time in which requests reach the server, which headers have shown. The
/// requests of several processes arrive in another order than they are admitted.
fn transit(buckets: &Buckets, index: usize) -> i128 {
    let dimension = buckets.dimensions.get(index);
    let bucket = dimension.filter(|dimension| dimension.observed);
    let bucket = bucket.and_then(|dimension| dimension.bucket.as_ref());
    bucket.map_or(0, |bucket| refill(bucket.limit(), TRANSIT))
}

/// Returns the nanoseconds from `now` until the level is `need`.
fn wait_at(share: &Bucket, now: u64, need: i128) -> u64 {
    let missing = need - share.level_at(now);
    if missing <= 0 {
        return 0;
    }
    let limit = i128::from(share.limit().max(1));
    u64::try_from((missing + limit - 1) / limit).unwrap_or(u64::MAX)
}

/// Changes the level of a share at `now`.
fn give(share: &mut Bucket, now: u64, amount: i128) {
    share.refill(now);
    let level = share.level().saturating_add(amount);
    share.clamp(level, level);
}

/// Returns the nanoseconds of refill that a bucket holds.
fn burst_of(bucket: &Bucket) -> u64 {
    let limit = i128::from(bucket.limit().max(1));
    u64::try_from(bucket.capacity() / limit).unwrap_or(u64::MAX)
}

/// Returns units as tokens with their fraction.
fn float(units: i128) -> f64 {
    units as f64 / UNIT as f64
}
