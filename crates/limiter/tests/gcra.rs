//! One dimension compared with `governor`, which keeps the same limit by GCRA. Both decide the same
//! while GCRA's interval is a whole number of nanoseconds.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use governor::{Quota, RateLimiter, clock::FakeRelativeClock};
use tower_claude_core::{Cost, Scope};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, Settlement,
    pool::{Enqueued, PoolRequest},
};

const MINUTE: u64 = 60_000_000_000;
/// A debug build takes ten times as long for each.
const OPERATIONS: u32 = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};

type Gcra = RateLimiter<
    governor::state::NotKeyed,
    governor::state::InMemoryState,
    FakeRelativeClock,
    governor::middleware::NoOpMiddleware<governor::nanos::Nanos>,
>;

struct Both {
    clock: FakeRelativeClock,
    gcra: Gcra,
    pool: Pool,
    now: u64,
}

impl Both {
    /// `limit` cells a minute, at most `burst` at once.
    fn new(limit: u64, burst: u32) -> Self {
        let clock = FakeRelativeClock::default();
        let interval = Duration::from_nanos(MINUTE / limit);
        let quota = Quota::with_period(interval)
            .unwrap()
            .allow_burst(NonZeroU32::new(burst).unwrap());
        // Rounded up: a capacity of less than a cell more admits the same.
        let holds = (u128::from(burst) * u128::from(MINUTE)).div_ceil(u128::from(limit));
        let limits = Limits::new()
            .with_requests_per_minute(NonZeroU64::new(limit).unwrap())
            .with_burst(Duration::from_nanos(holds as u64));
        let scope = Scope::named("one");
        Self {
            gcra: RateLimiter::direct_with_clock(quota, clock.clone()),
            clock,
            pool: Pool::new(
                scope.clone(),
                &limits.for_scope(&scope),
                LimiterConfig::new(),
                0,
            ),
            now: 0,
        }
    }

    fn pass(&mut self, nanos: u64) {
        self.now += nanos;
        self.clock.advance(Duration::from_nanos(nanos));
    }

    /// Returns whether `governor` and the pool admit this many at once.
    fn decide(&mut self, cells: u32) -> (bool, bool) {
        let theirs = self.gcra.check_n(NonZeroU32::new(cells).unwrap());
        let mut cost = Cost::new(0, 0);
        cost.requests = u64::from(cells);
        let ask = PoolRequest::new(cost, self.now).with_max_wait(Some(0));
        let ours = match self.pool.enqueue(self.now, ask) {
            Ok(Enqueued::Granted(id)) => {
                self.pool.settle(self.now, id, &Settlement::dropped());
                true
            }
            Ok(Enqueued::Waiting(_)) => panic!("it would not wait"),
            Err(_) => false,
        };
        // The error of governor's outer result: more than ever fits, which nobody asks for here.
        (theirs.unwrap().is_ok(), ours)
    }
}

/// Steps from far below an interval to a whole burst; returns how many were let through.
fn equal(limit: u64, burst: u32, seed: u64, operations: u32) -> u32 {
    let mut both = Both::new(limit, burst);
    let mut rng = fastrand::Rng::with_seed(seed);
    let interval = MINUTE / limit;
    let mut through = 0;
    for operation in 0..operations {
        let step = match rng.u8(0..20) {
            0..=3 => 0,
            4..=5 => rng.u64(0..interval.div_ceil(100).max(2)),
            6..=9 => interval,
            10..=18 => rng.u64(0..interval * 4),
            _ => rng.u64(0..interval * u64::from(burst) / 2 + 1),
        };
        both.pass(step);
        let cells = match rng.u8(0..10) {
            0 => rng.u32(1..=burst),
            1..=3 => rng.u32(1..=burst.min(4)),
            _ => 1,
        };
        let (theirs, ours) = both.decide(cells);
        assert_eq!(ours, theirs, "{limit} a minute, operation {operation}");
        through += u32::from(ours);
    }
    through
}

#[test]
fn bucket_decides_like_gcra() {
    // Intervals of a whole number of nanoseconds, from 12 s down to 2 ns.
    let limits = [
        (5, 3),
        (60, 60),
        (1_000, 17),
        (4_000, 1_000),
        (600_000, 600_000),
        (30_000_000_000, 4_000_000_000),
    ];
    for (number, (limit, burst)) in limits.into_iter().enumerate() {
        let each = OPERATIONS / limits.len() as u32 + 1;
        let through = equal(limit, burst, number as u64, each);
        // Both answers, often.
        assert!(
            (each / 20..each - each / 20).contains(&through),
            "{limit}: {through} of {each}"
        );
    }
}

/// If a minute does not divide into whole nanoseconds, GCRA with a rounded interval is too fast.
/// The pool is exact.
#[test]
fn gcra_with_a_rounded_interval_drifts() {
    const ASKS: u64 = 200_000;
    for (limit, cells, least_drift) in [(7_000_000_000, 1_000_000, 6_600), (7_000_003, 1_000, 3)] {
        let mut both = Both::new(limit, cells * 10);
        let (mut theirs, mut ours) = (0, 0);
        // Twice as often as the rounded interval allows.
        let step = MINUTE / limit * u64::from(cells) / 2;
        for ask in 0..ASKS {
            both.pass(if ask == 0 { 0 } else { step });
            let (one, other) = both.decide(cells);
            theirs += u64::from(one);
            ours += u64::from(other);
        }
        let refilled = u128::from(limit) * u128::from(both.now) / u128::from(MINUTE);
        let allowed = 10 + (refilled / u128::from(cells)) as u64;
        println!("{limit} a minute: allowed {allowed}, ours {ours}, governor's {theirs}");
        assert!(
            (allowed - 1..=allowed).contains(&ours),
            "{ours} of {allowed}"
        );
        assert!(theirs >= allowed + least_drift, "{theirs} of {allowed}");
    }
}
