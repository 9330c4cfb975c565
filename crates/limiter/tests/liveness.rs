//! Every queued request is admitted, no later than the work ahead of it takes.

use std::{
    collections::HashMap,
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use tower_claude_core::{Cost, Scope, Tenant};
use tower_claude_limiter::{
    FairShares, LimiterConfig, Limits, Pool, Settlement, Sharing,
    pool::{Enqueued, Next, PoolRequest, ReservationId, WaiterId},
};
use tower_claude_wire::Usage;

const S: f64 = 1e9;
const RATES: [u64; 4] = [600, 120_000, 24_000, 200_000];
/// Seconds of refill that the buckets hold.
const BURST: u64 = 3;
/// Timers are no finer.
const TICK: f64 = 1e6;

fn n(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).unwrap()
}

fn limits() -> Limits {
    Limits::new()
        .with_requests_per_minute(n(RATES[0]))
        .with_input_tokens_per_minute(n(RATES[1]))
        .with_output_tokens_per_minute(n(RATES[2]))
        .with_total_tokens_per_minute(n(RATES[3]))
        .with_burst(Duration::from_secs(BURST))
}

fn pool(shares: FairShares) -> Pool {
    let config = LimiterConfig::new()
        .with_sharing(Sharing::Exclusive)
        .with_learn_output(false)
        .with_calibrate_input(false)
        .with_shares(shares);
    let scope = Scope::named("live");
    Pool::new(scope.clone(), &limits().for_scope(&scope), config, 0)
}

/// Returns the nanoseconds of the bottleneck that a request takes.
fn work(input: u64, output: u64) -> f64 {
    let amounts = [1, input, output, input + output];
    let dimensions = amounts.iter().zip(RATES);
    dimensions
        .map(|(amount, rate)| *amount as f64 * 60.0 * S / rate as f64)
        .fold(0.0, f64::max)
}

/// A request in twenty is larger than the bucket and goes into debt.
fn amounts(rng: &mut fastrand::Rng) -> (u64, u64) {
    match rng.u8(0..20) {
        0 => (rng.u64(6_000..100_000), rng.u64(0..900)),
        1 => (rng.u64(0..900), rng.u64(1_200..20_000)),
        _ => (rng.u64(0..3_000), rng.u64(0..500)),
    }
}

struct Waiting {
    flow: usize,
    input: u64,
    output: u64,
    work: f64,
    /// The latest admission, apart from the resolution of timers.
    latest: f64,
    /// The number of admissions before its arrival.
    after: u64,
}

struct World {
    pool: Pool,
    now: u64,
    waiting: HashMap<WaiterId, Waiting>,
    admitted: u64,
    /// An upper bound of the time at which all admitted work is refilled.
    paid: f64,
    /// The number of admissions within the last tenth of their bound.
    close: u32,
}

impl World {
    fn new(shares: FairShares) -> Self {
        Self {
            pool: pool(shares),
            now: 0,
            waiting: HashMap::new(),
            admitted: 0,
            paid: 0.0,
            close: 0,
        }
    }

    /// Asks for `flow`; `others` bounds what the other flows get meanwhile, from the work of this
    /// flow up to and with this one.
    fn ask(&mut self, flow: usize, (input, output): (u64, u64), others: impl Fn(f64) -> f64) {
        let own = work(input, output);
        let of_flow = self.waiting.values().filter(|one| one.flow == flow);
        let ahead = of_flow.map(|one| one.work).sum::<f64>() + own;
        let paid = self.paid.max(self.now as f64);
        let one = Waiting {
            flow,
            input,
            output,
            work: own,
            latest: paid + ahead + others(ahead),
            after: self.admitted,
        };
        let tenant = Tenant(flow.to_string().into());
        let ask = PoolRequest::new(Cost::new(input, output), self.now).with_tenant(Some(&tenant));
        match self.pool.enqueue(self.now, ask).unwrap() {
            Enqueued::Granted(id) => self.on_admitted(id, &one),
            Enqueued::Waiting(waiter) => {
                self.waiting.insert(waiter, one);
            }
        }
    }

    fn on_admitted(&mut self, id: ReservationId, one: &Waiting) {
        let between = self.admitted - one.after + 1;
        let late = self.now as f64 - one.latest - between as f64 * TICK;
        assert!(late <= 0.0, "{} s late", late / S);
        self.close += u32::from(late > -one.latest / 10.0);
        let mut usage = Usage::default();
        usage.input_tokens = Some(one.input);
        usage.output_tokens = Some(one.output);
        self.pool.settle(self.now, id, &Settlement::Used { usage });
        // The bottleneck of one may be the leisure of another: the sum is an upper bound.
        self.paid = self.paid.max(self.now as f64) + one.work;
        self.admitted += 1;
    }

    /// Admits requests until `until`, only at the times that the pool returns.
    fn run(&mut self, until: u64) {
        let mut granted = Vec::new();
        loop {
            let next = self.pool.poll(self.now, &mut granted);
            for (waiter, id) in granted.drain(..) {
                let one = self.waiting.remove(&waiter).expect("it waits");
                self.on_admitted(id, &one);
            }
            match next {
                Next::At(at) if at <= until => self.now = at,
                Next::OnChange => panic!("nothing else can happen"),
                _ => break,
            }
        }
        self.now = self.now.max(until.min(u64::MAX / 2));
    }

    fn drain(&mut self) {
        self.run(u64::MAX);
        assert_eq!((self.pool.queued(), self.waiting.len()), (0, 0));
    }
}

#[test]
fn request_is_admitted_no_later_than_the_work_ahead_takes() {
    let mut close = 0;
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new(FairShares::new());
        for _ in 0..200 {
            world.ask(0, amounts(&mut rng), |_| 0.0);
            let until = world.now + rng.u64(0..2_000_000_000);
            world.run(until);
        }
        world.drain();
        close += world.close;
    }
    assert!(close > 1_000, "the bound is far off: {close}");
}

#[test]
fn request_is_admitted_no_later_than_its_share_allows_while_others_are_busy() {
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weights: Vec<u32> = (0..4).map(|_| rng.u32(1..9)).collect();
        let mut shares = FairShares::new();
        for (flow, weight) in weights.iter().enumerate() {
            let tenant = Tenant(flow.to_string().into());
            shares = shares.with_tenant(&tenant, NonZeroU32::new(*weight).unwrap());
        }
        let mut world = World::new(shares);
        let plan: Vec<_> = (0..300)
            .map(|_| (rng.usize(0..4), amounts(&mut rng)))
            .collect();
        let largest = plan
            .iter()
            .map(|(_, (input, output))| work(*input, *output));
        let largest = largest.fold(0.0, f64::max);
        for (flow, amounts) in plan {
            // Of work by weight nobody gets ahead by more than a largest request of both; and one
            // of each may have been let out just before.
            let own = f64::from(weights[flow]);
            let others: f64 = weights.iter().map(|weight| f64::from(*weight)).sum::<f64>() - own;
            world.ask(flow, amounts, |ahead| {
                others / own * (ahead + largest) + 3.0 * 2.0 * largest
            });
            let until = world.now + rng.u64(0..2_000_000_000);
            world.run(until);
        }
        world.drain();
    }
}
