//! 10^6 random operations on a pool (10^5 unoptimized): nothing is lost, no admissible request
//! sleeps, nothing panics.

use std::{
    collections::HashSet,
    num::{NonZeroU32, NonZeroU64},
    time::{Duration, SystemTime},
};

use tower_claude_core::{Cost, Dimension, Scope};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, Settlement, Sharing, SlowStart,
    pool::{Enqueued, Next, ObservedHead, PoolRequest, ReservationId, WaiterId},
};
use tower_claude_wire::{Gauge, RateLimits, Usage};

const MS: u64 = 1_000_000;
const OPERATIONS: usize = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};

struct Model {
    rng: fastrand::Rng,
    pool: Pool,
    now: u64,
    waiting: HashSet<WaiterId>,
    flying: Vec<ReservationId>,
    /// A slow start may delay any request.
    rising: bool,
    settled: Vec<ReservationId>,
    hostile: bool,
}

fn per_minute(limit: u64) -> NonZeroU64 {
    NonZeroU64::new(limit).unwrap()
}

fn limits() -> Limits {
    Limits::new()
        .with_requests_per_minute(per_minute(6_000))
        .with_input_tokens_per_minute(per_minute(600_000))
        .with_output_tokens_per_minute(per_minute(120_000))
        .with_total_tokens_per_minute(per_minute(900_000))
        .with_concurrency(NonZeroU32::new(30).unwrap())
        .with_burst(Duration::from_secs(5))
}

impl Model {
    fn new(seed: u64, hostile: bool) -> Self {
        let scope = Scope::named("random");
        let config = LimiterConfig::new()
            .with_queue_limit(50)
            .with_initial_concurrency(NonZeroU32::new(4))
            .with_slow_start(seed.is_multiple_of(5).then(SlowStart::new))
            .with_sharing([Sharing::Auto, Sharing::Shared, Sharing::Exclusive][seed as usize % 3]);
        Self {
            rng: fastrand::Rng::with_seed(seed),
            pool: Pool::new(scope.clone(), &limits().for_scope(&scope), config, 0),
            now: 0,
            waiting: HashSet::new(),
            flying: Vec::new(),
            rising: seed.is_multiple_of(5),
            settled: Vec::new(),
            hostile,
        }
    }

    fn step(&mut self) {
        self.now += self.rng.u64(0..40) * MS / 2;
        // A clock that steps back must not matter.
        let skew = if self.rng.u8(..) < 8 {
            self.rng.u64(0..=self.now)
        } else {
            0
        };
        let now = self.now - skew;
        match self.rng.u8(0..10) {
            0..=3 => self.ask(now),
            4 => self.cancel(),
            5 => self.observe(now),
            6 => self.correct(now),
            _ => self.end(now),
        }
        self.check();
    }

    fn ask(&mut self, now: u64) {
        let cost = Cost::new(self.rng.u64(0..6_000), self.rng.u64(0..900))
            .with_max_output_tokens(self.rng.bool().then_some(1_000));
        let ask = PoolRequest::new(cost, now.saturating_sub(self.rng.u64(0..500) * MS))
            .with_max_wait(self.rng.bool().then_some(20_000 * MS));
        match self.pool.enqueue(now, ask) {
            Ok(Enqueued::Granted(id)) => self.flying.push(id),
            Ok(Enqueued::Waiting(waiter)) => {
                assert!(self.waiting.insert(waiter));
                for (shed, _) in self.pool.take_shed() {
                    assert_eq!(self.waiting.iter().max(), Some(&shed));
                    assert!(self.waiting.remove(&shed), "neither granted nor cancelled");
                }
            }
            Err(_) => {}
        }
    }

    fn cancel(&mut self) {
        // The head as often as anybody behind it.
        let mut waiting: Vec<WaiterId> = self.waiting.iter().copied().collect();
        waiting.sort();
        let at = if self.rng.bool() {
            self.rng.usize(0..50)
        } else {
            0
        };
        if let Some(waiter) = waiting.get(at % waiting.len().max(1)).copied() {
            assert!(self.pool.cancel(waiter));
            assert!(!self.pool.cancel(waiter), "twice");
            self.waiting.remove(&waiter);
        }
    }

    fn any(&mut self) -> Option<ReservationId> {
        let settled = self.rng.u8(0..8) == 0;
        let from = if settled { &self.settled } else { &self.flying };
        (!from.is_empty()).then(|| from[self.rng.usize(0..from.len())])
    }

    fn observe(&mut self, now: u64) {
        let Some(id) = self.any() else { return };
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + now / 1_000 / MS);
        let mut headers = RateLimits::default();
        let hostile = self.hostile && self.rng.u8(0..4) == 0;
        headers.requests = gauge(&mut self.rng, 6_000, date, hostile);
        headers.input_tokens = gauge(&mut self.rng, 600_000, date, hostile);
        headers.output_tokens = gauge(&mut self.rng, 120_000, date, hostile);
        let rejected = self.rng.u8(0..10) == 0;
        let seen = ObservedHead::new(&headers, Some(date)).with_rejected(rejected);
        self.pool.observe(now, id, &seen);
        if rejected {
            let wait = self
                .rng
                .bool()
                .then(|| Duration::from_millis(self.rng.u64(0..3_000)));
            self.pool.rate_limited(now, id, wait, self.rng.f64());
        }
    }

    fn correct(&mut self, now: u64) {
        let Some(id) = self.any() else { return };
        let tokens = self.rng.u64(0..8_000);
        if self.rng.bool() {
            self.pool.true_up_input(now, id, tokens);
        } else {
            self.pool.produced(now, id, tokens / 4);
        }
    }

    fn end(&mut self, now: u64) {
        if let Some(id) = self.settled.last() {
            self.pool.settle(now, *id, &Settlement::NotSent);
        }
        if self.flying.is_empty() {
            return;
        }
        let at = self.rng.usize(0..self.flying.len());
        let id = self.flying.swap_remove(at);
        let mut usage = Usage::default();
        usage.input_tokens = self.rng.bool().then(|| self.rng.u64(0..8_000));
        usage.output_tokens = self.rng.bool().then(|| self.rng.u64(0..1_500));
        let settlement = match self.rng.u8(0..10) {
            0 => Settlement::NotSent,
            1 => Settlement::Rejected,
            2 => Settlement::Failed { usage },
            3 => Settlement::Dropped { usage },
            4 => Settlement::Invalid,
            _ => Settlement::Used { usage },
        };
        self.pool.settle(now, id, &settlement);
        self.settled.push(id);
        if self.settled.len() > 20 {
            self.settled.remove(0);
        }
    }

    fn poll(&mut self) -> Next {
        let mut granted = Vec::new();
        let next = self.pool.poll(self.now, &mut granted);
        for (waiter, id) in granted {
            assert!(self.waiting.remove(&waiter), "granted twice or cancelled");
            self.flying.push(id);
        }
        next
    }

    fn check(&mut self) {
        let next = self.poll();
        assert_eq!(self.pool.in_flight(), self.flying.len());
        assert_eq!(self.pool.queued(), self.waiting.len());
        assert_eq!(self.pool.head(), self.waiting.iter().min().copied());
        let snapshot = self.pool.snapshot(self.now);
        for one in &snapshot.dimensions {
            let most = i64::try_from(one.capacity).unwrap();
            assert!(one.available <= most, "{one:?}");
        }
        let full = snapshot.in_flight >= 30
            || snapshot
                .initial_concurrency
                .is_some_and(|most| snapshot.in_flight >= most);
        match next {
            Next::Idle => assert!(self.waiting.is_empty()),
            Next::OnChange => assert!(full, "asleep without a reason: {snapshot:?}"),
            Next::At(at) => {
                assert!(at > self.now && !self.waiting.is_empty());
                // The input ratio is at most four. The margin for the error of the next request's
                // own estimate is at most three times that, and three tenths of the bucket.
                let margin_holds = snapshot.dimensions.iter().any(|one| {
                    let own = (one.capacity / 10 * 3)
                        .max(one.safety_margin)
                        .min(one.safety_margin + 72_000);
                    one.dimension != Dimension::Concurrency
                        && one.available < i64::try_from(own).unwrap() + 24_001
                });
                let held = !snapshot.paused_for.is_zero() || margin_holds;
                assert!(held || snapshot.shared || self.rising, "{snapshot:?}");
                assert!(at - self.now <= 3_600_000 * MS, "stalled: {snapshot:?}");
            }
        }
    }

    fn drain(mut self) {
        let mut steps = 0;
        while self.pool.queued() + self.pool.in_flight() > 0 {
            for id in std::mem::take(&mut self.flying) {
                self.pool.settle(self.now, id, &Settlement::NotSent);
            }
            // What is in flight ends first: it may be what the head waits for.
            if let (Next::At(at), true) = (self.poll(), self.flying.is_empty()) {
                // No limit and no header may stop everything for longer than the longest pause.
                assert!(
                    at - self.now <= 300_000 * MS,
                    "{:?}",
                    self.pool.snapshot(self.now)
                );
                self.now = at;
            }
            self.check();
            steps += 1;
            assert!(
                steps < 10_000,
                "does not drain: {:?}",
                self.pool.snapshot(self.now)
            );
        }
        let snapshot = self.pool.snapshot(self.now);
        assert_eq!((snapshot.in_flight, snapshot.queued), (0, 0));
        assert_eq!(snapshot.outstanding_output, 0);
        assert!(self.pool.is_idle(self.now + 3_600_000 * MS));
    }
}

fn gauge(rng: &mut fastrand::Rng, limit: u64, date: SystemTime, hostile: bool) -> Gauge {
    let mut gauge = Gauge::default();
    if hostile {
        let odd = [0, 1, u64::MAX, u64::MAX / 2, 1 << 40];
        gauge.limit = rng.bool().then(|| odd[rng.usize(0..odd.len())]);
        gauge.remaining = rng.bool().then(|| odd[rng.usize(0..odd.len())]);
        gauge.reset = match rng.u8(0..4) {
            0 => None,
            1 => Some(SystemTime::UNIX_EPOCH),
            2 => Some(date + Duration::from_secs(1 << 40)),
            _ => date.checked_sub(Duration::from_secs(90)),
        };
    } else {
        // The limit itself changes now and then.
        let times = [1, 2, 4];
        let often = if rng.u8(0..20) == 0 { 3 } else { 1 };
        gauge.limit = Some(limit * times[rng.usize(0..often)] / times[rng.usize(0..often)]);
        gauge.remaining = Some(rng.u64(0..limit / 10) / 1_000 * 1_000);
        gauge.reset = Some(date + Duration::from_secs(rng.u64(0..8)));
    }
    gauge
}

fn run(seed: u64, hostile: bool, operations: usize) {
    let mut model = Model::new(seed, hostile);
    for _ in 0..operations {
        model.step();
    }
    model.drain();
}

#[test]
fn many_operations() {
    run(1, false, OPERATIONS);
}

#[test]
fn many_operations_with_hostile_headers() {
    run(2, true, OPERATIONS);
}

#[test]
fn many_short_histories() {
    for seed in 3..200 {
        run(seed, seed % 2 == 0, 300);
    }
}
