//! The queue of calls that may share a batch, and its division into batches.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    interface::{SchedulerSettings, SharedPrefix, Ticket},
    latency::Latencies,
};
use crate::id::{BatchNumber, ItemId};

/// The shortest time between two batches of a pool, unless a batch is full. Calls whose laxity has
/// passed are collected for that long, so that each does not become a batch of its own.
const GAP: Duration = Duration::from_secs(10);

/// The bytes that a call takes in the creation of a batch beside its body.
pub(super) const ITEM_BYTES: usize = 110;

/// The input tokens that a priming batch must save to pay.
const PRIMING_PAYS: f64 = 20_000.0;

/// The lifetime of a primed prefix.
const PRIMED_FOR: Duration = Duration::from_secs(3_600);

/// The primed prefixes that are remembered for each pool.
const MOST_PRIMED: usize = 256;

/// A call in the queue.
#[derive(Debug)]
pub(super) struct QueuedCall {
    pub(super) id: ItemId,
    pub(super) model: Arc<str>,
    pub(super) body: Bytes,
    pub(super) prefix: Option<SharedPrefix>,
    pub(super) since: Instant,
    pub(super) live_at: Instant,
    /// The time at which it is sent if its laxity allows it.
    pub(super) age_at: Instant,
    /// The batch that writes its prefix to the cache first.
    pub(super) behind: Option<BatchNumber>,
}

impl QueuedCall {
    pub(super) fn bytes(&self) -> usize {
        self.body.len() + ITEM_BYTES
    }

    /// Returns the time at which it is sent at the latest.
    fn flush_at(&self, latencies: &Latencies) -> Instant {
        let latency = latencies.quantile(&self.model, LATE);
        let laxity = self.live_at.checked_sub(latency).unwrap_or(self.since);
        match self.behind {
            Some(_) => laxity,
            None => self.age_at.min(laxity),
        }
    }
}

/// The percentage of batches that are expected to end in time.
const LATE: usize = 95;

/// The share of the marked prefix that calls read from the cache without a priming batch.
#[derive(Clone, Copy, Debug)]
struct HitShare {
    read: f64,
    all: f64,
}

impl Default for HitShare {
    /// Returns the middle of the documented range, with little weight.
    fn default() -> Self {
        Self {
            read: 5_000.0,
            all: 10_000.0,
        }
    }
}

/// The calls that may share a batch.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) queue: BTreeMap<Ticket, QueuedCall>,
    pub(super) bytes: usize,
    flush_at: Option<Instant>,
    flushed_at: Option<Instant>,
    /// The time until which no batch is created, because the API does not take any.
    pub(super) closed_until: Option<Instant>,
    /// The time since which the batches of the pool are being listed.
    pub(super) listing_since: Option<Instant>,
    primed: HashMap<u64, Instant>,
    hits: HitShare,
}

/// A part of the queue that becomes a batch.
pub(super) struct Flushed {
    pub(super) calls: Vec<(Ticket, QueuedCall)>,
    /// The prefix for which the other calls wait.
    pub(super) primes: Option<u64>,
}

impl Pool {
    pub(super) fn push(&mut self, ticket: Ticket, call: QueuedCall, latencies: &Latencies) {
        let at = call.flush_at(latencies);
        self.flush_at = Some(self.flush_at.map_or(at, |known| known.min(at)));
        self.bytes += call.bytes();
        self.queue.insert(ticket, call);
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<QueuedCall> {
        let call = self.queue.remove(&ticket)?;
        self.bytes -= call.bytes();
        if self.queue.is_empty() {
            self.flush_at = None;
        }
        Some(call)
    }

    /// Returns the time at which the queue becomes a batch.
    pub(super) fn due_at(&self, settings: &SchedulerSettings) -> Option<Instant> {
        let at = self.flush_at?;
        if self.queue.len() >= settings.max_items || self.bytes >= settings.max_bytes {
            // Those that wait for a priming batch do not fill another one.
            let free = || self.queue.values().filter(|call| call.behind.is_none());
            let bytes: usize = free().map(QueuedCall::bytes).sum();
            if free().count() >= settings.max_items || bytes >= settings.max_bytes {
                // At once, because this is in the past.
                return free().map(|call| call.since).next();
            }
        }
        Some(self.flushed_at.map_or(at, |last| at.max(last + GAP)))
    }

    /// Sends the calls that wait for a priming batch.
    pub(super) fn release(&mut self, batch: BatchNumber, primed: Option<(u64, Instant)>) {
        let mut released = Vec::new();
        for call in self.queue.values_mut() {
            if call.behind == Some(batch) {
                call.behind = None;
                released.push(call.age_at);
            }
        }
        if let Some((prefix, sent_at)) = primed {
            if self.primed.len() >= MOST_PRIMED {
                self.primed.clear();
            }
            self.primed.insert(prefix, sent_at + PRIMED_FOR);
        }
        self.flush_at = released.into_iter().chain(self.flush_at).min();
    }

    /// Records the cache usage of a call with a marked prefix that waited for no priming batch.
    pub(super) fn learn_hits(&mut self, read: u64, written: u64) {
        // Old calls lose their weight.
        self.hits.read = 0.98 * self.hits.read + read as f64;
        self.hits.all = 0.98 * self.hits.all + read as f64 + written as f64;
    }

    /// Takes the calls that are due out of the queue, as batches.
    ///
    /// Calls with the same prefix stand together, and in one batch if it is large enough.
    pub(super) fn flush(
        &mut self,
        now: Instant,
        latencies: &Latencies,
        settings: &SchedulerSettings,
        mut number: impl FnMut() -> BatchNumber,
    ) -> Vec<(BatchNumber, Flushed)> {
        self.flushed_at = Some(now);
        self.primed.retain(|_, until| *until > now);
        let mut groups: BTreeMap<Option<u64>, Vec<Ticket>> = BTreeMap::new();
        for (ticket, call) in &self.queue {
            if call.behind.is_none() || call.flush_at(latencies) <= now {
                let prefix = call.prefix.map(|prefix| prefix.hash);
                groups.entry(prefix).or_default().push(*ticket);
            }
        }
        let mut batches = Vec::new();
        let mut current = Vec::new();
        let mut bytes = 0;
        for (prefix, mut tickets) in groups {
            if let Some(prefix) = prefix
                && self.priming_pays(prefix, &tickets, now, latencies)
            {
                let (first, rest) = (tickets[0], &tickets[1..]);
                let primer = number();
                for ticket in rest {
                    if let Some(call) = self.queue.get_mut(ticket) {
                        call.behind = Some(primer);
                    }
                }
                let first = self.remove(first).map(|call| (first, call));
                let flushed = Flushed {
                    calls: first.into_iter().collect(),
                    primes: Some(prefix),
                };
                batches.push((primer, flushed));
                tickets.clear();
            }
            let group: usize = tickets
                .iter()
                .filter_map(|ticket| self.queue.get(ticket))
                .map(QueuedCall::bytes)
                .sum();
            let fits = |count: usize, bytes: usize| {
                count <= settings.max_items && bytes <= settings.max_bytes
            };
            if prefix.is_some()
                && !current.is_empty()
                && !fits(current.len() + tickets.len(), bytes + group)
                && fits(tickets.len(), group)
            {
                batches.push(ordinary(number(), &mut current, &mut bytes));
            }
            for ticket in tickets {
                let Some(call) = self.remove(ticket) else {
                    continue;
                };
                if !current.is_empty() && !fits(current.len() + 1, bytes + call.bytes()) {
                    batches.push(ordinary(number(), &mut current, &mut bytes));
                }
                bytes += call.bytes();
                current.push((ticket, call));
            }
        }
        if !current.is_empty() {
            batches.push(ordinary(number(), &mut current, &mut bytes));
        }
        let rest = self.queue.values();
        self.flush_at = rest.map(|call| call.flush_at(latencies)).min();
        batches
    }

    /// Returns true if one call should write the prefix to the cache before the others are sent.
    fn priming_pays(
        &self,
        prefix: u64,
        tickets: &[Ticket],
        now: Instant,
        latencies: &Latencies,
    ) -> bool {
        if self.primed.contains_key(&prefix) {
            return false;
        }
        let mut tokens = 0;
        for ticket in tickets {
            let Some(call) = self.queue.get(ticket) else {
                return false;
            };
            let Some(shared) = call.prefix.filter(|shared| shared.lasts_an_hour) else {
                return false;
            };
            tokens = shared.tokens;
            // Two batches must fit, one after the other.
            let twice = 2 * latencies.quantile(&call.model, LATE);
            if call.behind.is_some() || now + twice > call.live_at {
                return false;
            }
        }
        let missed = 1.0 - (self.hits.read / self.hits.all.max(1.0)).min(1.0);
        (tickets.len() - 1) as f64 * tokens as f64 * missed > PRIMING_PAYS
    }

    /// Returns true if the pool has no state worth keeping.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let is_closed = self.closed_until.is_some_and(|until| until > now);
        let is_recent = self.flushed_at.is_some_and(|at| now < at + PRIMED_FOR);
        self.queue.is_empty() && !is_closed && !is_recent && self.listing_since.is_none()
    }
}

fn ordinary(
    number: BatchNumber,
    calls: &mut Vec<(Ticket, QueuedCall)>,
    bytes: &mut usize,
) -> (BatchNumber, Flushed) {
    *bytes = 0;
    let calls = std::mem::take(calls);
    let primes = None;
    (number, Flushed { calls, primes })
}
