//! A pool compared with a slow and obvious model: equal levels to the last unit after every
//! operation, equal admissions in equal order, and equal times of the next poll.

use std::{num::NonZeroU32, time::Duration};

use tower_claude_core::Cost;
use tower_claude_wire::Usage;

use super::{MS, S, literal, n, pool};
use crate::{
    Limits, Settlement,
    pool::{Enqueued, Next, Pool, PoolRequest, ReservationId, WaiterId},
};

const UNIT: i128 = 60_000_000_000;
const MOST_AT_ONCE: usize = 12;
const MOST_WAITING: usize = 30;

/// Requests, input, output, both.
type Amounts = [i128; 4];

/// One limit: what it counts, how fast it refills, how much it holds.
struct Limit {
    counts: usize,
    rate: i128,
    capacity: i128,
    level: i128,
    /// Time and amount of each charge (negative for a refund), and whether it was an admission of a
    /// request that fits.
    log: Vec<(u64, i128, bool)>,
}

struct Waiting {
    arrival: u64,
    number: usize,
    waiter: WaiterId,
    cost: Amounts,
}

struct Flying {
    id: ReservationId,
    charge: Amounts,
    produced: i128,
    /// The number of the charge, and the highest level of each limit since.
    number: usize,
    peaks: Vec<i128>,
}

struct Model {
    rng: fastrand::Rng,
    pool: Pool,
    now: u64,
    number: usize,
    admitted: usize,
    limits: Vec<Limit>,
    waiting: Vec<Waiting>,
    flying: Vec<Flying>,
    /// The amounts that ended requests used, and their number.
    ended: Amounts,
    endings: usize,
}

/// No limit divides a minute.
fn tight() -> Limits {
    let additional = Limits::new()
        .with_total_tokens_per_minute(n(700_001))
        .with_burst(Duration::from_millis(2_300));
    Limits::new()
        .with_requests_per_minute(n(5_003))
        .with_input_tokens_per_minute(n(600_011))
        .with_output_tokens_per_minute(n(120_011))
        .with_total_tokens_per_minute(n(900_007))
        .with_concurrency(NonZeroU32::new(MOST_AT_ONCE as u32).expect("not 0"))
        .with_burst(Duration::from_millis(3_700))
        .with_additional(additional)
}

impl Model {
    fn new(seed: u64, limits: &Limits) -> Self {
        let config = literal().with_queue_limit(MOST_WAITING);
        let pool = pool(limits, config);
        let known = pool.buckets.known();
        let mut found: Vec<(usize, u64, i128)> = known
            .map(|(counts, bucket)| (counts, bucket.limit(), bucket.capacity()))
            .collect();
        found.extend(pool.buckets.additional().iter().map(|limit| {
            let capacity = limit.bucket().expect("a limit per minute").capacity();
            (limit.dimension, limit.limit(), capacity)
        }));
        let limit = |(counts, rate, capacity)| Limit {
            counts,
            rate: i128::from(rate),
            capacity,
            level: capacity,
            log: Vec::new(),
        };
        Self {
            rng: fastrand::Rng::with_seed(seed),
            pool,
            now: 0,
            number: 0,
            admitted: 0,
            limits: found.into_iter().map(limit).collect(),
            waiting: Vec::new(),
            flying: Vec::new(),
            ended: [0; 4],
            endings: 0,
        }
    }

    fn pass(&mut self, nanos: u64) {
        self.now += nanos;
        for limit in &mut self.limits {
            limit.level = (limit.level + limit.rate * i128::from(nanos)).min(limit.capacity);
        }
        for flying in &mut self.flying {
            for (peak, limit) in flying.peaks.iter_mut().zip(&self.limits) {
                *peak = limit.level.max(*peak);
            }
        }
    }

    /// Nanoseconds until all levels are there for this; none while too many are in flight.
    fn wait(&self, cost: &Amounts) -> Option<u64> {
        if self.flying.len() >= MOST_AT_ONCE {
            return None;
        }
        let waits = self.limits.iter().map(|limit| {
            let need = (cost[limit.counts] * UNIT).min(limit.capacity);
            let missing = (need - limit.level).max(0);
            (missing + limit.rate - 1) / limit.rate
        });
        Some(waits.max().unwrap_or(0) as u64)
    }

    fn admit(&mut self, id: ReservationId, cost: Amounts) {
        for limit in &mut self.limits {
            let taken = cost[limit.counts] * UNIT;
            limit.level -= taken;
            limit.log.push((self.now, taken, taken <= limit.capacity));
        }
        self.admitted += 1;
        self.flying.push(Flying {
            id,
            charge: cost,
            produced: 0,
            number: self.admitted,
            peaks: self.limits.iter().map(|limit| limit.level).collect(),
        });
    }

    fn recharge(&mut self, at: usize, input: Option<i128>, output: Option<i128>) {
        let flying = &mut self.flying[at];
        let old = flying.charge;
        let input = input.unwrap_or(old[1]);
        let output = output.unwrap_or(old[2]);
        let new = [old[0], input, output, input + output];
        flying.charge = new;
        self.change(at, &old, &new);
    }

    /// A decrease raises the levels since the charge, as far as there was room for it at all times.
    fn change(&mut self, at: usize, old: &Amounts, new: &Amounts) {
        let number = self.flying[at].number;
        for (index, limit) in self.limits.iter_mut().enumerate() {
            let less = (old[limit.counts] - new[limit.counts]) * UNIT;
            let peak = self.flying[at].peaks[index];
            let less = less.min(limit.capacity - peak);
            limit.level += less;
            limit.log.push((self.now, -less, false));
            for other in &mut self.flying {
                if other.number >= number {
                    other.peaks[index] += less;
                } else {
                    other.peaks[index] = other.peaks[index].max(peak + less);
                }
            }
        }
    }

    fn step(&mut self) {
        let passed = self.rng.u64(0..60 * MS);
        self.pass(passed);
        match self.rng.u8(0..10) {
            0..=3 => self.ask(),
            4 => self.cancel(),
            5 => self.true_up(),
            6 => self.produce(),
            _ => self.end(),
        }
        self.check();
    }

    fn ask(&mut self) {
        self.number += 1;
        // One in fifty is larger than the bucket.
        let scale = if self.rng.u8(0..50) == 0 { 30 } else { 1 };
        let (input, output) = (self.rng.u64(0..3_000) * scale, self.rng.u64(0..900));
        let arrival = self.now - self.rng.u64(0..800 * MS).min(self.now);
        let impatient = self.rng.u8(0..4) == 0;
        let ask = PoolRequest::new(Cost::new(input, output), arrival)
            .with_max_wait(impatient.then(|| self.rng.u64(0..S)));
        let cost = [1, input, output, input + output].map(i128::from);
        // Of two that arrived at once the one that asked first is first.
        let leads = self.waiting.iter().all(|other| arrival < other.arrival);
        let admissible = leads && self.wait(&cost) == Some(0);
        match self.pool.enqueue(self.now, ask) {
            Ok(Enqueued::Granted(id)) => {
                assert!(admissible, "admitted too early");
                self.admit(id, cost);
            }
            Ok(Enqueued::Waiting(waiter)) => {
                assert!(!admissible, "kept waiting");
                self.waiting.push(Waiting {
                    arrival,
                    number: self.number,
                    waiter,
                    cost,
                });
                // A full queue gives up its last request, which an early arrival may be ahead of.
                for (shed, _) in self.pool.take_shed() {
                    let last = (0..self.waiting.len())
                        .max_by_key(|at| (self.waiting[*at].arrival, self.waiting[*at].number));
                    let last = self.waiting.swap_remove(last.unwrap());
                    assert!(last.waiter == shed && shed != waiter);
                }
                assert!(self.waiting.len() <= MOST_WAITING);
            }
            Err(refusal) => {
                let never = self.limits.iter().any(|limit| {
                    // More than a minute refills is refused outright.
                    cost[limit.counts] > limit.rate
                });
                let full = self.waiting.len() >= MOST_WAITING;
                assert!(!admissible && (never || full || impatient), "{refusal:?}");
            }
        }
    }

    fn cancel(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let at = self.rng.usize(0..self.waiting.len());
        let gone = self.waiting.swap_remove(at);
        assert!(self.pool.cancel(gone.waiter));
        assert!(!self.pool.cancel(gone.waiter), "twice");
    }

    fn one(&mut self) -> Option<usize> {
        (!self.flying.is_empty()).then(|| self.rng.usize(0..self.flying.len()))
    }

    fn true_up(&mut self) {
        let Some(at) = self.one() else { return };
        let tokens = self.rng.u64(0..4_000);
        self.pool
            .true_up_input(self.now, self.flying[at].id, tokens);
        self.recharge(at, Some(i128::from(tokens)), None);
    }

    fn produce(&mut self) {
        let Some(at) = self.one() else { return };
        let tokens = self.rng.u64(0..1_500);
        self.pool.produced(self.now, self.flying[at].id, tokens);
        let flying = &mut self.flying[at];
        flying.produced = flying.produced.max(i128::from(tokens));
        let produced = flying.produced;
        if produced > flying.charge[2] {
            self.recharge(at, None, Some(produced + produced / 4));
        }
    }

    fn end(&mut self) {
        let Some(at) = self.one() else { return };
        let mut usage = Usage::default();
        usage.input_tokens = self.rng.bool().then(|| self.rng.u64(0..4_000));
        usage.output_tokens = self.rng.bool().then(|| self.rng.u64(0..1_500));
        let input = usage.input_tokens.map(i128::from);
        let output = usage.output_tokens.map(i128::from);
        let (id, produced) = (self.flying[at].id, self.flying[at].produced);
        let settlement = match self.rng.u8(0..8) {
            0 => Settlement::NotSent,
            1 => Settlement::Rejected,
            2 => Settlement::Invalid,
            3 => Settlement::Failed { usage },
            4 => Settlement::Dropped { usage },
            _ => Settlement::Used { usage },
        };
        self.pool.settle(self.now, id, &settlement);
        match settlement {
            Settlement::NotSent | Settlement::Rejected => {
                let old = self.flying[at].charge;
                self.change(at, &old, &[0; 4]);
                self.flying[at].charge = [0; 4];
            }
            Settlement::Invalid => self.recharge(at, Some(0), Some(0)),
            Settlement::Failed { .. } | Settlement::Dropped { .. } => {
                self.recharge(at, input, Some(output.unwrap_or(0).max(produced)));
            }
            _ => self.recharge(at, input, output.map(|output| output.max(produced))),
        }
        let ended = self.flying.swap_remove(at);
        for (sum, charge) in self.ended.iter_mut().zip(ended.charge) {
            *sum += charge;
        }
        self.endings += 1;
        // Once is enough.
        self.pool.settle(self.now, id, &Settlement::NotSent);
        self.pool.produced(self.now, id, 1_000_000);
        self.pool.true_up_input(self.now, id, 1_000_000);
    }

    fn check(&mut self) {
        let mut granted = Vec::new();
        let next = self.pool.poll(self.now, &mut granted);
        for (waiter, id) in granted {
            let first = self.first().expect("somebody waits");
            let first = self.waiting.swap_remove(first);
            assert_eq!(first.waiter, waiter, "not the first");
            assert_eq!(self.wait(&first.cost), Some(0), "admitted too early");
            self.admit(id, first.cost);
        }
        let expected = match self.first() {
            None => Next::Idle,
            Some(first) => match self.wait(&self.waiting[first].cost) {
                None => Next::OnChange,
                Some(0) => panic!("asleep while admissible"),
                Some(wait) => Next::At(self.now + wait.max(MS)),
            },
        };
        assert_eq!(next, expected);
        let levels = self.pool.buckets.known().map(|(_, bucket)| bucket.level());
        let additional = self.pool.buckets.additional().iter();
        let levels = levels.chain(additional.filter_map(|limit| Some(limit.bucket()?.level())));
        assert!(levels.eq(self.limits.iter().map(|limit| limit.level)));
        assert_eq!(self.pool.in_flight(), self.flying.len());
        assert_eq!(self.pool.queued(), self.waiting.len());
    }

    fn first(&self) -> Option<usize> {
        let places = self.waiting.iter().enumerate();
        places
            .min_by_key(|(_, one)| (one.arrival, one.number))
            .map(|(at, _)| at)
    }

    fn drain(&mut self) {
        while !self.waiting.is_empty() || !self.flying.is_empty() {
            while !self.flying.is_empty() {
                self.end();
            }
            self.pass(50 * MS);
            self.check();
        }
        let snapshot = self.pool.snapshot(self.now);
        assert_eq!((snapshot.in_flight, snapshot.queued), (0, 0));
        assert_eq!(snapshot.outstanding_output, 0);
    }

    /// In every window that ends with an admission: taken less given back is at most what the
    /// bucket holds and the window refills. (What turns out to have taken more than it said may go
    /// into debt before the next is let out; what is larger than the bucket too.)
    fn check_windows(&self) {
        for limit in &self.limits {
            for from in 0..limit.log.len() {
                let start = limit.log[from].0;
                let mut sum = 0;
                for (at, taken, fits) in &limit.log[from..] {
                    sum += taken;
                    let most = limit.capacity + limit.rate * i128::from(at - start);
                    assert!(!fits || sum <= most, "{sum} in {start}..={at}");
                }
            }
        }
    }
}

#[test]
fn pool_agrees_with_the_reference_model() {
    let operations = if cfg!(debug_assertions) {
        100_000
    } else {
        1_000_000
    };
    let mut model = Model::new(1, &tight());
    for _ in 0..operations {
        model.step();
        if model.limits[0].log.len() > 1_000 {
            model.limits.iter_mut().for_each(|limit| limit.log.clear());
        }
    }
    model.drain();
    assert!(model.endings > operations / 10, "{}", model.endings);
}

#[test]
fn window_admits_at_most_the_capacity_and_its_refill() {
    for seed in 0..60 {
        let mut model = Model::new(seed, &tight());
        for _ in 0..400 {
            model.step();
        }
        model.check_windows();
    }
}

/// A level that never reaches its capacity loses nothing: in the end it is what it was, and what
/// time refilled, less what the requests used.
#[test]
fn reserved_tokens_are_used_or_given_back() {
    let limits = Limits::new()
        .with_requests_per_minute(n(5_003))
        .with_input_tokens_per_minute(n(6_000_011))
        .with_output_tokens_per_minute(n(1_200_011))
        .with_total_tokens_per_minute(n(9_000_007))
        .with_concurrency(NonZeroU32::new(MOST_AT_ONCE as u32).expect("not 0"))
        .with_burst(Duration::from_secs(600));
    for seed in 0..30 {
        let mut model = Model::new(seed, &limits);
        // Half of each, so that there is room for what comes back.
        let half = [25_000, 20_000_000, 5_000_000, 25_000_000];
        for (dimension, tokens) in model.pool.buckets.dimensions.iter_mut().zip(half) {
            dimension.bucket.as_mut().expect("limited").take(0, tokens);
        }
        for limit in &mut model.limits {
            limit.level -= i128::from(half[limit.counts]) * UNIT;
        }
        let begin: Vec<i128> = model.limits.iter().map(|limit| limit.level).collect();
        for _ in 0..2_000 {
            model.step();
        }
        model.drain();
        for (limit, begin) in model.limits.iter().zip(begin) {
            assert!(limit.level < limit.capacity, "it would prove nothing");
            let refilled = limit.rate * i128::from(model.now);
            let used = model.ended[limit.counts] * UNIT;
            assert_eq!(limit.level, begin + refilled - used);
        }
        assert!(model.endings > 400);
    }
}
