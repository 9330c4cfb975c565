//! The restoration after a restart, and the removal of what is not needed any more.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    batch::{Batch, Item, State},
    state::Scheduler,
};
use crate::{
    id::{BatchNumber, ItemId},
    journal::Record,
};

/// The time for which the API keeps the results of a batch, less a margin.
const KEPT: Duration = Duration::from_secs(28 * 86_400);
/// The most calls that are remembered in batches that have ended.
const MOST_ITEMS: usize = 1_000_000;
/// The time between two searches for batches that are not needed any more.
const PRUNED: Duration = Duration::from_secs(60);

impl Scheduler {
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
                        is_counted: false,
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
                // The results are not kept for longer.
                let left = left.map(|left| left.min(KEPT));
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

    /// Forgets batches and pools that are not needed any more.
    pub(super) fn prune(&mut self, now: Instant, wall: SystemTime) {
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
            if batch.waiting == 0
                && !batch.busy
                && (batch.ended_at.is_some() || batch.sent_at.is_none())
            {
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
