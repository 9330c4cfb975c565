//! Immediate admission has the effects of the queue, though it looks at the limits only once.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::{Duration, SystemTime},
};

use fastrand::Rng;
use tower_claude_core::{Cost, Scope};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, Settlement, Sharing, SlowStart,
    pool::{Enqueued, ObservedHead, PoolRequest, ReservationId},
};
use tower_claude_wire::{Gauge, RateLimits, Usage};

const MS: u64 = 1_000_000;

fn limit(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).unwrap()
}

fn limits(rng: &mut Rng) -> Limits {
    let mut limits = Limits::new()
        .with_requests_per_minute(limit(6_000))
        .with_input_tokens_per_minute(limit(600_000))
        .with_concurrency(NonZeroU32::new(30).unwrap())
        .with_burst(Duration::from_secs(if rng.bool() { 5 } else { 90 }));
    if rng.bool() {
        limits = limits.with_output_tokens_per_minute(limit(120_000));
    }
    if rng.bool() {
        limits = limits
            .with_total_tokens_per_minute(limit(900_000))
            .with_tokens_per_day(limit(5_000_000));
    }
    if rng.bool() {
        limits = limits.with_additional(Limits::new().with_requests_per_minute(limit(3_000)));
    }
    limits
}

fn config(rng: &mut Rng) -> LimiterConfig {
    let sharing = [Sharing::Auto, Sharing::Shared, Sharing::Exclusive];
    LimiterConfig::new()
        .with_sharing(sharing[rng.usize(0..3)])
        .with_slow_start((rng.u8(0..4) == 0).then(SlowStart::new))
        .with_near_limit_percentile(if rng.bool() { 50 } else { 90 })
}

/// Admits the request from an empty queue, or gives it up.
fn enqueue(pool: &mut Pool, now: u64, cost: Cost, deadline: Option<u64>) -> Option<ReservationId> {
    match pool.enqueue(now, PoolRequest::new(cost, now).with_deadline(deadline)) {
        Ok(Enqueued::Granted(id)) => Some(id),
        Ok(Enqueued::Waiting(waiter)) => {
            assert!(pool.cancel(waiter));
            None
        }
        Err(_) => None,
    }
}

fn gauge(rng: &mut Rng, limit: u64, date: SystemTime) -> Option<Gauge> {
    let gauge = Gauge {
        limit: Some(limit),
        remaining: Some(rng.u64(0..=limit / 8) / 1_000 * 1_000),
        reset: Some(date + Duration::from_secs(rng.u64(0..8))),
    };
    rng.bool().then_some(gauge)
}

/// Returns the number of requests that were admitted at once, and of those that were not.
fn run(seed: u64) -> (usize, usize) {
    let mut rng = Rng::with_seed(seed);
    let (limits, config) = (limits(&mut rng), config(&mut rng));
    let scope = Scope::named("test");
    let limits = limits.for_scope(&scope);
    let mut pools = [(); 2].map(|()| Pool::new(scope.clone(), &limits, config.clone(), 0));
    let mut flying: Vec<ReservationId> = Vec::new();
    let (mut now, mut at_once, mut others) = (0, 0, 0);
    for _ in 0..2_000 {
        let longest = if rng.u8(0..20) == 0 { 9_000 } else { 60 };
        now += rng.u64(0..longest) * MS;
        match rng.u8(0..10) {
            0..=3 => {
                let most = if rng.u8(0..40) == 0 { 2_000_000 } else { 6_000 };
                let cost = Cost::new(rng.u64(0..most), rng.u64(0..900))
                    .with_max_output_tokens(rng.bool().then_some(1_000));
                // It may have passed already.
                let deadline = rng
                    .bool()
                    .then(|| (now + rng.u64(0..200) * MS).saturating_sub(20 * MS));
                let [one, other] = &mut pools;
                let granted = one.grant_now(now, &cost, deadline);
                at_once += usize::from(granted.is_some());
                let granted = granted.or_else(|| enqueue(one, now, cost, deadline));
                assert_eq!(granted, enqueue(other, now, cost, deadline));
                others += usize::from(granted.is_none());
                flying.extend(granted);
            }
            4 if !flying.is_empty() => {
                let id = flying[rng.usize(0..flying.len())];
                let date = SystemTime::UNIX_EPOCH + Duration::from_millis(now / MS);
                let mut headers = RateLimits::default();
                for (gauge, seen) in [
                    (&mut headers.requests, gauge(&mut rng, 6_000, date)),
                    (&mut headers.input_tokens, gauge(&mut rng, 600_000, date)),
                ] {
                    *gauge = seen.unwrap_or_default();
                }
                let rejected = rng.u8(0..6) == 0;
                let jitter = rng.f64();
                for pool in &mut pools {
                    let head = ObservedHead::new(&headers, Some(date)).with_rejected(rejected);
                    pool.observe(now, id, &head);
                    if rejected {
                        pool.rate_limited(now, id, Some(Duration::from_secs(1)), jitter);
                    }
                }
            }
            5 if !flying.is_empty() => {
                let id = flying[rng.usize(0..flying.len())];
                let (input, output) = (rng.u64(0..8_000), rng.u64(0..1_500));
                let is_input = rng.bool();
                for pool in &mut pools {
                    if is_input {
                        pool.true_up_input(now, id, input);
                    } else {
                        pool.produced(now, id, output);
                    }
                }
            }
            6.. if !flying.is_empty() => {
                let id = flying.swap_remove(rng.usize(0..flying.len()));
                let mut usage = Usage::default();
                usage.input_tokens = rng.bool().then(|| rng.u64(0..8_000));
                usage.output_tokens = rng.bool().then(|| rng.u64(0..1_500));
                let settlement = match rng.u8(0..12) {
                    0 => Settlement::NotSent,
                    1 => Settlement::Rejected,
                    2 => Settlement::Invalid,
                    3 => Settlement::Dropped { usage },
                    4 => Settlement::Failed { usage },
                    _ => Settlement::Used { usage },
                };
                for pool in &mut pools {
                    pool.settle(now, id, &settlement);
                }
            }
            _ => {}
        }
        assert_eq!(pools[0].snapshot(now), pools[1].snapshot(now), "{seed}");
    }
    (at_once, others)
}

#[test]
fn request_granted_at_once_changes_a_pool_as_one_that_was_enqueued() {
    let counts: Vec<_> = (0..30).map(run).collect();
    let (at_once, others) = counts
        .iter()
        .fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    assert!(at_once > 3_000, "{at_once}");
    assert!(others > 500, "{others}");
}
