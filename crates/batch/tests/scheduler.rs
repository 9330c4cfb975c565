//! Properties of the scheduler against a server that fails at random, in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;
use tower_claude_batch::{
    BatchNumber, ItemId, Key, PoolId, Record,
    scheduler::{
        Action, BatchCall, Creation, ItemOutcome, LineUse, Listed, Placement, ResultsEnd,
        Scheduler, SchedulerSettings, SharedPrefix, Status, Ticket, Verdict,
    },
};
use tower_claude_wire::Money;

const MINUTE: Duration = Duration::from_secs(60);

/// A batch at the server.
struct ServerBatch {
    pool: PoolId,
    items: Vec<String>,
    created: SystemTime,
    ends: SystemTime,
}

/// A call that waits.
struct Waiting {
    live_at: Instant,
    pool: PoolId,
}

struct World {
    rng: fastrand::Rng,
    scheduler: Scheduler,
    settings: SchedulerSettings,
    start: (Instant, SystemTime),
    now: Instant,
    server: BTreeMap<String, ServerBatch>,
    /// Outcomes that have not arrived.
    in_flight: Vec<(Instant, Action)>,
    waiting: HashMap<Ticket, Waiting>,
    /// The pool of each body, and the number of batches that have executed it.
    bodies: HashMap<Bytes, (PoolId, u32)>,
    records: Vec<Record>,
    serial: u64,
    resolved: u64,
    placed: u64,
    delivered: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut settings = SchedulerSettings::default();
        settings.persistent = rng.bool();
        settings.max_items = rng.usize(1..8);
        settings.max_queued = 30;
        Self {
            scheduler: Scheduler::new(settings.clone(), seed),
            settings,
            rng,
            start: (Instant::now(), SystemTime::UNIX_EPOCH + 500_000 * MINUTE),
            now: Instant::now(),
            server: BTreeMap::new(),
            in_flight: Vec::new(),
            waiting: HashMap::new(),
            bodies: HashMap::new(),
            records: Vec::new(),
            serial: 0,
            resolved: 0,
            placed: 0,
            delivered: 0,
        }
    }

    fn wall(&self) -> SystemTime {
        self.start.1 + (self.now - self.start.0)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    fn enqueue(&mut self) {
        let pool = PoolId([self.rng.u8(0..2); 16]);
        let key = Key([pool.0[0] * 16 + self.rng.u8(0..6); 16]);
        self.serial += 1;
        let body = Bytes::from(format!("{{\"serial\":{}}}", self.serial));
        self.bodies.insert(body.clone(), (pool, 0));
        let minutes = self.rng.u32(1..2_000);
        let deadline = self.now + minutes * MINUTE;
        let prefix = self
            .rng
            .bool()
            .then(|| SharedPrefix::new(self.rng.u64(0..2), 50_000, true));
        let model = Arc::from(["a", "b"][self.rng.usize(0..2)]);
        let call = BatchCall::new(pool, key, model, body, deadline).with_prefix(prefix);
        match self.scheduler.enqueue(call, self.now) {
            Placement::Waits { ticket, live_at } => {
                assert!(live_at > self.now && live_at <= deadline);
                self.placed += 1;
                let known = self.waiting.insert(ticket, Waiting { live_at, pool });
                assert!(known.is_none(), "tickets are unique");
            }
            Placement::Live(because) => assert!(!because.is_empty()),
            _ => unreachable!("no other placement"),
        }
    }

    fn withdraw(&mut self) {
        let mut tickets: Vec<Ticket> = self.waiting.keys().copied().collect();
        tickets.sort_unstable();
        if !tickets.is_empty() {
            let ticket = tickets[self.rng.usize(0..tickets.len())];
            self.waiting.remove(&ticket);
            self.resolved += 1;
            self.scheduler.withdraw(ticket, self.now);
        }
    }

    fn resolve(&mut self, ticket: Ticket) {
        let waiting = self.waiting.remove(&ticket);
        let waiting = waiting.expect("a call is resolved once");
        assert!(self.now <= waiting.live_at, "never after its time");
        self.resolved += 1;
    }

    fn verdicts(&mut self) {
        for (ticket, verdict) in self.scheduler.take_verdicts() {
            assert!(matches!(verdict, Verdict::Live(_) | Verdict::Denied));
            self.resolve(ticket);
        }
        drop(self.scheduler.take_decisions());
    }

    /// Does all that is due now.
    fn pump(&mut self) {
        for round in 0.. {
            assert!(round < 100, "the scheduler does not come to rest");
            let wall = self.wall();
            self.scheduler.plan(self.now, wall);
            let (records, _) = self.scheduler.take_records();
            let had_records = !records.is_empty();
            if had_records {
                let written = !self.chance(3);
                if written {
                    self.records.extend(records);
                }
                self.scheduler.on_journal(written);
                if !written {
                    self.records = self.scheduler.snapshot_records();
                }
            }
            self.verdicts();
            let mut acted = 0;
            while let Some(action) = self.scheduler.next_action(self.now) {
                acted += 1;
                assert!(acted < 1_000, "the scheduler repeats an action");
                self.begin(action);
            }
            self.verdicts();
            if acted == 0 && !had_records {
                break;
            }
        }
        if let Some(next) = self.scheduler.next_at() {
            assert!(next > self.now, "something is due and not done");
        }
    }

    /// Sends a request. Its outcome arrives at once or later.
    fn begin(&mut self, action: Action) {
        if let Action::Create { pool, items, .. } = &action {
            assert!(!items.is_empty() && items.len() <= self.settings.max_items);
            let ids: BTreeSet<&String> = items.iter().map(|(id, _)| id).collect();
            assert_eq!(ids.len(), items.len(), "ids are unique");
            for (_, body) in items {
                assert_eq!(self.bodies[body].0, *pool, "pools are not mixed");
            }
        }
        let delay = match self.chance(50) {
            true => Duration::ZERO,
            false => Duration::from_secs(self.rng.u64(1..200)),
        };
        self.in_flight.push((self.now + delay, action));
    }

    fn arrive(&mut self, action: Action) {
        let (now, wall) = (self.now, self.wall());
        let failed = self.chance(10);
        match action {
            Action::Create { batch, pool, items } => {
                let lost = self.chance(20);
                let outcome = if failed {
                    match self.rng.u32(0..5) {
                        0 => Creation::Denied,
                        1 => Creation::TooLarge,
                        2 => Creation::Rejected,
                        3 => Creation::Ambiguous,
                        _ => Creation::NotTaken { retry_after: None },
                    }
                } else {
                    let id = format!("msgbatch_{}", self.server.len());
                    let minutes = self.rng.u32(1..2_000);
                    for (_, body) in &items {
                        let known = self.bodies.get_mut(body).expect("a body");
                        known.1 += 1;
                        assert_eq!(known.1, 1, "executed once");
                    }
                    let created = ServerBatch {
                        pool,
                        items: items.into_iter().map(|(id, _)| id).collect(),
                        created: wall,
                        ends: wall + minutes.min(1_440) * MINUTE,
                    };
                    self.server.insert(id.clone(), created);
                    match lost {
                        true => Creation::Ambiguous,
                        false => Creation::Created { id },
                    }
                };
                self.scheduler.on_created(batch, outcome, now, wall);
            }
            Action::Retrieve { batch, id, .. } => {
                let status = match self.server.get(&id) {
                    _ if failed => Status::Failed { retry_after: None },
                    Some(found) if found.ends <= wall => Status::Ended,
                    Some(_) => Status::Running,
                    None => Status::NotFound,
                };
                self.scheduler.on_status(batch, status, now, wall);
            }
            Action::Cancel { id, .. } => {
                let batch = self.server.get_mut(&id).expect("a batch");
                batch.ends = batch.ends.min(wall);
            }
            Action::List { pool, .. } => {
                let of_pool = self.server.iter().filter(|(_, batch)| batch.pool == pool);
                let list: Vec<Listed> = of_pool
                    .map(|(id, batch)| {
                        let age = wall.duration_since(batch.created).unwrap();
                        let total = batch.items.len() as u64;
                        Listed::new(id.clone(), age, batch.ends <= wall, total)
                    })
                    .collect();
                let list = (!failed).then_some(&list[..]);
                self.scheduler.on_list(pool, list, true, now, wall);
            }
            Action::Results { batch, id, .. } => self.results(batch, &id, failed),
            _ => unreachable!("no other action"),
        }
        self.verdicts();
    }

    fn results(&mut self, batch: BatchNumber, id: &str, failed: bool) {
        let (now, wall) = (self.now, self.wall());
        let Some(found) = self.server.get(id).filter(|found| found.ends <= wall) else {
            let end = ResultsEnd::NotFound;
            return self.scheduler.on_results(batch, end, now, wall);
        };
        let mut items = found.items.clone();
        self.rng.shuffle(&mut items);
        let count = match failed {
            true => items.len() / 2,
            false => items.len(),
        };
        for custom_id in &items[..count] {
            // The result of a call is always the same.
            let outcome = match custom_id.bytes().map(u32::from).sum::<u32>() % 12 {
                0 => ItemOutcome::Failed,
                1 => ItemOutcome::Denied,
                2 => ItemOutcome::Temporary,
                3 => ItemOutcome::Expired,
                4 => ItemOutcome::Canceled,
                _ => ItemOutcome::Succeeded {
                    tokens: 10,
                    cost: Money::from_micros(1),
                    saved: Money::from_micros(1),
                    cache: (0, 1_000),
                },
            };
            for _ in 0..2 {
                match self.scheduler.on_line(batch, custom_id, outcome, now) {
                    LineUse::Deliver(ticket) => {
                        let pool = self.waiting[&ticket].pool;
                        assert_eq!(pool, self.server[id].pool);
                        self.resolve(ticket);
                        self.delivered += 1;
                        self.scheduler.delivered(ticket, wall);
                    }
                    LineUse::Skip => {}
                    LineUse::OtherBatch => {
                        let (_, number) = ItemId::parse_custom_id(custom_id).unwrap();
                        assert_ne!(number, batch);
                    }
                    _ => unreachable!("no other use"),
                }
            }
            self.verdicts();
        }
        let end = match failed {
            true => ResultsEnd::Failed { retry_after: None },
            false => ResultsEnd::Complete,
        };
        self.scheduler.on_results(batch, end, now, wall);
    }

    /// Moves to the next time at which something happens, but not beyond `end`.
    fn advance(&mut self, end: Instant) {
        while self.now < end {
            let timers = self.waiting.values().map(|waiting| waiting.live_at);
            let arrivals = self.in_flight.iter().map(|(at, _)| *at);
            let next = timers.chain(arrivals).chain(self.scheduler.next_at()).min();
            self.now = next.unwrap_or(end).clamp(self.now, end);
            let late = self
                .waiting
                .iter()
                .filter(|(_, call)| call.live_at <= self.now);
            let mut late: Vec<Ticket> = late.map(|(ticket, _)| *ticket).collect();
            late.sort_unstable();
            for ticket in late {
                self.resolve(ticket);
                self.scheduler.go_live(ticket, self.now);
            }
            let due = self.in_flight.iter().position(|(at, _)| *at <= self.now);
            if let Some(due) = due {
                let (_, action) = self.in_flight.swap_remove(due);
                self.arrive(action);
            }
            self.pump();
        }
    }

    /// Checks that the journal and its compaction restore the same calls.
    fn check_journal(&mut self) {
        let wall = self.wall();
        let restore = |records: Vec<Record>| {
            let mut restored = Scheduler::new(self.settings.clone(), 1);
            restored.replay(records, self.now, wall);
            let mut attached = Vec::new();
            for pool in 0..2_u8 {
                for key in 0..6 {
                    for _ in 0..50 {
                        let (pool, key) = (PoolId([pool; 16]), Key([pool * 16 + key; 16]));
                        let deadline = self.now + 3_000 * MINUTE;
                        let model = Arc::from("a");
                        let body = Bytes::from_static(b"{}");
                        let call = BatchCall::new(pool, key, model, body, deadline);
                        let before = restored.snapshot(self.now).attached;
                        restored.enqueue(call, self.now);
                        attached.push(restored.snapshot(self.now).attached > before);
                    }
                }
            }
            attached
        };
        let compacted = self.scheduler.snapshot_records();
        assert_eq!(
            restore(self.records.clone()).len(),
            restore(compacted.clone()).len()
        );
        let again = {
            let mut restored = Scheduler::new(self.settings.clone(), 1);
            restored.replay(compacted.clone(), self.now, wall);
            restored.snapshot_records()
        };
        let batches = |records: &[Record]| {
            let planned = records.iter().filter_map(|record| match record {
                Record::Planned { batch, items, .. } => Some((*batch, items.len())),
                _ => None,
            });
            planned.collect::<BTreeMap<BatchNumber, usize>>()
        };
        assert_eq!(
            batches(&again),
            batches(&compacted),
            "a compaction loses nothing"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_call_resolves_exactly_once_and_is_executed_at_most_once(seed in any::<u64>()) {
        let mut world = World::new(seed);
        for _ in 0..world.rng.u32(5..60) {
            for _ in 0..world.rng.u32(0..6) {
                world.enqueue();
            }
            if world.chance(20) {
                world.withdraw();
            }
            world.pump();
            let seconds = world.rng.u64(1..4_000);
            world.advance(world.now + Duration::from_secs(seconds));
        }
        world.check_journal();
        // Until the longest tolerance is over.
        world.advance(world.now + 2_100 * MINUTE);
        prop_assert_eq!(world.resolved, world.placed);
        let snapshot = world.scheduler.snapshot(world.now);
        prop_assert_eq!((snapshot.queued, snapshot.queued_bytes, snapshot.in_batches), (0, 0, 0));
        prop_assert!(snapshot.answered + snapshot.failed >= world.delivered);
        // Nothing is remembered for ever.
        world.advance(world.now + 60 * 24 * 60 * MINUTE);
        world.scheduler.plan(world.now, world.wall());
        let left = world.scheduler.snapshot_records();
        prop_assert!(left.is_empty(), "{} records are left", left.len());
    }
}

/// A scheduler without latencies of its own, at a start time.
struct Plan {
    scheduler: Scheduler,
    start: Instant,
    serial: u8,
}

impl Plan {
    fn new() -> Self {
        Self {
            scheduler: Scheduler::new(SchedulerSettings::default(), 1),
            start: Instant::now(),
            serial: 0,
        }
    }

    fn enqueue(&mut self, at: Duration, prefix: Option<SharedPrefix>) -> Ticket {
        self.serial += 1;
        let now = self.start + at;
        let body = Bytes::from(vec![self.serial]);
        let key = Key([self.serial; 16]);
        let deadline = now + 1_200 * MINUTE;
        let call = BatchCall::new(PoolId([0; 16]), key, Arc::from("a"), body, deadline);
        match self.scheduler.enqueue(call.with_prefix(prefix), now) {
            Placement::Waits { ticket, .. } => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the bodies of the batches that are created at this time, in any order.
    fn created(&mut self, at: Duration) -> Vec<(BatchNumber, Vec<u8>)> {
        let now = self.start + at;
        self.scheduler.plan(now, SystemTime::UNIX_EPOCH + at);
        drop(self.scheduler.take_records());
        self.scheduler.on_journal(true);
        let mut created = Vec::new();
        while let Some(action) = self.scheduler.next_action(now) {
            if let Action::Create { batch, items, .. } = action {
                created.push((batch, items.iter().map(|(_, body)| body[0]).collect()));
            }
        }
        created.sort_by_key(|(_, bodies): &(BatchNumber, Vec<u8>)| bodies.len());
        created
    }

    fn end(&mut self, number: BatchNumber, at: Duration) {
        let (now, wall) = (self.start + at, SystemTime::UNIX_EPOCH + at);
        let id = format!("msgbatch_{number:?}");
        self.scheduler
            .on_created(number, Creation::Created { id }, now, wall);
        self.scheduler.on_status(number, Status::Ended, now, wall);
    }
}

#[test]
fn one_call_writes_a_long_prefix_before_the_others_are_sent() {
    let mut plan = Plan::new();
    let long = Some(SharedPrefix::new(7, 50_000, true));
    for _ in 0..4 {
        plan.enqueue(Duration::ZERO, long);
    }
    plan.enqueue(Duration::ZERO, None);
    let created = plan.created(5 * MINUTE);
    let sizes: Vec<usize> = created.iter().map(|(_, bodies)| bodies.len()).collect();
    assert_eq!(
        sizes,
        [1, 1],
        "the first of four, and the one without a prefix"
    );
    assert_eq!(plan.scheduler.snapshot(plan.start).queued, 3);
    assert!(plan.created(20 * MINUTE).is_empty());
    let primer = created
        .iter()
        .find(|(_, bodies)| bodies[0] < 5)
        .expect("a primer");
    plan.end(primer.0, 20 * MINUTE);
    let created = plan.created(20 * MINUTE + Duration::from_secs(10));
    assert_eq!(created.len(), 1);
    assert_eq!(created[0].1.len(), 3, "the others read it");
    // The prefix is in the cache for an hour.
    for _ in 0..4 {
        plan.enqueue(30 * MINUTE, long);
    }
    assert_eq!(plan.created(35 * MINUTE)[0].1.len(), 4);
    for _ in 0..4 {
        plan.enqueue(90 * MINUTE, long);
    }
    assert_eq!(plan.created(95 * MINUTE)[0].1.len(), 1, "again");
}

#[test]
fn priming_that_does_not_pay_is_left_out() {
    let prefixes = [
        Some(SharedPrefix::new(7, 5_000, true)),
        Some(SharedPrefix::new(7, 50_000, false)),
        None,
    ];
    for prefix in prefixes {
        let mut plan = Plan::new();
        for _ in 0..4 {
            plan.enqueue(Duration::ZERO, prefix);
        }
        assert_eq!(plan.created(5 * MINUTE)[0].1.len(), 4, "{prefix:?}");
    }
}

#[test]
fn calls_that_wait_for_a_prefix_are_sent_when_their_time_has_come() {
    let mut plan = Plan::new();
    for _ in 0..3 {
        plan.enqueue(Duration::ZERO, Some(SharedPrefix::new(7, 50_000, true)));
    }
    assert_eq!(plan.created(5 * MINUTE)[0].1.len(), 1);
    // The priming batch never ends. p95 is an hour, and an ordinary call takes two minutes.
    let laxity = (1_200 - 60 - 2) * MINUTE;
    assert!(plan.created(laxity - Duration::from_secs(1)).is_empty());
    assert_eq!(plan.created(laxity)[0].1.len(), 2);
}

#[test]
fn calls_with_one_prefix_stand_together() {
    let mut plan = Plan::new();
    for hash in [1, 2, 3, 1, 2, 3, 1, 2, 3] {
        plan.enqueue(Duration::ZERO, Some(SharedPrefix::new(hash, 5_000, false)));
    }
    let created = plan.created(5 * MINUTE);
    assert_eq!(created[0].1, [1, 4, 7, 2, 5, 8, 3, 6, 9]);
}
