//! The state of one batch.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::interface::{SharedPrefix, Ticket};
use crate::{
    id::{BatchNumber, ItemId, PoolId},
    journal::Record,
};

/// The time before the first poll, unless the model's batches are known to take longer.
const FIRST_POLL: Duration = Duration::from_secs(30);
/// The shortest and the longest time between two polls.
const POLLS: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(300)];
/// The time before a caller stops waiting at which its batch is polled once more.
const LAST_POLL: Duration = Duration::from_secs(10);
/// The first and the longest wait after a request that failed.
const RETRIES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];

/// The time for which the API may not list or return a batch that it has created.
pub(super) const SETTLES: Duration = Duration::from_secs(300);

/// The state of a batch at the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not sent, or certainly not taken.
    Planned,
    /// Sent, and not answered clearly.
    Unknown,
    /// Created.
    Running { id: String },
    /// Ended, so that it has results.
    Ended { id: String },
}

/// One call of a batch.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: ItemId,
    pub(super) model: Arc<str>,
    /// The body of the request, until the batch is known to exist.
    pub(super) body: Option<Bytes>,
    pub(super) prefix: Option<SharedPrefix>,
    /// The caller that waits.
    pub(super) ticket: Option<Ticket>,
    pub(super) live_at: Instant,
    /// False if the caller was answered otherwise, or if the result is of no use.
    pub(super) wanted: bool,
    pub(super) delivered: Option<SystemTime>,
    /// True if its cost and savings are in the counters.
    pub(super) is_counted: bool,
    /// The time until which an answer that was delivered before a restart is delivered again.
    pub(super) redelivered_until: Option<Instant>,
}

/// A batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) pool: PoolId,
    pub(super) items: Vec<Item>,
    pub(super) index: HashMap<ItemId, usize>,
    pub(super) state: State,
    /// True if its record is in the journal.
    pub(super) journaled: bool,
    /// True while a request about it is in flight.
    pub(super) busy: bool,
    /// The time of the next request about it.
    pub(super) next_at: Instant,
    /// The time at which it was sent. `None` for a batch of an earlier run.
    pub(super) sent_at: Option<Instant>,
    pub(super) planned: SystemTime,
    /// The number of requests in the last creation. `None` for a batch of an earlier run.
    pub(super) sent: Option<u64>,
    /// The end of the creation, with or without an answer, or the time of the restart. The API may
    /// not list or return the batch yet for a while after that.
    pub(super) settling_since: Instant,
    pub(super) ended_at: Option<Instant>,
    /// The failures in a row.
    pub(super) failures: u32,
    pub(super) cancel_at: Option<Instant>,
    /// The number of items with a caller.
    pub(super) waiting: usize,
    /// The number of those whose answer is there, and which its caller has not taken yet.
    pub(super) answered: usize,
    /// The prefix that it writes to the cache for calls that wait for it.
    pub(super) primes: Option<u64>,
    /// False while it is not known if the id at the API is the one of this batch.
    pub(super) is_certain: bool,
    /// True if the list did not have it, so that it is polled by itself.
    pub(super) is_unlisted: bool,
    /// The calls before this one had a caller when the results were last requested.
    pub(super) read_from: u64,
    /// True if results were missing once, and are read again before their calls are given up. A
    /// body may have been cut without an error.
    pub(super) is_reread: bool,
    /// Batches in the list that turned out to be others.
    pub(super) others: HashSet<String>,
}

impl Batch {
    pub(super) fn new(pool: PoolId, items: Vec<Item>, now: Instant, planned: SystemTime) -> Self {
        let index = items.iter().enumerate().map(|(at, item)| (item.id, at));
        Self {
            pool,
            index: index.collect(),
            waiting: items.iter().filter(|item| item.ticket.is_some()).count(),
            answered: 0,
            items,
            state: State::Planned,
            journaled: false,
            busy: false,
            next_at: now,
            sent_at: None,
            planned,
            sent: None,
            settling_since: now,
            ended_at: None,
            failures: 0,
            cancel_at: None,
            primes: None,
            is_certain: true,
            is_unlisted: false,
            read_from: 0,
            is_reread: false,
            others: HashSet::new(),
        }
    }

    pub(super) fn record(&self, batch: BatchNumber) -> Record {
        Record::Planned {
            batch,
            pool: self.pool,
            at: self.planned,
            items: self.items.iter().map(|item| item.id).collect(),
        }
    }

    /// Returns the id at the API, if it is known.
    pub(super) fn id(&self) -> Option<&str> {
        match &self.state {
            State::Running { id } | State::Ended { id } => Some(id),
            State::Planned | State::Unknown => None,
        }
    }

    /// Returns true if the API may be working on it.
    pub(super) fn may_run(&self) -> bool {
        match self.state {
            State::Planned => self.busy,
            State::Unknown | State::Running { .. } => true,
            State::Ended { .. } => false,
        }
    }

    /// Returns true if it is running and polled.
    pub(super) fn is_polled(&self) -> bool {
        let is_watched = self.waiting > 0 || self.sent_at.is_some();
        is_watched && matches!(self.state, State::Running { .. })
    }

    /// Returns the time of the next request about it. `None` if none is due until something else
    /// happens.
    pub(super) fn due_at(&self) -> Option<Instant> {
        if self.busy || !self.journaled {
            return None;
        }
        match self.state {
            State::Planned => Some(self.next_at),
            State::Unknown => (self.waiting > 0).then_some(self.next_at),
            // An answer that its caller has not taken yet is not read again.
            State::Ended { .. } => (self.waiting > self.answered).then_some(self.next_at),
            State::Running { .. } => {
                let poll = self.is_polled().then_some(self.next_at);
                poll.into_iter().chain(self.cancel_at).min()
            }
        }
    }

    /// Sets the time of the next poll. `first` is the time before which no end is expected.
    pub(super) fn schedule(&mut self, now: Instant, first: Duration, random: f64) {
        self.failures = 0;
        let elapsed = now.saturating_duration_since(self.sent_at.unwrap_or(now));
        let first = first.max(FIRST_POLL);
        let wait = match first.checked_sub(elapsed) {
            Some(left) if !left.is_zero() && self.sent_at.is_some() => left,
            _ => (elapsed / 10).clamp(POLLS[0], POLLS[1]),
        };
        let next = now + wait.mul_f64(0.8 + 0.4 * random);
        // A batch that has just ended saves a live call.
        let last = |item: &Item| {
            item.ticket?;
            item.live_at
                .checked_sub(LAST_POLL)
                .filter(|last| *last > now)
        };
        let last = self.items.iter().filter_map(last).min();
        self.next_at = last.map_or(next, |last| next.min(last));
    }

    /// Sets the time of the next request after one that failed.
    pub(super) fn retry(&mut self, now: Instant, after: Option<Duration>, random: f64) {
        let doubled = RETRIES[0].saturating_mul(1 << self.failures.min(10));
        self.failures += 1;
        let wait = doubled.min(RETRIES[1]).mul_f64(0.8 + 0.4 * random);
        self.next_at = now + wait.max(after.unwrap_or_default());
    }

    /// Returns the shortest and the longest time since its creation. They differ if a clock was
    /// set, or if the creation was repeated.
    pub(super) fn ages(&self, now: Instant, wall: SystemTime) -> [Duration; 2] {
        let by_wall = wall.duration_since(self.planned).unwrap_or_default();
        let sent = self.sent_at.map(|at| now.saturating_duration_since(at));
        let sent = sent.unwrap_or(by_wall);
        [by_wall.min(sent), by_wall.max(sent)]
    }

    /// Returns true if the API listed and returned it at this time if it had been created.
    pub(super) fn has_settled(&self, at: Instant) -> bool {
        at.saturating_duration_since(self.settling_since) >= SETTLES
    }

    /// Returns the position of an item that a caller may wait for.
    pub(super) fn attachable(&self, item: ItemId, now: Instant) -> Option<usize> {
        let at = *self.index.get(&item)?;
        let item = &self.items[at];
        let is_open = match item.delivered {
            Some(_) => item.redelivered_until.is_some_and(|until| now < until),
            None => item.wanted,
        };
        (is_open && item.ticket.is_none()).then_some(at)
    }

    /// Returns true if no item is of any use.
    pub(super) fn is_over(&self) -> bool {
        self.waiting == 0
            && self
                .items
                .iter()
                .all(|item| !item.wanted || item.delivered.is_some())
    }

    /// Returns the models of its items without duplicates.
    pub(super) fn models(&self) -> Vec<Arc<str>> {
        let mut models: Vec<_> = self.items.iter().map(|item| item.model.clone()).collect();
        models.sort_unstable();
        models.dedup();
        models
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Key;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn batch(now: Instant, live_in: Duration) -> Batch {
        let item = Item {
            id: ItemId::new(Key([0; 16]), 0),
            model: Arc::from("a"),
            body: None,
            prefix: None,
            ticket: Some(Ticket(1)),
            live_at: now + live_in,
            wanted: true,
            delivered: None,
            is_counted: false,
            redelivered_until: None,
        };
        let mut batch = Batch::new(PoolId([0; 16]), vec![item], now, SystemTime::UNIX_EPOCH);
        batch.sent_at = Some(now);
        batch
    }

    #[test]
    fn polls_become_rarer_with_the_age_of_a_batch() {
        let now = Instant::now();
        let mut batch = batch(now, seconds(86_400));
        let mut wait = |elapsed, first| {
            batch.schedule(now + seconds(elapsed), seconds(first), 0.5);
            batch.next_at - (now + seconds(elapsed))
        };
        assert_eq!(wait(0, 0), seconds(30));
        assert_eq!(wait(0, 120), seconds(120));
        assert_eq!(wait(100, 120), seconds(20));
        assert_eq!(wait(120, 120), seconds(15));
        assert_eq!(wait(1_000, 120), seconds(100));
        assert_eq!(wait(50_000, 120), seconds(300));
    }

    #[test]
    fn batch_is_polled_just_before_a_caller_stops_waiting() {
        let now = Instant::now();
        let mut batch = batch(now, seconds(60));
        batch.schedule(now + seconds(45), seconds(0), 0.5);
        assert_eq!(batch.next_at, now + seconds(50));
        batch.schedule(now + seconds(50), seconds(0), 0.5);
        assert_eq!(batch.next_at, now + seconds(65));
    }

    #[test]
    fn waits_after_failures_grow_and_respect_retry_after() {
        let now = Instant::now();
        let mut batch = batch(now, seconds(60));
        let mut wait = |after| {
            batch.retry(now, after, 0.5);
            batch.next_at - now
        };
        assert_eq!([wait(None), wait(None), wait(None)], [2, 4, 8].map(seconds));
        assert_eq!(wait(Some(seconds(90))), seconds(90));
        for _ in 0..99 {
            wait(None);
        }
        assert_eq!(wait(None), seconds(60));
    }
}
