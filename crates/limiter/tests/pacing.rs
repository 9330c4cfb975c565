//! The pace of a pool with shared limits and with a slow start, and the detection of sharing.

use std::{collections::VecDeque, num::NonZeroU64, time::Duration};

use tower_claude_core::{Cost, Scope};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, Settlement, Sharing, SlowStart,
    pool::{Enqueued, Next, ObservedHead, PoolRequest, ReservationId},
};
use tower_claude_wire::{RateLimits, Usage};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// 60,000 input tokens a minute: a thousand a second.
fn pool(config: LimiterConfig) -> Pool {
    let limits = Limits::new().with_input_tokens_per_minute(NonZeroU64::new(60_000).unwrap());
    let scope = Scope::named("paced");
    Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0)
}

fn ask(pool: &mut Pool, now: u64, tokens: u64) -> Option<ReservationId> {
    let ask = PoolRequest::new(Cost::new(tokens, 0), now);
    match pool.enqueue(now, ask).unwrap() {
        Enqueued::Granted(id) => Some(id),
        Enqueued::Waiting(_) => None,
    }
}

fn poll(pool: &mut Pool, now: u64) -> (usize, Next) {
    let mut granted = Vec::new();
    let next = pool.poll(now, &mut granted);
    (granted.len(), next)
}

fn headers(remaining: u64) -> RateLimits {
    let mut headers = RateLimits::default();
    headers.input_tokens.limit = Some(60_000);
    headers.input_tokens.remaining = Some(remaining);
    headers
}

#[test]
fn full_shared_level_is_used_at_four_times_the_rate() {
    let mut pool = pool(LimiterConfig::new().with_sharing(Sharing::Shared));
    assert!(ask(&mut pool, 0, 1_000).is_none(), "no credit yet");
    assert_eq!(poll(&mut pool, 0), (0, Next::At(2 * MS)));
    // A second's work, of which 8 ms are earned: 992 ms at four times the rate, looked at in
    // between.
    assert_eq!(poll(&mut pool, 2 * MS), (1, Next::Idle));
    assert!(ask(&mut pool, 2 * MS, 1_000).is_none());
    assert_eq!(poll(&mut pool, 2 * MS), (0, Next::At(250 * MS)));
    assert_eq!(poll(&mut pool, 250 * MS), (0, Next::At(252 * MS)));
    assert_eq!(poll(&mut pool, 252 * MS), (1, Next::Idle));
}

#[test]
fn pace_falls_with_the_shared_level() {
    let mut pool = pool(LimiterConfig::new().with_sharing(Sharing::Shared));
    assert!(ask(&mut pool, 0, 30_000).is_none());
    assert_eq!(poll(&mut pool, S).0, 1, "the first costs half of it");
    assert!(ask(&mut pool, S, 1).is_none());
    // 29 s of work are owed. At half full it goes at 1/e of the rate, and e times faster each 6 s
    // that refill a tenth: the integral is 29 s after 16.
    let mut now = S;
    while let (0, Next::At(at)) = poll(&mut pool, now) {
        assert!((2 * MS..=250 * MS).contains(&(at - now)));
        now = at;
    }
    assert!((16 * S..18 * S).contains(&now), "{now}");
}

#[test]
fn exclusive_level_is_used_at_once() {
    for sharing in [Sharing::Auto, Sharing::Exclusive] {
        let mut pool = pool(LimiterConfig::new().with_sharing(sharing));
        for _ in 0..60 {
            assert!(ask(&mut pool, 0, 1_000).is_some());
        }
    }
}

#[test]
fn second_unexplained_decrease_makes_limits_shared() {
    let mut pool = pool(LimiterConfig::new());
    let id = ask(&mut pool, 0, 10_000).unwrap();
    pool.observe(0, id, &ObservedHead::new(&headers(50_000), None));
    pool.settle(0, id, &Settlement::dropped());
    for (at, remaining, shared) in [
        (S, 50_000, false),
        (2 * S, 40_000, false),
        (4 * S, 30_000, true),
    ] {
        let id = ask(&mut pool, at, 1).unwrap();
        pool.observe(at, id, &ObservedHead::new(&headers(remaining), None));
        pool.settle(at, id, &Settlement::dropped());
        assert_eq!(pool.snapshot(at).shared, shared, "{at}");
    }
    assert!(pool.snapshot(603 * S).shared);
    assert!(!pool.snapshot(604 * S).shared, "ten minutes without a sign");
}

#[test]
fn unexpected_429_makes_limits_shared() {
    let mut pool = pool(LimiterConfig::new());
    let id = ask(&mut pool, 0, 1_000).unwrap();
    pool.observe(0, id, &ObservedHead::new(&headers(59_000), None));
    pool.settle(0, id, &Settlement::dropped());
    let id = ask(&mut pool, S, 1_000).unwrap();
    pool.rate_limited(S, id, None, 0.0);
    let mut limits = headers(59_000);
    limits.requests.limit = Some(60);
    limits.requests.remaining = Some(0);
    pool.observe(S, id, &ObservedHead::new(&limits, None).with_rejected(true));
    pool.settle(S, id, &Settlement::Rejected);
    assert!(!pool.snapshot(S).shared, "that limit was news");
    let id = {
        let mut at = 2 * S;
        loop {
            if let Some(id) = ask(&mut pool, at, 1) {
                break id;
            }
            let mut granted = Vec::new();
            at += S;
            pool.poll(at, &mut granted);
            if let Some((_, id)) = granted.first() {
                break *id;
            }
        }
    };
    pool.rate_limited(20 * S, id, None, 0.0);
    pool.observe(
        20 * S,
        id,
        &ObservedHead::new(&limits, None).with_rejected(true),
    );
    assert!(pool.snapshot(20 * S).shared);
}

/// The server counts a request when it is sent, estimates are up to a fifth off, and twenty
/// requests overlap.
#[test]
fn estimation_errors_do_not_make_limits_shared() {
    for seed in 0..8 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut pool = pool(LimiterConfig::new());
        let (mut level, mut now) = (60_000.0_f64, 0);
        let (mut estimates, mut in_flight) = (VecDeque::new(), VecDeque::new());
        for step in 0..3_000 {
            let passed = if step % 500 == 499 { 30 * S } else { 100 * MS };
            now += passed;
            level = (level + passed as f64 / 1e6).min(60_000.0);
            let mut granted = Vec::new();
            pool.poll(now, &mut granted);
            let mut sent: Vec<_> = granted.into_iter().map(|(_, id)| id).collect();
            let estimate = rng.u64(20..420);
            estimates.push_back(estimate);
            sent.extend(ask(&mut pool, now, estimate));
            for id in sent {
                let estimate = estimates.pop_front().unwrap() as f64;
                let actual = estimate * (0.8 + 0.4 * rng.f64());
                level -= actual;
                let shown = (level / 1_000.0).round().max(0.0) as u64 * 1_000;
                in_flight.push_back((id, actual as u64, shown));
            }
            while in_flight.len() > 20 {
                let (id, actual, shown) = in_flight.pop_front().unwrap();
                pool.observe(now, id, &ObservedHead::new(&headers(shown), None));
                let mut usage = Usage::default();
                usage.input_tokens = Some(actual);
                pool.settle(now, id, &Settlement::Used { usage });
            }
            assert!(!pool.snapshot(now).shared, "seed {seed}, step {step}");
        }
        assert!(level < 10_000.0, "the limit is not used: {level}");
    }
}

#[test]
fn slow_start_after_idling_begins_at_a_quarter_of_the_rate() {
    let mut pool = pool(LimiterConfig::new().with_slow_start(Some(SlowStart::new())));
    for _ in 0..100 {
        ask(&mut pool, 0, 100);
    }
    let mut sent = Vec::new();
    let mut now = 0;
    while let (granted, Next::At(at)) = poll(&mut pool, now) {
        sent.extend((0..granted).map(|_| now));
        now = at;
    }
    // 0.1 s of work each: the integral of the pace is 0.5 after 1.7 s and 1.5 after 4.1 s.
    assert!((1_200 * MS..2_000 * MS).contains(&sent[5]), "{sent:?}");
    assert!((3_500 * MS..4_500 * MS).contains(&sent[15]), "{sent:?}");
    assert!(now < 11 * S, "and then at once: {now}");
}

#[test]
fn slow_start_begins_after_a_pause() {
    let config =
        LimiterConfig::new().with_slow_start(Some(SlowStart::new().with_after_idle(Duration::MAX)));
    let mut pool = pool(config);
    let mut granted = Vec::new();
    ask(&mut pool, 0, 1_000);
    pool.poll(20 * S, &mut granted);
    let id = granted[0].1;
    pool.rate_limited(20 * S, id, Some(Duration::from_secs(2)), 0.0);
    pool.settle(20 * S, id, &Settlement::Rejected);
    for _ in 0..3 {
        assert!(ask(&mut pool, 20 * S, 1_000).is_none());
    }
    assert_eq!(poll(&mut pool, 22 * S - 1).0, 0);
    assert_eq!(poll(&mut pool, 22 * S).0, 1);
    assert_eq!(poll(&mut pool, 23 * S).0, 0, "a second's work takes four");
}
