//! The strategy of this project: the scheduler of its batch layer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::Instant;
use tower_claude_batch::{
    Key, PoolId,
    scheduler::{
        Action, BatchCall, Creation, ItemOutcome, LineUse, Listed, Placement, ResultsEnd,
        Scheduler, SchedulerSettings, Status, Ticket,
    },
};
use tower_claude_wire::Money;

use super::load::{Call, Load, MINUTE, Tally, live_time};
use crate::event_queue::EventQueue;

/// The tolerance from which a call may be queued, as the layer's default.
const LEAST: f64 = 10.0 * MINUTE;

enum Event {
    Arrival(usize),
    /// The time at which a call must be sent live.
    Timer(Ticket),
    /// The outcome of a request.
    Outcome(Action),
    Wake,
}

/// A batch at the server.
struct ServerBatch {
    created: f64,
    ends: f64,
    /// The `custom_id` of each call, its number, and true if it fails.
    items: Vec<(String, usize, bool)>,
}

struct Run<'a> {
    load: &'a Load,
    calls: &'a [Call],
    rng: &'a mut fastrand::Rng,
    events: EventQueue<Event>,
    scheduler: Scheduler,
    start: (Instant, SystemTime),
    /// The calls that wait, by their ticket.
    waiting: HashMap<Ticket, usize>,
    server: BTreeMap<String, ServerBatch>,
    wake_at: Option<u64>,
    tally: Tally,
}

/// Runs the scheduler until all calls are answered.
pub(super) fn run(load: &Load, calls: &[Call], seed: u64, rng: &mut fastrand::Rng) -> Tally {
    let mut run = Run {
        load,
        calls,
        rng,
        events: EventQueue::new(),
        scheduler: Scheduler::new(SchedulerSettings::default(), seed),
        start: (Instant::now(), SystemTime::UNIX_EPOCH),
        waiting: HashMap::new(),
        server: BTreeMap::new(),
        wake_at: None,
        tally: Tally {
            calls: calls.len(),
            full: calls.iter().map(|call| call.cost).sum(),
            ..Tally::default()
        },
    };
    for (number, call) in calls.iter().enumerate() {
        run.events.add(nanos(call.at), Event::Arrival(number));
    }
    while let Some(event) = run.events.next(u64::MAX) {
        run.on_event(event);
        run.pump();
    }
    run.tally
}

fn nanos(seconds: f64) -> u64 {
    Duration::from_secs_f64(seconds.max(0.0)).as_nanos() as u64
}

impl Run<'_> {
    fn seconds(&self) -> f64 {
        self.events.now() as f64 / 1e9
    }

    fn now(&self) -> (Instant, SystemTime) {
        let elapsed = Duration::from_nanos(self.events.now());
        (self.start.0 + elapsed, self.start.1 + elapsed)
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Arrival(number) => self.arrive(number),
            Event::Timer(ticket) => {
                if let Some(number) = self.waiting.remove(&ticket) {
                    let (now, _) = self.now();
                    let before = self.scheduler.snapshot(now).sent_twice;
                    self.scheduler.go_live(ticket, now);
                    let after = self.scheduler.snapshot(now).sent_twice;
                    self.tally.twice += usize::from(after > before);
                    self.go_live(number);
                }
            }
            Event::Outcome(action) => self.outcome(action),
            Event::Wake => self.wake_at = None,
        }
    }

    fn arrive(&mut self, number: usize) {
        let (now, _) = self.now();
        let call = &self.calls[number];
        let mut key = [0; 16];
        key[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let body = Bytes::from(number.to_string());
        let deadline = now + Duration::from_secs_f64(call.tolerance);
        let call_for = BatchCall::new(
            PoolId([0; 16]),
            Key(key),
            Arc::from("model"),
            body,
            deadline,
        );
        if call.tolerance < LEAST {
            return self.go_live(number);
        }
        match self.scheduler.enqueue(call_for, now) {
            Placement::Waits { ticket, live_at } => {
                self.waiting.insert(ticket, number);
                let at = (live_at - self.start.0).as_nanos() as u64;
                self.events.add(at, Event::Timer(ticket));
            }
            _ => self.go_live(number),
        }
    }

    fn go_live(&mut self, number: usize) {
        let at = self.seconds() + live_time(self.rng);
        let call = &self.calls[number];
        self.tally.paid += call.cost;
        self.tally.answer(call, at, false);
    }

    fn pump(&mut self) {
        let (now, wall) = self.now();
        self.scheduler.plan(now, wall);
        drop(self.scheduler.take_records());
        self.scheduler.on_journal(true);
        while let Some(action) = self.scheduler.next_action(now) {
            // A second for each request, and one more for each thousand calls of a creation.
            let items = match &action {
                Action::Create { items, .. } => items.len(),
                _ => 0,
            };
            let at = self.seconds() + 1.0 + items as f64 / 1_000.0;
            self.events.add(nanos(at), Event::Outcome(action));
        }
        for (ticket, _) in self.scheduler.take_verdicts() {
            if let Some(number) = self.waiting.remove(&ticket) {
                self.go_live(number);
            }
        }
        drop(self.scheduler.take_decisions());
        // Nothing is left to learn when all calls are answered.
        if self.waiting.is_empty() {
            return;
        }
        if let Some(next) = self.scheduler.next_at() {
            let at = next.saturating_duration_since(self.start.0).as_nanos() as u64;
            let at = at.max(self.events.now() + 1_000_000);
            if self.wake_at.is_none_or(|known| at < known) {
                self.wake_at = Some(at);
                self.events.add(at, Event::Wake);
            }
        }
    }

    fn outcome(&mut self, action: Action) {
        let (now, wall) = self.now();
        let seconds = self.seconds();
        match action {
            Action::Create { batch, items, .. } => {
                self.tally.batches += 1;
                let id = format!("msgbatch_{}", self.server.len());
                let ends = seconds + self.load.server.latency(self.rng);
                let errors = self.load.server.errors;
                let items = items.into_iter().map(|(custom_id, body)| {
                    let number = std::str::from_utf8(&body)
                        .ok()
                        .and_then(|text| text.parse().ok());
                    let number = number.expect("a body is the number of its call");
                    (custom_id, number, self.rng.f64() < errors)
                });
                let created = ServerBatch {
                    created: seconds,
                    ends,
                    items: items.collect(),
                };
                for (_, number, fails) in &created.items {
                    // Billed with the end, if it is not cancelled before.
                    self.tally.paid += match fails {
                        true => 0.0,
                        false => self.calls[*number].cost / 2.0,
                    };
                }
                self.server.insert(id.clone(), created);
                let creation = Creation::Created { id };
                self.scheduler.on_created(batch, creation, now, wall);
            }
            Action::Retrieve { batch, id, .. } => {
                let has_ended = self.server[&id].ends <= seconds;
                let status = if has_ended {
                    Status::Ended
                } else {
                    Status::Running
                };
                self.scheduler.on_status(batch, status, now, wall);
            }
            Action::Cancel { id, .. } => {
                let cancelled = &self.server[&id];
                // What is not processed yet is not billed.
                let whole = cancelled.ends - cancelled.created;
                let left = ((cancelled.ends - seconds) / whole).clamp(0.0, 1.0);
                let billed = cancelled.items.iter().filter(|(.., fails)| !fails);
                let costs = billed.map(|(_, number, _)| self.calls[*number].cost / 2.0);
                self.tally.paid -= left * costs.sum::<f64>();
            }
            Action::List { pool, .. } => {
                let list = self.server.iter().map(|(id, batch)| {
                    let age = Duration::from_secs_f64(seconds - batch.created);
                    let total = batch.items.len() as u64;
                    Listed::new(id.clone(), age, batch.ends <= seconds, total)
                });
                let list: Vec<Listed> = list.collect();
                self.scheduler.on_list(pool, Some(&list), true, now, wall);
            }
            Action::Results { batch, id, .. } => {
                let found = self.server.get_mut(&id);
                let items = found.map_or_else(Vec::new, |found| std::mem::take(&mut found.items));
                for (custom_id, number, fails) in &items {
                    let outcome = match fails {
                        true => ItemOutcome::Temporary,
                        false => ItemOutcome::Succeeded {
                            tokens: 0,
                            cost: Money::ZERO,
                            saved: Money::ZERO,
                            cache: (0, 0),
                        },
                    };
                    let used = self.scheduler.on_line(batch, custom_id, outcome, now);
                    if let LineUse::Deliver(ticket) = used {
                        self.waiting.remove(&ticket);
                        self.scheduler.delivered(ticket, wall);
                        self.tally.answer(&self.calls[*number], seconds, true);
                    }
                }
                if let Some(found) = self.server.get_mut(&id) {
                    found.items = items;
                }
                self.scheduler
                    .on_results(batch, ResultsEnd::Complete, now, wall);
            }
            _ => {}
        }
    }
}
