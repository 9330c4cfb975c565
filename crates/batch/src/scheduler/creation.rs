//! The creation of batches.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tower_claude_core::event::BatchDecision;

use super::{
    batch::{Batch, Item, State},
    interface::{Creation, Ticket, Verdict},
    pool::{Flushed, Pool, QueuedCall},
    state::{Place, Scheduler},
};
use crate::{
    id::{BatchNumber, PoolId},
    journal::Record,
};

/// The time for which no batch is created after the API has rejected one as such.
const CLOSED: Duration = Duration::from_secs(600);

impl Scheduler {
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
                    is_counted: false,
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
        batch.settling_since = now;
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
                } else {
                    self.give_up_left(number);
                }
            }
            Creation::TooLarge if calls > 1 => {
                self.give_up_left(number);
                self.split(number, now, wall);
            }
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

    /// Takes the calls whose callers have gone away out of a batch that was not created, so that
    /// the next creation does not have them.
    fn give_up_left(&mut self, number: BatchNumber) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        for item in batch.items.iter_mut().filter(|item| item.ticket.is_none()) {
            (item.body, item.wanted) = (None, false);
            if let Some(key) = self.keys.get_mut(&item.id.key) {
                key.open.remove(&item.id.ordinal);
            }
        }
    }

    /// Divides a batch that the API does not take as it is.
    fn split(&mut self, number: BatchNumber, now: Instant, wall: SystemTime) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let items = std::mem::take(&mut batch.items).into_iter();
        let (mut first, left): (Vec<Item>, Vec<Item>) = items.partition(|item| item.body.is_some());
        // Closed with the batch.
        batch.items = left;
        batch.waiting = 0;
        let pool = batch.pool;
        self.close(number);
        let second = first.split_off(first.len() / 2);
        for items in [first, second] {
            if items.is_empty() {
                continue;
            }
            let number = BatchNumber(self.rng.u64(..));
            for (at, item) in items.iter().enumerate() {
                if let Some(ticket) = item.ticket {
                    self.places.insert(ticket, Place::InBatch(number, at));
                }
            }
            self.insert_planned(number, pool, items, None, now, wall);
        }
    }

    /// Queues the calls of a batch again that was not created.
    pub(super) fn not_created(&mut self, number: BatchNumber, now: Instant) {
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
}
