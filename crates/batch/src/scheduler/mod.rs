//! The decisions of the layer, without a clock and without I/O.
//!
//! A [`Scheduler`] holds the queue of calls and the state of each batch. It takes the time as an
//! argument, says which request is due ([`Scheduler::next_action`]) and is told its outcome. The
//! layer and its driver are a shell around it, and the simulator of this project runs it in virtual
//! time.
//!
//! A batch is created only when its record is in the journal: [`Scheduler::take_records`] returns
//! the records, and [`Scheduler::on_journal`] reports that they were written.

mod batch;
mod interface;
mod latency;
mod pool;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tower_claude_core::event::BatchDecision;
use tower_claude_wire::Money;

use self::{
    batch::{Batch, Item, State},
    latency::Latencies,
    pool::{Flushed, ITEM_BYTES, Pool, QueuedCall},
};
use crate::{
    id::{BatchNumber, ItemId, Key, PoolId},
    journal::Record,
};

pub use self::interface::{
    Action, BatchCall, BatchSnapshot, Creation, Decision, ItemOutcome, LatencySnapshot, LineUse,
    Listed, Placement, ResultsEnd, SchedulerSettings, SharedPrefix, Status, Ticket, Verdict,
};

/// The time for which the API may not list or return a batch that it has created.
const SETTLES: Duration = Duration::from_secs(300);
/// The difference of ages within which a batch in the list may be the one that is looked for. It has
/// room for clocks that are wrong or were set, because its results are certain.
pub(crate) const SKEW: Duration = Duration::from_secs(3_600);
/// The time for which the API keeps the results of a batch, less a margin.
const KEPT: Duration = Duration::from_secs(28 * 86_400);
/// The time for which a batch without callers runs on, because clients ask again after a timeout.
const GRACE: Duration = Duration::from_secs(120);
/// The time for which no batch is created after the API has rejected one as such.
const CLOSED: Duration = Duration::from_secs(600);
/// The number of running batches of a pool above which they are polled by one list.
const LISTED: usize = 20;
/// The time after which the results of a batch are read again without delay, for a caller that
/// was attached since.
const CALM: Duration = Duration::from_secs(60);
/// The most calls that are remembered in batches that have ended.
const MOST_ITEMS: usize = 1_000_000;
/// The time between two searches for batches that are not needed any more.
const PRUNED: Duration = Duration::from_secs(60);
/// The percentage of batches that must end in time for a call to be queued. An answer that comes
/// too late costs half of an ordinary call more, one in time saves half.
const WORTH: usize = 75;

/// The questions with the same key.
#[derive(Debug, Default)]
struct KeyState {
    next: u32,
    /// The calls to which another caller can be attached.
    open: BTreeMap<u32, BatchNumber>,
    /// The number of calls.
    count: u32,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Queued(PoolId),
    InBatch(BatchNumber, usize),
    /// The answer is there, and the caller has not taken it yet.
    Answered(BatchNumber, usize),
}

/// The queue of calls and the state of all batches. See the [module](self).
#[derive(Debug)]
pub struct Scheduler {
    settings: SchedulerSettings,
    pools: BTreeMap<PoolId, Pool>,
    batches: BTreeMap<BatchNumber, Batch>,
    keys: HashMap<Key, KeyState>,
    places: HashMap<Ticket, Place>,
    latencies: Latencies,
    tickets: u64,
    queued_bytes: usize,
    rng: fastrand::Rng,
    records: Vec<Record>,
    is_durable: bool,
    pruned_at: Option<Instant>,
    verdicts: Vec<(Ticket, Verdict)>,
    decisions: Vec<Decision>,
    counters: BatchSnapshot,
}

impl Scheduler {
    /// Creates a scheduler. `seed` seeds the numbers of batches and the jitter.
    #[must_use]
    pub fn new(settings: SchedulerSettings, seed: u64) -> Self {
        Self {
            settings,
            pools: BTreeMap::new(),
            batches: BTreeMap::new(),
            keys: HashMap::new(),
            places: HashMap::new(),
            latencies: Latencies::default(),
            tickets: 0,
            queued_bytes: 0,
            rng: fastrand::Rng::with_seed(seed),
            records: Vec::new(),
            is_durable: false,
            pruned_at: None,
            verdicts: Vec::new(),
            decisions: Vec::new(),
            counters: BatchSnapshot::default(),
        }
    }

    /// Restores the batches of an earlier run. Callers that ask the same questions are attached.
    pub fn replay(&mut self, records: Vec<Record>, now: Instant, wall: SystemTime) {
        let mut order = Vec::new();
        for record in records {
            match record {
                Record::Planned {
                    batch,
                    pool,
                    at,
                    items,
                } => {
                    let items = items.into_iter().map(|id| Item {
                        id,
                        model: Arc::from(""),
                        body: None,
                        prefix: None,
                        ticket: None,
                        live_at: now,
                        wanted: true,
                        delivered: None,
                        redelivered_until: None,
                    });
                    let mut planned = Batch::new(pool, items.collect(), now, at);
                    (planned.state, planned.journaled) = (State::Unknown, true);
                    self.batches.insert(batch, planned);
                    order.push(batch);
                }
                Record::Created { batch, id } => {
                    if let Some(batch) = self.batches.get_mut(&batch) {
                        batch.state = State::Running { id };
                    }
                }
                Record::Delivered { batch, at, items } => {
                    if let Some(batch) = self.batches.get_mut(&batch) {
                        for id in items {
                            let item = batch.index.get(&id).copied();
                            if let Some(item) = item.and_then(|at| batch.items.get_mut(at)) {
                                item.delivered = Some(at);
                            }
                        }
                    }
                }
                Record::Closed { batch } => {
                    self.batches.remove(&batch);
                }
            }
        }
        let age = |at: SystemTime| wall.duration_since(at).unwrap_or_default();
        self.batches.retain(|_, batch| age(batch.planned) < KEPT);
        for number in order {
            let Some(batch) = self.batches.get_mut(&number) else {
                continue;
            };
            for item in &mut batch.items {
                // The answer may have been lost with its caller.
                let left = item
                    .delivered
                    .and_then(|at| self.settings.redelivery.checked_sub(age(at)));
                item.redelivered_until = left.filter(|left| !left.is_zero()).map(|left| now + left);
                let key = self.keys.entry(item.id.key).or_default();
                key.count += 1;
                key.next = key.next.max(item.id.ordinal.saturating_add(1));
                if item.delivered.is_none() || item.redelivered_until.is_some() {
                    key.open.insert(item.id.ordinal, number);
                }
            }
        }
    }

    /// Returns the records that restore the present state, for the compaction of a journal.
    #[must_use]
    pub fn snapshot_records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (&number, batch) in self.batches.iter().filter(|(_, batch)| batch.journaled) {
            records.push(batch.record(number));
            if let Some(id) = batch.id().filter(|_| batch.is_certain) {
                let id = id.to_owned();
                records.push(Record::Created { batch: number, id });
            }
            let mut delivered: BTreeMap<SystemTime, Vec<ItemId>> = BTreeMap::new();
            for item in &batch.items {
                if let Some(at) = item.delivered {
                    delivered.entry(at).or_default().push(item.id);
                }
            }
            records.extend(delivered.into_iter().map(|(at, items)| Record::Delivered {
                batch: number,
                at,
                items,
            }));
        }
        records
    }

    /// Places a new call.
    pub fn enqueue(&mut self, call: BatchCall, now: Instant) -> Placement {
        let live_at = call.deadline.checked_sub(self.settings.live_time);
        let Some(live_at) = live_at.filter(|at| *at > now) else {
            return self.pass("tolerance");
        };
        if let Some(ticket) = self.attach(&call, live_at, now) {
            return Placement::Waits { ticket, live_at };
        }
        let pool = self.pools.entry(call.pool).or_default();
        if pool.closed_until.is_some_and(|until| until > now) {
            return self.pass("closed");
        }
        if now + self.latencies.quantile(&call.model, WORTH) > live_at {
            return self.pass("latency");
        }
        let bytes = call.body.len() + ITEM_BYTES;
        if bytes > self.settings.max_bytes {
            return self.pass("size");
        }
        if self.count_queued() >= self.settings.max_queued
            || self.queued_bytes + bytes > self.settings.max_queued_bytes
        {
            return self.pass("full");
        }
        let ticket = self.next_ticket();
        let key = self.keys.entry(call.key).or_default();
        let id = ItemId::new(call.key, key.next);
        key.next = key.next.wrapping_add(1);
        key.count += 1;
        let age = self.settings.max_age.min((call.deadline - now) / 10);
        let queued = QueuedCall {
            id,
            model: call.model,
            body: call.body,
            prefix: call.prefix,
            since: now,
            live_at,
            age_at: now + age,
            behind: None,
        };
        self.queued_bytes += bytes;
        self.places.insert(ticket, Place::Queued(call.pool));
        let model = Some(queued.model.clone());
        let pool = self.pools.entry(call.pool).or_default();
        pool.push(ticket, queued, &self.latencies);
        self.decide(BatchDecision::Queued, "", 1, None, model);
        Placement::Waits { ticket, live_at }
    }

    /// Counts a call that is sent live at once.
    pub fn pass(&mut self, because: &'static str) -> Placement {
        *self.counters.passed.entry(because).or_default() += 1;
        self.decide(BatchDecision::Passed, because, 1, None, None);
        Placement::Live(because)
    }

    /// Attaches a call to a batch that has its question and no caller for it.
    fn attach(&mut self, call: &BatchCall, live_at: Instant, now: Instant) -> Option<Ticket> {
        let key = self.keys.get_mut(&call.key)?;
        let (number, at) = loop {
            let (ordinal, number) = key.open.pop_first()?;
            let item = ItemId::new(call.key, ordinal);
            let batch = self.batches.get(&number);
            // Others are too old to be delivered again.
            if let Some(at) = batch.and_then(|batch| batch.attachable(item, now)) {
                break (number, at);
            }
        };
        let batch = self.batches.get_mut(&number)?;
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        let item = &mut batch.items[at];
        (item.ticket, item.live_at) = (Some(ticket), live_at);
        (item.delivered, item.redelivered_until) = (None, None);
        item.wanted = true;
        item.model = call.model.clone();
        if batch.id().is_none() || !batch.is_certain {
            // Sent again if the batch was not created.
            let item = &mut batch.items[at];
            item.body = Some(call.body.clone());
            item.prefix = call.prefix;
        }
        batch.waiting += 1;
        batch.cancel_at = None;
        let was_read = matches!(batch.state, State::Ended { .. }) && batch.read_from > 0;
        if !was_read {
            batch.next_at = batch.next_at.min(now);
        } else if batch.next_at + CALM < now {
            batch.failures = 0;
        }
        let id = batch.id().map(str::to_owned);
        self.places.insert(ticket, Place::InBatch(number, at));
        self.counters.attached += 1;
        let model = Some(call.model.clone());
        self.decide(BatchDecision::Attached, "", 1, id, model);
        Some(ticket)
    }

    /// Removes a call whose caller has gone away.
    pub fn withdraw(&mut self, ticket: Ticket, now: Instant) {
        self.leave(ticket, true, now);
    }

    /// Removes a call that is sent live because its time has come.
    pub fn go_live(&mut self, ticket: Ticket, now: Instant) {
        if self.leave(ticket, false, now) {
            self.counters.sent_twice += 1;
        }
        self.count_live("deadline", 1);
    }

    /// Returns true if a batch may still be billed for the call.
    fn leave(&mut self, ticket: Ticket, may_come_back: bool, now: Instant) -> bool {
        match self.places.remove(&ticket) {
            None => false,
            Some(Place::Queued(pool)) => {
                let call = self
                    .pools
                    .get_mut(&pool)
                    .and_then(|pool| pool.remove(ticket));
                if let Some(call) = call {
                    self.queued_bytes -= call.bytes();
                    self.forget_item(call.id);
                }
                false
            }
            Some(Place::InBatch(number, at) | Place::Answered(number, at)) => {
                let Some(batch) = self.batches.get_mut(&number) else {
                    return false;
                };
                let is_unsent = batch.state == State::Planned && !batch.busy;
                let may_run = batch.may_run();
                let item = &mut batch.items[at];
                item.ticket = None;
                item.wanted = may_come_back && !is_unsent;
                if is_unsent {
                    item.body = None;
                }
                let (id, wanted) = (item.id, item.wanted);
                batch.waiting -= 1;
                if batch.waiting == 0 {
                    if is_unsent {
                        self.close(number);
                        return false;
                    }
                    batch.cancel_at = if batch.is_over() {
                        Some(now)
                    } else if self.settings.persistent {
                        None
                    } else {
                        Some(now + GRACE)
                    };
                }
                if wanted {
                    let key = self.keys.entry(id.key).or_default();
                    key.open.insert(id.ordinal, number);
                }
                may_run
            }
        }
    }

    /// Records that the caller has its answer.
    pub fn delivered(&mut self, ticket: Ticket, wall: SystemTime) {
        let Some(Place::Answered(number, at)) = self.places.remove(&ticket) else {
            return;
        };
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let item = &mut batch.items[at];
        item.ticket = None;
        item.delivered = Some(wall);
        let id = item.id;
        batch.waiting -= 1;
        match self.records.last_mut() {
            Some(Record::Delivered { batch, at, items }) if *batch == number && *at == wall => {
                items.push(id);
            }
            _ => self.records.push(Record::Delivered {
                batch: number,
                at: wall,
                items: vec![id],
            }),
        }
    }

    /// Divides the queues that are due into batches. Their records must be written next.
    pub fn plan(&mut self, now: Instant, wall: SystemTime) {
        self.prune(now, wall);
        let (settings, latencies, rng) = (&self.settings, &self.latencies, &mut self.rng);
        let is_due = |pool: &Pool| pool.due_at(settings).is_some_and(|at| at <= now);
        let mut planned = Vec::new();
        for (id, pool) in self.pools.iter_mut().filter(|(_, pool)| is_due(pool)) {
            let number = || BatchNumber(rng.u64(..));
            let flushed = pool.flush(now, latencies, settings, number);
            planned.extend(
                flushed
                    .into_iter()
                    .map(|(number, part)| (number, *id, part)),
            );
        }
        for (number, pool, part) in planned {
            let Flushed { calls, primes } = part;
            let mut items = Vec::with_capacity(calls.len());
            for (ticket, call) in calls {
                self.queued_bytes -= call.bytes();
                self.places
                    .insert(ticket, Place::InBatch(number, items.len()));
                items.push(Item {
                    id: call.id,
                    model: call.model,
                    body: Some(call.body),
                    prefix: call.prefix,
                    ticket: Some(ticket),
                    live_at: call.live_at,
                    wanted: true,
                    delivered: None,
                    redelivered_until: None,
                });
            }
            self.insert_planned(number, pool, items, primes, now, wall);
        }
    }

    fn insert_planned(
        &mut self,
        number: BatchNumber,
        pool: PoolId,
        items: Vec<Item>,
        primes: Option<u64>,
        now: Instant,
        wall: SystemTime,
    ) {
        let mut batch = Batch::new(pool, items, now, wall);
        batch.primes = primes;
        self.records.push(batch.record(number));
        self.is_durable = true;
        self.batches.insert(number, batch);
    }

    /// Returns the records to write, and true if they must be durable.
    pub fn take_records(&mut self) -> (Vec<Record>, bool) {
        let is_durable = std::mem::take(&mut self.is_durable);
        (std::mem::take(&mut self.records), is_durable)
    }

    /// Records that the records were written or not. If not, the batches are not created and their
    /// calls are sent live.
    pub fn on_journal(&mut self, written: bool) {
        let waiting = self
            .batches
            .iter_mut()
            .filter(|(_, batch)| !batch.journaled);
        let mut lost = Vec::new();
        for (number, batch) in waiting {
            batch.journaled = written;
            if !written {
                lost.push(*number);
            }
        }
        for number in lost {
            self.dissolve(number, Verdict::Live("journal"));
            // It was not written, or its calls are live.
            self.close(number);
        }
    }

    /// Returns the next request that is due, and counts it as in flight.
    pub fn next_action(&mut self, now: Instant) -> Option<Action> {
        let mut open: BTreeMap<PoolId, usize> = BTreeMap::new();
        for batch in self.batches.values().filter(|batch| batch.is_polled()) {
            *open.entry(batch.pool).or_default() += 1;
        }
        let is_listed = |batch: &Batch| {
            !batch.is_unlisted && open.get(&batch.pool).is_some_and(|count| *count > LISTED)
        };
        let mut polls = Vec::new();
        let mut lists = BTreeSet::new();
        for (&number, batch) in &mut self.batches {
            if batch.due_at().is_none_or(|at| at > now) {
                continue;
            }
            let pool = batch.pool;
            match &batch.state {
                State::Planned => {
                    batch.busy = true;
                    batch.sent_at = Some(now);
                    let items = batch.items.iter().filter_map(|item| {
                        let body = item.body.clone()?;
                        Some((item.id.custom_id(number), body))
                    });
                    let items = items.collect();
                    return Some(Action::Create {
                        batch: number,
                        pool,
                        items,
                    });
                }
                State::Running { id } if batch.cancel_at.is_some_and(|at| at <= now) => {
                    let id = id.clone();
                    self.cancelled(number, now);
                    return Some(Action::Cancel { pool, id });
                }
                State::Running { .. } if !is_listed(batch) => polls.push(number),
                State::Running { .. } | State::Unknown => {
                    lists.insert(pool);
                }
                State::Ended { id } => {
                    batch.busy = true;
                    batch.read_from = self.tickets;
                    let id = id.clone();
                    return Some(Action::Results {
                        batch: number,
                        pool,
                        id,
                    });
                }
            }
        }
        for pool in lists {
            let state = self.pools.entry(pool).or_default();
            if std::mem::replace(&mut state.is_listing, true) {
                continue;
            }
            let searched = self.batches.values().filter(|batch| {
                let is_open = matches!(batch.state, State::Unknown | State::Running { .. });
                batch.pool == pool && is_open
            });
            let since = searched.map(|batch| batch.planned).min();
            let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
            return Some(Action::List { pool, since });
        }
        polls.into_iter().find_map(|number| {
            let batch = self.batches.get_mut(&number)?;
            let (pool, id) = (batch.pool, batch.id()?.to_owned());
            batch.busy = true;
            Some(Action::Retrieve {
                batch: number,
                pool,
                id,
            })
        })
    }

    /// Returns the time at which something is due. `None` if nothing is before a new call or an
    /// outcome.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        let pools = self.pools.values();
        let queues = pools.filter_map(|pool| pool.due_at(&self.settings));
        let batches = self.batches.values().filter_map(|batch| {
            let is_listing = || {
                let pool = self.pools.get(&batch.pool);
                pool.is_some_and(|pool| pool.is_listing)
            };
            // Those that the list has are due again when it is there.
            let is_listed = match batch.state {
                State::Unknown => is_listing(),
                State::Running { .. } => !batch.is_unlisted && is_listing(),
                State::Planned | State::Ended { .. } => false,
            };
            batch.due_at().filter(|_| !is_listed)
        });
        queues.chain(batches).min()
    }

    /// Records the outcome of a creation.
    pub fn on_created(
        &mut self,
        number: BatchNumber,
        creation: Creation,
        now: Instant,
        wall: SystemTime,
    ) {
        let random = self.rng.f64();
        let first = self.first_poll(number);
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        batch.busy = false;
        let calls = batch.items.len();
        match creation {
            Creation::Created { id } => {
                batch.state = State::Running { id: id.clone() };
                for item in &mut batch.items {
                    item.body = None;
                }
                batch.schedule(now, first, random);
                self.records.push(Record::Created {
                    batch: number,
                    id: id.clone(),
                });
                self.is_durable = true;
                self.decide(BatchDecision::Created, "", calls, Some(id), None);
            }
            Creation::NotTaken { retry_after } => {
                batch.retry(now, retry_after, random);
                if batch.waiting == 0 {
                    self.close(number);
                }
            }
            Creation::TooLarge if calls > 1 => self.split(number, now, wall),
            Creation::TooLarge => {
                self.dissolve(number, Verdict::Live("too_large"));
                self.close(number);
            }
            Creation::Rejected => {
                let pool = batch.pool;
                self.dissolve(number, Verdict::Live("rejected"));
                self.close(number);
                let pool = self.pools.entry(pool).or_default();
                pool.closed_until = Some(now + CLOSED);
                let rest: Vec<Ticket> = pool.queue.keys().copied().collect();
                self.end_queued(&rest, Verdict::Live("rejected"));
            }
            Creation::Denied => {
                let pool = batch.pool;
                self.dissolve(number, Verdict::Denied);
                self.close(number);
                self.deny_queued(pool);
            }
            Creation::Ambiguous => {
                batch.state = State::Unknown;
                batch.schedule(now, Duration::ZERO, random);
                self.decide(BatchDecision::Ambiguous, "", calls, None, None);
            }
        }
    }

    /// Records the state of a batch.
    pub fn on_status(
        &mut self,
        number: BatchNumber,
        status: Status,
        now: Instant,
        wall: SystemTime,
    ) {
        let random = self.rng.f64();
        let first = self.first_poll(number);
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        batch.busy = false;
        match status {
            Status::Running => batch.schedule(now, first, random),
            Status::Ended => self.ended(number, now),
            Status::NotFound => self.not_found(number, now, wall),
            Status::Denied => self.deny_batch(number, now),
            Status::Failed { retry_after } => batch.retry(now, retry_after, random),
        }
    }

    /// Records the list of the batches of a pool. `None` if listing failed.
    ///
    /// `is_complete` is true if the list has all batches since the time in [`Action::List`].
    pub fn on_list(
        &mut self,
        pool: PoolId,
        list: Option<&[Listed]>,
        is_complete: bool,
        now: Instant,
        wall: SystemTime,
    ) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.is_listing = false;
        }
        let ids = self.batches.values().filter_map(|batch| batch.id());
        let known: BTreeSet<String> = ids.map(str::to_owned).collect();
        let open = self.batches.iter().filter(|(_, batch)| {
            let is_open = matches!(batch.state, State::Unknown | State::Running { .. });
            batch.pool == pool && !batch.busy && is_open
        });
        let open: Vec<BatchNumber> = open.map(|(number, _)| *number).collect();
        for number in open {
            let random = self.rng.f64();
            let first = self.first_poll(number);
            let Some(batch) = self.batches.get_mut(&number) else {
                continue;
            };
            let Some(list) = list else {
                if batch.next_at <= now {
                    batch.retry(now, None, random);
                }
                continue;
            };
            if let Some(id) = batch.id() {
                match list.iter().find(|listed| listed.id == id) {
                    Some(listed) if listed.ended => self.ended(number, now),
                    Some(_) => batch.schedule(now, first, random),
                    None => batch.is_unlisted = true,
                }
                continue;
            }
            let age = wall.duration_since(batch.planned).unwrap_or_default();
            let total = batch.items.len() as u64;
            let mut candidates = list.iter().filter(|listed| {
                listed.total == total
                    && listed.age <= age + SKEW
                    && listed.age + SKEW >= age
                    && !known.contains(&listed.id)
                    && !batch.others.contains(&listed.id)
            });
            if let Some(ended) = candidates.clone().find(|listed| listed.ended) {
                // Its results show if it is the one.
                batch.state = State::Ended {
                    id: ended.id.clone(),
                };
                batch.is_certain = false;
                batch.next_at = now;
            } else if candidates.next().is_some() || age < SETTLES || !is_complete {
                batch.schedule(now, Duration::ZERO, random);
            } else {
                self.not_created(number, now);
            }
        }
    }

    /// Records one result that was read for [`Action::Results`].
    pub fn on_line(
        &mut self,
        number: BatchNumber,
        custom_id: &str,
        outcome: ItemOutcome,
        now: Instant,
    ) -> LineUse {
        let Some(batch) = self.batches.get(&number) else {
            return LineUse::Skip;
        };
        let is_certain = batch.is_certain;
        let parsed = ItemId::parse_custom_id(custom_id).filter(|(_, of)| *of == number);
        let Some((id, _)) = parsed else {
            return match is_certain {
                true => LineUse::Skip,
                false => LineUse::OtherBatch,
            };
        };
        if !is_certain {
            self.found(number, now);
        }
        let Some(batch) = self.batches.get_mut(&number) else {
            return LineUse::Skip;
        };
        let pool = batch.pool;
        let batch_id = batch.id().map(str::to_owned);
        let Some(&at) = batch.index.get(&id) else {
            return LineUse::Skip;
        };
        let item = &mut batch.items[at];
        let is_useful = matches!(
            outcome,
            ItemOutcome::Succeeded { .. } | ItemOutcome::Failed | ItemOutcome::Denied
        );
        if !is_useful {
            item.wanted = false;
            if let Some(key) = self.keys.get_mut(&id.key) {
                key.open.remove(&id.ordinal);
            }
        }
        let model = item.model.clone();
        if let (ItemOutcome::Succeeded { cache, .. }, Some(prefix)) = (outcome, item.prefix)
            && prefix.lasts_an_hour
            && batch.primes.is_none()
            && let Some(pool) = self.pools.get_mut(&pool)
        {
            pool.learn_hits(cache.0, cache.1);
        }
        let item = &mut batch.items[at];
        let Some(ticket) = item.ticket else {
            return LineUse::Skip;
        };
        // A duplicate of a result that was delivered.
        if !matches!(self.places.get(&ticket), Some(Place::InBatch(..))) {
            return LineUse::Skip;
        }
        if !is_useful {
            item.ticket = None;
            batch.waiting -= 1;
            self.places.remove(&ticket);
            let because = match outcome {
                ItemOutcome::Expired => "expired",
                ItemOutcome::Canceled => "canceled",
                _ => "errored",
            };
            self.end(ticket, Verdict::Live(because));
            return LineUse::Skip;
        }
        self.places.insert(ticket, Place::Answered(number, at));
        match outcome {
            ItemOutcome::Succeeded {
                tokens,
                cost,
                saved,
                ..
            } => {
                self.counters.answered += 1;
                self.counters.tokens += tokens;
                self.counters.cost += cost;
                self.counters.saved += saved;
                self.decide(BatchDecision::Answered, "", 1, batch_id, Some(model));
                if let Some(decision) = self.decisions.last_mut() {
                    (decision.cost, decision.saved) = (cost, saved);
                }
            }
            outcome => {
                self.counters.failed += 1;
                self.decide(BatchDecision::Failed, "errored", 1, batch_id, Some(model));
                if outcome == ItemOutcome::Denied {
                    self.deny_queued(pool);
                }
            }
        }
        LineUse::Deliver(ticket)
    }

    /// Records the end of [`Action::Results`].
    pub fn on_results(
        &mut self,
        number: BatchNumber,
        end: ResultsEnd,
        now: Instant,
        wall: SystemTime,
    ) {
        let random = self.rng.f64();
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        batch.busy = false;
        if !batch.is_certain {
            // Either another batch, or its results could not be read yet.
            if end == ResultsEnd::Complete
                && let Some(id) = batch.id().map(str::to_owned)
            {
                batch.others.insert(id);
            }
            (batch.state, batch.is_certain) = (State::Unknown, true);
            batch.retry(now, None, random);
            return;
        }
        match end {
            ResultsEnd::Complete => {
                // Callers that were attached while the results were read need them once more.
                batch.retry(now, None, random);
                let (read_from, places) = (batch.read_from, &mut self.places);
                let mut missing = Vec::new();
                for item in &mut batch.items {
                    let ticket = item.ticket.filter(|ticket| ticket.0 < read_from);
                    if let Some(ticket) = ticket
                        && matches!(places.get(&ticket), Some(Place::InBatch(..)))
                    {
                        places.remove(&ticket);
                        (item.ticket, item.wanted) = (None, false);
                        batch.waiting -= 1;
                        missing.push(ticket);
                    }
                }
                for ticket in missing {
                    self.end(ticket, Verdict::Live("missing"));
                }
            }
            ResultsEnd::NotFound => self.not_found(number, now, wall),
            ResultsEnd::Denied => self.deny_batch(number, now),
            ResultsEnd::Failed { retry_after } => batch.retry(now, retry_after, random),
        }
    }

    /// Returns the calls whose wait has ended without an answer.
    pub fn take_verdicts(&mut self) -> Vec<(Ticket, Verdict)> {
        std::mem::take(&mut self.verdicts)
    }

    /// Returns the decisions since the last call.
    pub fn take_decisions(&mut self) -> Vec<Decision> {
        std::mem::take(&mut self.decisions)
    }

    /// Returns true if calls of this pool wait, or batches of it are known.
    #[must_use]
    pub fn has_pool(&self, pool: PoolId) -> bool {
        self.pools.contains_key(&pool) || self.batches.values().any(|batch| batch.pool == pool)
    }

    /// Returns the state.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> BatchSnapshot {
        let queues = || self.pools.values().flat_map(|pool| pool.queue.values());
        let open = || self.batches.values().filter(|batch| batch.may_run());
        let latency = self.latencies.models().map(|(model, batches)| {
            let quantile = |percent| self.latencies.quantile(model, percent);
            let snapshot = LatencySnapshot {
                batches,
                p50: quantile(50),
                p95: quantile(95),
            };
            (model.clone(), snapshot)
        });
        let oldest = queues().map(|call| call.since).min();
        BatchSnapshot {
            queued: queues().count(),
            queued_bytes: self.queued_bytes,
            in_batches: self.batches.values().map(|batch| batch.waiting).sum(),
            batches: open().count(),
            unknown: open().filter(|batch| batch.state == State::Unknown).count(),
            oldest: oldest.map(|since| now.saturating_duration_since(since)),
            latency: latency.collect(),
            ..self.counters.clone()
        }
    }

    fn next_ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        ticket
    }

    fn count_queued(&self) -> usize {
        self.pools.values().map(|pool| pool.queue.len()).sum()
    }

    /// Returns the time before which a batch is not expected to end.
    fn first_poll(&self, number: BatchNumber) -> Duration {
        let model = self
            .batches
            .get(&number)
            .and_then(|batch| batch.items.first());
        model.map_or(Duration::ZERO, |item| {
            self.latencies.quantile(&item.model, 10)
        })
    }

    /// Adds a decision, or counts it as one with the last one.
    fn decide(
        &mut self,
        decision: BatchDecision,
        because: &'static str,
        calls: usize,
        batch: Option<String>,
        model: Option<Arc<str>>,
    ) {
        if let Some(last) = self.decisions.last_mut()
            && (last.decision, last.because) == (decision, because)
            && (&last.batch, &last.model) == (&batch, &model)
            && (last.latency, last.cost) == (None, Money::ZERO)
        {
            last.calls += calls;
            return;
        }
        self.decisions.push(Decision {
            decision,
            because,
            calls,
            batch,
            model,
            latency: None,
            cost: Money::ZERO,
            saved: Money::ZERO,
        });
    }

    fn count_live(&mut self, because: &'static str, calls: usize) {
        *self.counters.went_live.entry(because).or_default() += calls as u64;
        self.decide(BatchDecision::WentLive, because, calls, None, None);
    }

    /// Ends the wait of a call that has no place any more.
    fn end(&mut self, ticket: Ticket, verdict: Verdict) {
        self.verdicts.push((ticket, verdict));
        match verdict {
            Verdict::Live(because) => self.count_live(because, 1),
            Verdict::Denied => {
                self.counters.failed += 1;
                self.decide(BatchDecision::Failed, "denied", 1, None, None);
            }
        }
    }

    /// Ends the wait of calls in the queue.
    fn end_queued(&mut self, tickets: &[Ticket], verdict: Verdict) {
        for &ticket in tickets {
            let Some(Place::Queued(pool)) = self.places.remove(&ticket) else {
                continue;
            };
            let call = self
                .pools
                .get_mut(&pool)
                .and_then(|pool| pool.remove(ticket));
            if let Some(call) = call {
                self.queued_bytes -= call.bytes();
                self.forget_item(call.id);
            }
            self.end(ticket, verdict);
        }
    }

    /// Ends the wait of all calls in the queue of a pool whose credential is not accepted.
    fn deny_queued(&mut self, pool: PoolId) {
        let tickets = self.pools.get(&pool).map(|pool| pool.queue.keys().copied());
        let tickets: Vec<Ticket> = tickets.into_iter().flatten().collect();
        self.end_queued(&tickets, Verdict::Denied);
    }

    /// Ends the wait of all calls of a batch. Their results stay available.
    fn deny_batch(&mut self, number: BatchNumber, now: Instant) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let pool = batch.pool;
        batch.retry(now, Some(CALM), 0.5);
        let tickets: Vec<Ticket> = batch.items.iter().filter_map(|item| item.ticket).collect();
        for ticket in tickets {
            if matches!(self.places.get(&ticket), Some(Place::InBatch(..))) {
                self.leave(ticket, true, now);
                self.end(ticket, Verdict::Denied);
            }
        }
        self.deny_queued(pool);
    }

    /// Ends the wait of all calls of a batch whose results are of no use.
    fn dissolve(&mut self, number: BatchNumber, verdict: Verdict) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        batch.waiting = 0;
        let mut tickets = Vec::new();
        for item in &mut batch.items {
            item.wanted = false;
            tickets.extend(item.ticket.take());
        }
        for ticket in tickets {
            self.places.remove(&ticket);
            self.end(ticket, verdict);
        }
    }

    /// Forgets a batch.
    fn close(&mut self, number: BatchNumber) {
        self.dissolve(number, Verdict::Live("closed"));
        let Some(batch) = self.batches.remove(&number) else {
            return;
        };
        for item in batch.items {
            if let Some(key) = self.keys.get_mut(&item.id.key)
                && key.open.get(&item.id.ordinal) == Some(&number)
            {
                key.open.remove(&item.id.ordinal);
            }
            self.forget_item(item.id);
        }
        if let Some(pool) = self.pools.get_mut(&batch.pool) {
            pool.release(number, None);
        }
        self.records.push(Record::Closed { batch: number });
    }

    fn forget_item(&mut self, id: ItemId) {
        if let Some(key) = self.keys.get_mut(&id.key) {
            key.count -= 1;
            if key.count == 0 {
                self.keys.remove(&id.key);
            }
        }
    }

    /// Divides a batch that the API does not take as it is.
    fn split(&mut self, number: BatchNumber, now: Instant, wall: SystemTime) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let (pool, mut first) = (batch.pool, std::mem::take(&mut batch.items));
        batch.waiting = 0;
        self.close(number);
        let second = first.split_off(first.len() / 2);
        for items in [first, second] {
            let number = BatchNumber(self.rng.u64(..));
            for (at, item) in items.iter().enumerate() {
                if let Some(ticket) = item.ticket {
                    self.places.insert(ticket, Place::InBatch(number, at));
                }
            }
            self.insert_planned(number, pool, items, None, now, wall);
        }
    }

    /// Records that a batch has ended. Its results are read if a caller waits for them.
    fn ended(&mut self, number: BatchNumber, now: Instant) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let State::Running { id } = &batch.state else {
            return;
        };
        let (id, calls, pool) = (id.clone(), batch.items.len(), batch.pool);
        batch.state = State::Ended { id: id.clone() };
        batch.ended_at = Some(now);
        (batch.failures, batch.next_at) = (0, now);
        let latency = batch
            .sent_at
            .map(|sent| now.saturating_duration_since(sent));
        let models = batch.models();
        let primed = batch.primes.zip(batch.sent_at);
        if let Some(latency) = latency {
            for model in &models {
                self.latencies.record(model, latency);
            }
        }
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.release(number, primed);
        }
        let model = Some(models).filter(|models| models.len() == 1);
        self.decisions.push(Decision {
            decision: BatchDecision::Ended,
            because: "",
            calls,
            batch: Some(id),
            model: model.and_then(|mut models| models.pop()),
            latency,
            cost: Money::ZERO,
            saved: Money::ZERO,
        });
    }

    /// Records that a batch of the list is this one.
    fn found(&mut self, number: BatchNumber, now: Instant) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let Some(id) = batch.id().map(str::to_owned) else {
            return;
        };
        (batch.is_certain, batch.ended_at) = (true, Some(now));
        for item in &mut batch.items {
            item.body = None;
        }
        let calls = batch.items.len();
        self.records.push(Record::Created {
            batch: number,
            id: id.clone(),
        });
        self.decide(BatchDecision::Found, "", calls, Some(id), None);
    }

    /// Records that the API does not have a batch, or not yet.
    fn not_found(&mut self, number: BatchNumber, now: Instant, wall: SystemTime) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let age = wall.duration_since(batch.planned).unwrap_or_default();
        let ended = batch.ended_at.map(|at| now.saturating_duration_since(at));
        if age.min(ended.unwrap_or(age)) < SETTLES {
            batch.retry(now, Some(Duration::from_secs(10)), 0.5);
            return;
        }
        self.dissolve(number, Verdict::Live("gone"));
        self.close(number);
    }

    /// Queues the calls of a batch again that was not created.
    fn not_created(&mut self, number: BatchNumber, now: Instant) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let pool = batch.pool;
        let mut kept = Vec::new();
        let mut rest = Vec::new();
        for mut item in std::mem::take(&mut batch.items) {
            match (item.ticket, item.body.take()) {
                (Some(ticket), Some(body)) => kept.push((ticket, item, body)),
                _ => rest.push(item),
            }
        }
        batch.items = rest;
        self.close(number);
        let calls = kept.len();
        for (ticket, item, body) in kept {
            let call = QueuedCall {
                id: item.id,
                model: item.model,
                body,
                prefix: item.prefix,
                since: now,
                live_at: item.live_at,
                age_at: now,
                behind: None,
            };
            self.queued_bytes += call.bytes();
            self.places.insert(ticket, Place::Queued(pool));
            let pool = self.pools.entry(pool).or_default();
            pool.push(ticket, call, &self.latencies);
        }
        self.decide(BatchDecision::NotCreated, "", calls, None, None);
    }

    /// Forgets a batch that is being cancelled.
    fn cancelled(&mut self, number: BatchNumber, now: Instant) {
        let Some(batch) = self.batches.get(&number) else {
            return;
        };
        let (calls, id) = (batch.items.len(), batch.id().map(str::to_owned));
        if let Some(sent_at) = batch.sent_at {
            // It would have taken longer, but not known how long.
            let latency = 2 * now.saturating_duration_since(sent_at);
            for model in batch.models() {
                self.latencies.record(&model, latency);
            }
        }
        self.decide(BatchDecision::Cancelled, "", calls, id, None);
        self.close(number);
    }

    /// Forgets batches and pools that are not needed any more.
    fn prune(&mut self, now: Instant, wall: SystemTime) {
        if self.pruned_at.is_some_and(|at| now < at + PRUNED) {
            return;
        }
        self.pruned_at = Some(now);
        let age = |at: SystemTime| wall.duration_since(at).unwrap_or_default();
        let is_redelivered = |batch: &Batch| {
            let delivered = batch.items.iter().filter_map(|item| item.delivered);
            let last = delivered.max().map(age);
            self.settings.persistent && last.is_some_and(|age| age < self.settings.redelivery)
        };
        let is_useless = |batch: &Batch| {
            let may_close = match batch.state {
                State::Ended { .. } | State::Unknown => !batch.busy && batch.waiting == 0,
                // Of an earlier run, so that its end was seen then if it is over.
                State::Running { .. } => {
                    batch.sent_at.is_none() && !batch.busy && batch.waiting == 0
                }
                State::Planned => false,
            };
            let is_left = batch.cancel_at.is_some_and(|at| at <= now);
            may_close && (is_left || batch.is_over() && !is_redelivered(batch))
                || age(batch.planned) >= KEPT && batch.waiting == 0
        };
        let mut useless: Vec<BatchNumber> = Vec::new();
        let mut idle: Vec<(SystemTime, BatchNumber, usize)> = Vec::new();
        let mut items = 0;
        for (&number, batch) in &self.batches {
            if is_useless(batch) {
                useless.push(number);
                continue;
            }
            items += batch.items.len();
            if batch.waiting == 0 && !batch.busy && batch.ended_at.is_some() {
                idle.push((batch.planned, number, batch.items.len()));
            }
        }
        idle.sort_unstable();
        for (_, number, count) in idle {
            if items <= MOST_ITEMS {
                break;
            }
            items -= count;
            useless.push(number);
        }
        for number in useless {
            self.close(number);
        }
        let batches = &self.batches;
        self.pools.retain(|id, pool| {
            !pool.is_idle(now) || batches.values().any(|batch| batch.pool == *id)
        });
    }
}
