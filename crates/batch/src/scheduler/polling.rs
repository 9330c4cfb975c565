//! The requests that are due, and the states of batches.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tower_claude_core::event::BatchDecision;
use tower_claude_wire::Money;

use super::{
    batch::{Batch, SETTLES, State},
    interface::{Action, Decision, Listed, Status, Verdict},
    state::Scheduler,
};
use crate::{
    id::{BatchNumber, PoolId},
    journal::Record,
};

/// The difference of ages within which a batch in the list may be the one that is looked for. It
/// has room for clocks that are wrong or were set, because its results are certain.
pub(crate) const SKEW: Duration = Duration::from_secs(3_600);
/// The number of running batches of a pool above which they are polled by one list.
const LISTED: usize = 20;

impl Scheduler {
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
                    let items: Vec<_> = items.collect();
                    batch.sent = Some(items.len() as u64);
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
            if state.listing_since.is_some() {
                continue;
            }
            state.listing_since = Some(now);
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
                pool.is_some_and(|pool| pool.listing_since.is_some())
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

    /// Records the state of a batch.
    pub fn on_status(&mut self, number: BatchNumber, status: Status, now: Instant, _: SystemTime) {
        let random = self.rng.f64();
        let first = self.first_poll(number);
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        batch.busy = false;
        match status {
            Status::Running => batch.schedule(now, first, random),
            Status::Ended => self.ended(number, now),
            Status::NotFound => self.not_found(number, now),
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
        let Some(list) = list else {
            let status = Status::Failed { retry_after: None };
            return self.on_list_failed(pool, status, now);
        };
        let listing = self.pools.get_mut(&pool);
        let listed_at = listing.and_then(|pool| pool.listing_since.take());
        // What has happened since then is not in the list.
        let listed_at = listed_at.unwrap_or(now);
        // An id that another batch only tries may be the one of this batch.
        let certain = self.batches.values().filter(|batch| batch.is_certain);
        let ids = certain.filter_map(|batch| batch.id());
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
            if let Some(id) = batch.id() {
                match list.iter().find(|listed| listed.id == id) {
                    Some(listed) if listed.ended => self.ended(number, now),
                    Some(_) => batch.schedule(now, first, random),
                    None => batch.is_unlisted = true,
                }
                continue;
            }
            let [shortest, longest] = batch.ages(now, wall);
            let total = batch.sent.unwrap_or(batch.items.len() as u64);
            let mut candidates = list.iter().filter(|listed| {
                listed.total == total
                    && listed.age <= longest + SKEW
                    && listed.age + SKEW >= shortest
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
            } else if candidates.next().is_some() || !batch.has_settled(listed_at) || !is_complete {
                batch.schedule(now, Duration::ZERO, random);
            } else {
                self.not_created(number, now);
            }
        }
    }

    /// Records that the batches of a pool could not be listed.
    pub fn on_list_failed(&mut self, pool: PoolId, status: Status, now: Instant) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.listing_since = None;
        }
        let due = self.batches.iter().filter(|(_, batch)| {
            let is_open = matches!(batch.state, State::Unknown | State::Running { .. });
            batch.pool == pool && !batch.busy && is_open && batch.next_at <= now
        });
        let due: Vec<BatchNumber> = due.map(|(number, _)| *number).collect();
        for number in due {
            let random = self.rng.f64();
            match status {
                Status::Denied => self.deny_batch(number, now),
                Status::Failed { retry_after } => self.retry(number, retry_after, random, now),
                _ => self.retry(number, None, random, now),
            }
        }
    }

    fn retry(
        &mut self,
        number: BatchNumber,
        retry_after: Option<Duration>,
        random: f64,
        now: Instant,
    ) {
        if let Some(batch) = self.batches.get_mut(&number) {
            batch.retry(now, retry_after, random);
        }
    }

    /// Returns the time before which a batch is not expected to end.
    pub(super) fn first_poll(&self, number: BatchNumber) -> Duration {
        let model = self
            .batches
            .get(&number)
            .and_then(|batch| batch.items.first());
        model.map_or(Duration::ZERO, |item| {
            self.latencies.quantile(&item.model, 10)
        })
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
    pub(super) fn found(&mut self, number: BatchNumber, now: Instant) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let Some(id) = batch.id().map(str::to_owned) else {
            return;
        };
        let primed = batch.primes.zip(batch.sent_at);
        if let Some(pool) = self.pools.get_mut(&batch.pool) {
            pool.release(number, primed);
        }
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
    pub(super) fn not_found(&mut self, number: BatchNumber, now: Instant) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let is_new = |since: Instant| now.saturating_duration_since(since) < SETTLES;
        if !batch.has_settled(now) || batch.ended_at.is_some_and(is_new) {
            batch.retry(now, Some(Duration::from_secs(10)), 0.5);
            return;
        }
        self.dissolve(number, Verdict::Live("gone"));
        self.close(number);
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
}
