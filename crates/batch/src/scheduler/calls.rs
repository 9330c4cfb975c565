//! The arrival and the departure of calls.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tower_claude_core::event::BatchDecision;

use super::{
    batch::State,
    interface::{BatchCall, Placement, Ticket},
    pool::{ITEM_BYTES, QueuedCall},
    state::{CALM, Place, Scheduler},
};
use crate::{id::ItemId, journal::Record};

/// The time for which a batch without callers runs on, because clients ask again after a timeout.
const GRACE: Duration = Duration::from_secs(120);
/// The percentage of batches that must end in time for a call to be queued. An answer that comes
/// too late costs half of an ordinary call more, one in time saves half.
const WORTH: usize = 75;

impl Scheduler {
    /// Places a new call.
    pub fn enqueue(&mut self, call: BatchCall, now: Instant) -> Placement {
        let live_at = call.deadline.checked_sub(self.settings.live_time);
        let Some(live_at) = live_at.filter(|at| *at > now) else {
            return self.pass("tolerance");
        };
        if let Some(ticket) = self.attach(&call, live_at, now) {
            return Placement::Waits { ticket, live_at };
        }
        let closed_until = self
            .pools
            .get(&call.pool)
            .and_then(|pool| pool.closed_until);
        if closed_until.is_some_and(|until| until > now) {
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
    pub(super) fn leave(&mut self, ticket: Ticket, may_come_back: bool, now: Instant) -> bool {
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
            Some(place @ (Place::InBatch(number, at) | Place::Answered(number, at))) => {
                let Some(batch) = self.batches.get_mut(&number) else {
                    return false;
                };
                let is_unsent = batch.state == State::Planned && !batch.busy;
                let is_answered = matches!(place, Place::Answered(..));
                batch.answered -= usize::from(is_answered);
                // The result of a batch that has ended was billed, if it is of any use.
                let may_be_billed = batch.may_run()
                    || matches!(batch.state, State::Ended { .. }) && batch.items[at].wanted;
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
                may_be_billed
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
        batch.answered -= 1;
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
}
