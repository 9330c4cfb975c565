//! The results of batches.

use std::{collections::HashMap, time::SystemTime};

use tokio::time::Instant;
use tower_claude_core::event::BatchDecision;

use super::{
    batch::State,
    interface::{ItemOutcome, LineUse, ResultsEnd, Ticket, Verdict},
    state::{CALM, Place, Scheduler},
};
use crate::id::{BatchNumber, ItemId};

impl Scheduler {
    /// Records one result that was read for [`Action::Results`](super::Action::Results).
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
        batch.answered += 1;
        // The answer of a caller that went away before it took it was counted then.
        let is_first = !std::mem::replace(&mut item.is_counted, true);
        match outcome {
            ItemOutcome::Succeeded { .. } if !is_first => {
                self.counters.answered += 1;
                self.decide(BatchDecision::Answered, "", 1, batch_id, Some(model));
            }
            ItemOutcome::Succeeded {
                tokens,
                cost,
                saved,
                ..
            } => {
                self.counters.answered += 1;
                self.counters.tokens = self.counters.tokens.saturating_add(tokens);
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

    /// Records the end of [`Action::Results`](super::Action::Results).
    pub fn on_results(
        &mut self,
        number: BatchNumber,
        end: ResultsEnd,
        now: Instant,
        _: SystemTime,
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
                let is_missing = |ticket: &Ticket, places: &HashMap<Ticket, Place>| {
                    ticket.0 < read_from && matches!(places.get(ticket), Some(Place::InBatch(..)))
                };
                let mut tickets = batch.items.iter().filter_map(|item| item.ticket);
                if tickets.any(|ticket| is_missing(&ticket, places))
                    && !std::mem::replace(&mut batch.is_reread, true)
                {
                    return;
                }
                let mut missing = Vec::new();
                for item in &mut batch.items {
                    if let Some(ticket) = item.ticket
                        && is_missing(&ticket, places)
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
            ResultsEnd::NotFound => self.not_found(number, now),
            ResultsEnd::Denied => self.deny_batch(number, now),
            ResultsEnd::Failed { retry_after } => batch.retry(now, retry_after, random),
        }
    }

    /// Ends the wait of all calls of a batch. Their results stay available.
    pub(super) fn deny_batch(&mut self, number: BatchNumber, now: Instant) {
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
}
