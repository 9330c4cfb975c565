//! The state of all calls and batches, and the functions that change it everywhere.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tower_claude_core::event::BatchDecision;
use tower_claude_wire::Money;

use super::{
    batch::{Batch, State},
    interface::{
        BatchSnapshot, Decision, LatencySnapshot, Placement, SchedulerSettings, Ticket, Verdict,
    },
    latency::Latencies,
    pool::Pool,
};
use crate::{
    id::{BatchNumber, ItemId, Key, PoolId},
    journal::Record,
};

/// The time after which the results of a batch are read again without delay, for a caller that
/// was attached since.
pub(super) const CALM: Duration = Duration::from_secs(60);

/// The questions with the same key.
#[derive(Debug, Default)]
pub(super) struct KeyState {
    pub(super) next: u32,
    /// The calls to which another caller can be attached.
    pub(super) open: BTreeMap<u32, BatchNumber>,
    /// The number of calls.
    pub(super) count: u32,
}

/// The place of a call that waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Queued(PoolId),
    InBatch(BatchNumber, usize),
    /// The answer is there, and the caller has not taken it yet.
    Answered(BatchNumber, usize),
}

/// The queue of calls and the state of all batches. See the [module](super).
#[derive(Debug)]
pub struct Scheduler {
    pub(super) settings: SchedulerSettings,
    pub(super) pools: BTreeMap<PoolId, Pool>,
    pub(super) batches: BTreeMap<BatchNumber, Batch>,
    pub(super) keys: HashMap<Key, KeyState>,
    pub(super) places: HashMap<Ticket, Place>,
    pub(super) latencies: Latencies,
    pub(super) tickets: u64,
    pub(super) queued_bytes: usize,
    pub(super) rng: fastrand::Rng,
    pub(super) records: Vec<Record>,
    pub(super) is_durable: bool,
    pub(super) pruned_at: Option<Instant>,
    pub(super) verdicts: Vec<(Ticket, Verdict)>,
    pub(super) decisions: Vec<Decision>,
    pub(super) counters: BatchSnapshot,
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

    /// Counts a call that is sent live at once.
    pub fn pass(&mut self, because: &'static str) -> Placement {
        *self.counters.passed.entry(because).or_default() += 1;
        self.decide(BatchDecision::Passed, because, 1, None, None);
        Placement::Live(because)
    }

    /// Returns the records to write, and true if they must be durable.
    pub fn take_records(&mut self) -> (Vec<Record>, bool) {
        let is_durable = std::mem::take(&mut self.is_durable);
        (std::mem::take(&mut self.records), is_durable)
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

    pub(super) fn next_ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        ticket
    }

    pub(super) fn count_queued(&self) -> usize {
        self.pools.values().map(|pool| pool.queue.len()).sum()
    }

    /// Adds a decision, or counts it as one with the last one.
    pub(super) fn decide(
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

    pub(super) fn count_live(&mut self, because: &'static str, calls: usize) {
        *self.counters.went_live.entry(because).or_default() += calls as u64;
        self.decide(BatchDecision::WentLive, because, calls, None, None);
    }

    /// Ends the wait of a call that has no place any more.
    pub(super) fn end(&mut self, ticket: Ticket, verdict: Verdict) {
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
    pub(super) fn end_queued(&mut self, tickets: &[Ticket], verdict: Verdict) {
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
    pub(super) fn deny_queued(&mut self, pool: PoolId) {
        let tickets = self.pools.get(&pool).map(|pool| pool.queue.keys().copied());
        let tickets: Vec<Ticket> = tickets.into_iter().flatten().collect();
        self.end_queued(&tickets, Verdict::Denied);
    }

    /// Ends the wait of all calls of a batch whose results are of no use.
    pub(super) fn dissolve(&mut self, number: BatchNumber, verdict: Verdict) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        (batch.waiting, batch.answered) = (0, 0);
        let mut tickets = Vec::new();
        for item in &mut batch.items {
            item.wanted = false;
            tickets.extend(item.ticket.take());
        }
        for ticket in tickets {
            // An answer that is there stays the answer.
            if let Some(Place::InBatch(..)) = self.places.remove(&ticket) {
                self.end(ticket, verdict);
            }
        }
    }

    /// Forgets a batch.
    pub(super) fn close(&mut self, number: BatchNumber) {
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

    pub(super) fn forget_item(&mut self, id: ItemId) {
        if let Some(key) = self.keys.get_mut(&id.key) {
            key.count -= 1;
            if key.count == 0 {
                self.keys.remove(&id.key);
            }
        }
    }
}
