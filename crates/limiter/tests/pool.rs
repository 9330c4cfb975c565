//! The behaviour of a pool, one property per test.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use tower_claude_core::{Cost, Dimension, Endpoint, RejectReason, Scope, Settle};
use tower_claude_limiter::{
    DimensionSnapshot, LimiterConfig, Limits, Pool, Settlement,
    pool::{Enqueued, Next, ObservedHead, PoolRequest, ReservationId, WaiterId},
};
use tower_claude_wire::{RateLimits, Tier, Usage};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

fn n(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).unwrap()
}

fn pool_with(limits: &Limits, config: LimiterConfig) -> Pool {
    let scope = Scope::named("test");
    Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0)
}

fn pool(limits: &Limits) -> Pool {
    pool_with(limits, LimiterConfig::new())
}

fn input_limit(limit: u64) -> Limits {
    Limits::new().with_input_tokens_per_minute(n(limit))
}

fn granted(pool: &mut Pool, now: u64, ask: PoolRequest) -> ReservationId {
    match pool.enqueue(now, ask) {
        Ok(Enqueued::Granted(id)) => id,
        other => panic!("not granted: {other:?}"),
    }
}

fn waiting(pool: &mut Pool, now: u64, ask: PoolRequest) -> WaiterId {
    match pool.enqueue(now, ask) {
        Ok(Enqueued::Waiting(waiter)) => waiter,
        other => panic!("does not wait: {other:?}"),
    }
}

fn poll(pool: &mut Pool, now: u64) -> (Vec<WaiterId>, Next) {
    let mut granted = Vec::new();
    let next = pool.poll(now, &mut granted);
    (
        granted.into_iter().map(|(waiter, _)| waiter).collect(),
        next,
    )
}

fn level(pool: &Pool, now: u64, dimension: Dimension) -> DimensionSnapshot {
    pool.snapshot(now)
        .dimension(dimension)
        .expect("a limit")
        .clone()
}

fn available(pool: &Pool, now: u64) -> i64 {
    level(pool, now, Dimension::InputTokens).available
}

fn used(input: u64, output: u64) -> Settlement {
    let mut usage = Usage::default();
    usage.input_tokens = Some(input);
    usage.output_tokens = Some(output);
    Settlement::Used { usage }
}

fn input_header(limit: u64, remaining: u64) -> RateLimits {
    let mut limits = RateLimits::default();
    limits.input_tokens.limit = Some(limit);
    limits.input_tokens.remaining = Some(remaining);
    limits
}

fn ask(input: u64, arrival: u64) -> PoolRequest {
    PoolRequest::new(Cost::new(input, 0), arrival)
}

proptest! {
    /// In every window, what is admitted is at most the capacity plus what the window refills.
    #[test]
    fn never_more_than_the_bucket_holds(
        limit in 60_u64..100_000,
        burst_ms in 1_000_u64..60_000,
        steps in prop::collection::vec((0_u64..3_000, 1_u64..2_000), 1..60),
    ) {
        let limits = input_limit(limit).with_burst(Duration::from_millis(burst_ms));
        let mut pool = pool(&limits);
        let mut now = 0;
        let mut admitted: Vec<(u64, u128)> = Vec::new();
        for (step, cost) in steps {
            now += step * MS;
            let mut out = Vec::new();
            // Oversized ones go into debt by design; here all fit.
            let cost = cost.min(limit * burst_ms / 60_000).max(1);
            if let Ok(Enqueued::Granted(id)) = pool.enqueue(now, ask(cost, now).with_max_wait(Some(0))) {
                admitted.push((now, u128::from(cost)));
                pool.settle(now, id, &Settlement::dropped());
            }
            pool.poll(now, &mut out);
            prop_assert!(out.is_empty());
        }
        let unit = 60_000_000_000_u128;
        let capacity = (u128::from(limit) * u128::from(burst_ms * MS)).max(unit);
        for (from, (start, _)) in admitted.iter().enumerate() {
            let mut sum = 0;
            for (at, cost) in &admitted[from..] {
                sum += cost * unit;
                prop_assert!(sum <= capacity + u128::from(limit) * u128::from(at - start));
            }
        }
    }

    /// A refused, cancelled or never sent request leaves every level as it was.
    #[test]
    fn all_or_nothing(input in 0_u64..3_000, output in 0_u64..3_000, wait in any::<bool>()) {
        let limits = Limits::new()
            .with_requests_per_minute(n(100))
            .with_input_tokens_per_minute(n(2_000))
            .with_output_tokens_per_minute(n(1_000));
        let (mut with, mut without) = (pool(&limits), pool(&limits));
        for pool in [&mut with, &mut without] {
            granted(pool, 0, PoolRequest::new(Cost::new(900, 700), 0));
        }
        let extra = PoolRequest::new(Cost::new(input, output), 5);
        let extra = if wait { extra } else { extra.with_max_wait(Some(0)) };
        match with.enqueue(S, extra) {
            Ok(Enqueued::Waiting(waiter)) => prop_assert!(with.cancel(waiter)),
            Ok(Enqueued::Granted(id)) => with.settle(S, id, &Settlement::NotSent),
            Err(_) => {}
        }
        prop_assert_eq!(with.snapshot(2 * S), without.snapshot(2 * S));
        prop_assert_eq!(with.snapshot(9 * S).dimensions, without.snapshot(9 * S).dimensions);
    }

    /// A level that is right stays where it is, whatever honest headers arrive in whatever order.
    #[test]
    fn a_right_level_is_a_fixed_point(
        costs in prop::collection::vec(100_u64..3_000, 1..40),
        order in any::<u64>(),
        gap in 0_u64..200,
    ) {
        let limit = 600_000;
        let mut pool = pool(&input_limit(limit).with_burst(Duration::from_secs(60)));
        // Start below the capacity, so that nothing is lost to it.
        granted(&mut pool, 0, ask(400_000, 0));
        let mut true_level = 200_000_000_i128;
        let mut flying = Vec::new();
        let mut now = 0;
        let charged = |level: &mut i128, cost: u64| *level -= i128::from(cost) * 1_000;
        for cost in costs {
            now += gap * MS;
            true_level += i128::from(limit) * i128::from(gap) / 60;
            let id = granted(&mut pool, now, ask(cost, now));
            charged(&mut true_level, cost);
            let shown = u64::try_from((true_level / 1_000 + 500) / 1_000 * 1_000).unwrap();
            flying.push((id, shown));
        }
        fastrand::Rng::with_seed(order).shuffle(&mut flying);
        let before = available(&pool, now);
        for (id, shown) in flying {
            let headers = input_header(limit, shown);
            pool.observe(now, id, &ObservedHead::new(&headers, None));
            prop_assert_eq!(available(&pool, now), before);
        }
    }

    /// Time that steps back or jumps adds nothing and breaks nothing.
    #[test]
    fn time_only_goes_forward(times in prop::collection::vec(any::<u64>(), 1..40)) {
        let mut pool = pool(&input_limit(6_000));
        for now in times {
            if let Ok(Enqueued::Granted(id)) = pool.enqueue(now, ask(500, now).with_max_wait(Some(S))) {
                pool.settle(now / 2, id, &used(700, 3));
            }
            pool.poll(now, &mut Vec::new());
            prop_assert!(available(&pool, now) <= 6_000);
        }
    }
}

#[test]
fn limits_that_do_not_divide_a_minute_are_exact() {
    let mut pool = pool(
        &Limits::new()
            .with_requests_per_minute(n(7))
            .with_burst(Duration::ZERO),
    );
    granted(&mut pool, 0, ask(0, 0));
    let waiter = waiting(&mut pool, 0, ask(0, 0));
    let wait = (60 * S).div_ceil(7);
    assert_eq!(poll(&mut pool, 0), (vec![], Next::At(wait)));
    assert_eq!(poll(&mut pool, wait - 1).0, vec![]);
    assert_eq!(poll(&mut pool, wait), (vec![waiter], Next::Idle));
}

#[test]
fn request_over_the_capacity_waits_for_a_full_bucket_and_leaves_a_debt() {
    let mut pool = pool(&input_limit(6_000).with_burst(Duration::from_secs(10)));
    granted(&mut pool, 0, ask(100, 0));
    let big = waiting(&mut pool, 0, ask(4_000, 0));
    assert_eq!(poll(&mut pool, 0).1, Next::At(S));
    assert_eq!(poll(&mut pool, S).0, vec![big]);
    assert_eq!(available(&pool, S), -3_000);
    waiting(&mut pool, S, ask(1, S));
    assert_eq!(poll(&mut pool, S).1, Next::At(31 * S + 10 * MS));
}

#[test]
fn counted_request_over_the_limit_is_rejected_with_both_numbers() {
    let mut pool = pool(&input_limit(6_000));
    let counted = PoolRequest::new(Cost::new(1, 0).with_counted_input(6_001), 0);
    let refusal = pool.enqueue(0, counted).unwrap_err();
    let reason = RejectReason::Oversized {
        dimension: Dimension::InputTokens,
        cost: 6_001,
        limit: 6_000,
    };
    assert_eq!(refusal.reason, reason);
    granted(&mut pool, 0, ask(6_000, 0));
}

#[test]
fn old_learned_limit_neither_rejects_nor_holds_for_ever() {
    let mut pool = pool(&Limits::unlimited());
    let id = granted(&mut pool, 0, ask(1_000, 0));
    let headers = input_header(1, 0);
    pool.observe(0, id, &ObservedHead::new(&headers, None));
    pool.settle(0, id, &used(1_000, 0));
    let counted = PoolRequest::new(Cost::new(1, 0).with_counted_input(1_000), 0);
    assert!(matches!(
        pool.enqueue(S, counted).unwrap_err().reason,
        RejectReason::Oversized { .. }
    ));
    let later = 300 * S + 1;
    let patient = ask(1_000, 0).with_max_wait(Some(S));
    granted(&mut pool, later, patient);
    // One finds out; the others wait for it, but no longer than the longest pause.
    let waiter = waiting(&mut pool, later, ask(1_000, 0));
    assert_eq!(poll(&mut pool, later), (vec![], Next::At(later + 300 * S)));
    assert_eq!(poll(&mut pool, later + 300 * S).0, vec![waiter]);
}

#[test]
fn limit_of_zero_is_ignored() {
    let mut pool = pool(&Limits::unlimited());
    let id = granted(&mut pool, 0, ask(1_000, 0));
    let headers = input_header(0, 0);
    pool.observe(0, id, &ObservedHead::new(&headers, None));
    assert!(pool.snapshot(0).dimensions.is_empty());
    granted(&mut pool, 0, ask(1_000_000, 0));
}

#[test]
fn requests_are_admitted_in_order_of_first_arrival() {
    let mut pool = pool(&Limits::new().with_concurrency(NonZeroU32::MIN));
    let first = granted(&mut pool, 0, ask(5, 10));
    let second = waiting(&mut pool, 1, ask(1, 20));
    let third = waiting(&mut pool, 2, ask(1, 30));
    let again = waiting(&mut pool, 3, ask(1, 10));
    assert_eq!(pool.head(), Some(again));
    pool.settle(4, first, &Settlement::Rejected);
    let mut order = Vec::new();
    for _ in 0..3 {
        let mut out = Vec::new();
        pool.poll(5, &mut out);
        let (waiter, id) = out[0];
        order.push(waiter);
        pool.settle(5, id, &used(1, 1));
    }
    assert_eq!(order, [again, second, third]);
}

#[test]
fn small_requests_do_not_overtake_a_large_one() {
    let mut pool = pool(&input_limit(60_000).with_burst(Duration::from_secs(10)));
    granted(&mut pool, 0, ask(9_000, 0));
    let big = waiting(&mut pool, 0, ask(8_000, 1));
    let small = waiting(&mut pool, 0, ask(10, 2));
    assert_eq!(poll(&mut pool, 6 * S).0, vec![]);
    assert_eq!(poll(&mut pool, 7 * S).0, vec![big]);
    assert_eq!(poll(&mut pool, 7 * S + 10 * MS).0, vec![small]);
}

#[test]
fn too_long_estimated_wait_is_rejected_with_the_estimate() {
    let mut pool = pool(&input_limit(60_000).with_burst(Duration::from_secs(1)));
    granted(&mut pool, 0, ask(1_000, 0));
    waiting(&mut pool, 0, ask(1_000, 0));
    let late = ask(500, 1);
    let wait = Duration::from_millis(1_500);
    let refusal = pool.enqueue(0, late.with_max_wait(Some(S))).unwrap_err();
    assert_eq!(refusal.retry_after, Some(wait));
    assert!(
        matches!(refusal.reason, RejectReason::WaitTooLong { estimated, .. } if estimated == wait)
    );
    let refusal = pool.enqueue(0, late.with_deadline(Some(S))).unwrap_err();
    assert!(matches!(
        refusal.reason,
        RejectReason::DeadlineWouldPass { .. }
    ));
    waiting(&mut pool, 0, late.with_deadline(Some(2 * S)));
    let early = ask(500, 0).with_max_wait(Some(S)); // behind one that arrived with it
    assert!(pool.enqueue(0, early).is_err());
}

#[test]
fn estimated_wait_includes_the_pause() {
    let mut pool = pool(&input_limit(60_000).with_burst(Duration::from_secs(1)));
    let id = granted(&mut pool, 0, ask(1_000, 0));
    let pause = pool.rate_limited(0, id, Some(Duration::from_secs(4)), 0.0);
    assert_eq!(pause, Duration::from_secs(4));
    pool.settle(0, id, &Settlement::Rejected);
    let refusal = pool
        .enqueue(0, ask(500, 1).with_max_wait(Some(S)))
        .unwrap_err();
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(4)));
}

#[test]
fn full_queue_rejects() {
    let config = LimiterConfig::new().with_queue_limit(1);
    let mut pool = pool_with(&input_limit(60), config);
    granted(&mut pool, 0, ask(60, 0));
    waiting(&mut pool, 0, ask(1, 0));
    let refusal = pool.enqueue(0, ask(1, 0)).unwrap_err();
    assert_eq!(
        refusal.reason,
        RejectReason::QueueFull {
            waiting: 1,
            limit: 1
        }
    );
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(2)));
}

#[test]
fn settlement_refunds_by_stage() {
    let limits = Limits::new()
        .with_requests_per_minute(n(60))
        .with_input_tokens_per_minute(n(6_000))
        .with_output_tokens_per_minute(n(6_000));
    let left = |settlement: &Settlement| {
        let mut pool = pool(&limits);
        let id = granted(&mut pool, 0, PoolRequest::new(Cost::new(1_000, 500), 0));
        pool.produced(0, id, 40);
        pool.settle(0, id, settlement);
        pool.settle(0, id, &Settlement::NotSent); // once only
        let of = |dimension| level(&pool, 0, dimension).available;
        let (requests, input) = (of(Dimension::Requests), of(Dimension::InputTokens));
        (requests, input, of(Dimension::OutputTokens))
    };
    let usage = Usage::default();
    assert_eq!(left(&Settlement::NotSent), (60, 6_000, 6_000));
    assert_eq!(left(&Settlement::Rejected), (60, 6_000, 6_000));
    assert_eq!(left(&Settlement::Invalid), (59, 6_000, 6_000));
    assert_eq!(
        left(&Settlement::Failed {
            usage: usage.clone()
        }),
        (59, 5_000, 5_960)
    );
    assert_eq!(left(&Settlement::dropped()), (59, 5_000, 5_960));
    assert_eq!(left(&Settlement::Used { usage }), (59, 5_000, 5_500));
    assert_eq!(left(&used(1_700, 900)), (59, 4_300, 5_100));
}

#[test]
fn long_response_extends_its_reservation_by_quarters() {
    let limits = Limits::new().with_output_tokens_per_minute(n(6_000));
    let mut pool = pool(&limits);
    let cost = Cost::new(0, 100).with_max_output_tokens(Some(1_000));
    let id = granted(&mut pool, 0, PoolRequest::new(cost, 0));
    let left = |pool: &Pool| level(pool, 0, Dimension::OutputTokens).available;
    pool.produced(0, id, 100);
    assert_eq!(left(&pool), 5_900);
    pool.produced(0, id, 200);
    assert_eq!(left(&pool), 5_750);
    pool.produced(0, id, 250);
    assert_eq!(left(&pool), 5_750);
    pool.produced(0, id, 900);
    assert_eq!(left(&pool), 5_000); // never over what the request allows
}

#[test]
fn output_is_reserved_by_the_mean_of_responses() {
    let limits = Limits::new().with_output_tokens_per_minute(n(60_000));
    let mut pool = pool(&limits);
    let cost = Cost::new(10, 500).with_max_output_tokens(Some(64_000));
    for output in [100, 300] {
        let id = granted(&mut pool, 0, PoolRequest::new(cost, 0));
        pool.settle(0, id, &used(10, output));
    }
    granted(&mut pool, 60 * S, PoolRequest::new(cost, 0));
    assert_eq!(
        level(&pool, 60 * S, Dimension::OutputTokens).available,
        59_800
    );
    granted(
        &mut pool,
        60 * S,
        PoolRequest::new(cost.with_max_output_tokens(Some(50)), 0),
    );
    assert_eq!(
        level(&pool, 60 * S, Dimension::OutputTokens).available,
        59_750
    );
}

#[test]
fn input_estimate_is_corrected_by_the_actual_ratio() {
    let mut pool = pool(&input_limit(1_000_000));
    let id = granted(&mut pool, 0, ask(1_000, 0));
    pool.settle(0, id, &used(1_500, 1));
    granted(&mut pool, 60 * S, ask(2_000, 0));
    assert_eq!(available(&pool, 60 * S), 997_000);
}

#[test]
fn inferred_pause_doubles_with_each_429_until_a_success() {
    // With a learned rate, a single request would be sent after each pause.
    let config = LimiterConfig::new().with_learn_limits(false);
    let mut pool = pool_with(&Limits::unlimited(), config);
    let mut now = 0;
    for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        let (id, late) = (
            granted(&mut pool, now, ask(1, now)),
            granted(&mut pool, now, ask(1, now)),
        );
        let wait = pool.rate_limited(now, id, None, 0.0);
        assert_eq!(wait, Duration::from_secs(seconds));
        // Others sent with it say the same thing once more: no news.
        assert_eq!(
            pool.rate_limited(now + 1, late, None, 0.0)
                .as_secs_f64()
                .round() as u64,
            seconds
        );
        pool.settle(now, id, &Settlement::Rejected);
        pool.settle(now, late, &Settlement::Rejected);
        now += (seconds + 1) * S;
    }
    let id = granted(&mut pool, now, ask(1, now));
    pool.settle(now, id, &used(1, 1));
    let id = granted(&mut pool, now, ask(1, now));
    assert_eq!(
        pool.rate_limited(now, id, None, 0.0),
        Duration::from_secs(1)
    );
}

#[test]
fn retry_after_is_honoured_up_to_an_hour_and_jitter_only_adds() {
    let mut pool = pool(&Limits::unlimited());
    let id = granted(&mut pool, 0, ask(1, 0));
    let wait = pool.rate_limited(0, id, Some(Duration::from_secs(10)), 1.0);
    assert_eq!(wait, Duration::from_secs(15));
    let wait = pool.rate_limited(0, id, Some(Duration::from_secs(1)), 0.0);
    assert_eq!(
        wait,
        Duration::from_secs(15),
        "a shorter one does not shorten"
    );
    let wait = pool.rate_limited(0, id, Some(Duration::from_secs(50)), 1.0);
    assert_eq!(wait, Duration::from_secs(60), "ten seconds more at most");
    let wait = pool.rate_limited(0, id, Some(Duration::MAX), 0.0);
    assert_eq!(wait, LimiterConfig::MAX_EXPLICIT_PAUSE);
}

#[test]
fn initial_concurrency_rises_with_responses_and_ends_with_the_first_headers() {
    let config = LimiterConfig::new().with_initial_concurrency(NonZeroU32::new(2));
    let mut pool = pool_with(&Limits::unlimited(), config);
    let one = granted(&mut pool, 0, ask(1, 0));
    let two = granted(&mut pool, 0, ask(1, 0));
    for _ in 0..10 {
        waiting(&mut pool, 0, ask(1, 0));
    }
    assert_eq!(poll(&mut pool, 0), (vec![], Next::OnChange));
    pool.settle(0, one, &used(1, 1));
    assert_eq!(poll(&mut pool, 0).0.len(), 2);
    let headers = input_header(1_000_000, 1_000_000);
    pool.observe(0, two, &ObservedHead::new(&headers, None));
    assert_eq!(poll(&mut pool, 0).0.len(), 8);
}

#[test]
fn tokens_header_is_a_limit_only_without_the_other_token_headers() {
    let mut pool = pool(&Limits::unlimited());
    let id = granted(&mut pool, 0, ask(1_000, 0));
    let mut headers = RateLimits::default();
    headers.tokens.limit = Some(9_000);
    headers.tokens.remaining = Some(8_000);
    pool.observe(0, id, &ObservedHead::new(&headers, None));
    assert_eq!(level(&pool, 0, Dimension::TotalTokens).limit, 9_000);
    let mut other = pool_with(&Limits::unlimited(), LimiterConfig::new());
    let id = granted(&mut other, 0, ask(1_000, 0));
    headers.input_tokens.limit = Some(5_000);
    other.observe(0, id, &ObservedHead::new(&headers, None));
    assert!(
        other
            .snapshot(0)
            .dimension(Dimension::TotalTokens)
            .is_none()
    );
}

#[test]
fn configured_limit_caps_what_headers_name_unless_it_is_a_hint() {
    let hint = LimiterConfig::new().with_limits_as_hint(true);
    for (config, raised, warnings) in [(LimiterConfig::new(), 6_000, 1), (hint, 12_000, 0)] {
        let mut pool = pool_with(&input_limit(6_000), config);
        let id = granted(&mut pool, 0, ask(1_000, 0));
        let mut differing = Vec::new();
        for (named, holds) in [(3_000, 3_000), (12_000, raised), (6_000, 6_000)] {
            let headers = input_header(named, 2_000);
            let warning = pool.observe(0, id, &ObservedHead::new(&headers, None));
            let configured = warning.filter(|warning| warning.configured.is_some());
            differing.extend(configured.map(|warning| (warning.configured, warning.limit)));
            assert_eq!(level(&pool, 0, Dimension::InputTokens).limit, holds);
        }
        let expected = [(Some(6_000), 3_000)];
        assert_eq!(differing, expected[..warnings]);
    }
}

/// The longest time for which an unconfirmed limit holds is over.
#[test]
fn cap_below_the_limit_of_the_server_holds_without_headers() {
    let mut pool = pool(&input_limit(6_000));
    let id = granted(&mut pool, 0, ask(6_000, 0));
    let mut headers = input_header(1_000_000, 1_000_000);
    headers.input_tokens.reset = Some(SystemTime::UNIX_EPOCH);
    let server_time = Some(SystemTime::UNIX_EPOCH);
    pool.observe(0, id, &ObservedHead::new(&headers, server_time));
    pool.settle(0, id, &used(6_000, 1));
    assert_eq!(available(&pool, 0), 0);
    let seen = level(&pool, 600 * S, Dimension::InputTokens);
    assert_eq!(
        (seen.limit, seen.capacity, seen.learned),
        (6_000, 6_000, false)
    );
    let id = granted(&mut pool, 600 * S, ask(6_000, 0));
    pool.settle(600 * S, id, &used(6_000, 1));
    assert!(
        pool.grant_now(601 * S, &Cost::new(1_000, 0), None)
            .is_none()
    );
}

#[test]
fn preset_of_a_tier_does_not_cap_what_headers_name() {
    let mut scope = Scope::named("sonnet-5.5");
    scope.endpoint = Endpoint::Messages;
    let limits = Limits::tier(Tier::Start).for_scope(&scope);
    let preset = limits.input_tokens.expect("published").get();
    let mut pool = Pool::new(scope, &limits, LimiterConfig::new(), 0);
    let id = granted(&mut pool, 0, ask(1, 0));
    let headers = input_header(preset * 2, preset * 2);
    pool.observe(0, id, &ObservedHead::new(&headers, None));
    assert_eq!(level(&pool, 0, Dimension::InputTokens).limit, preset * 2);
}

#[test]
fn usage_settles_what_the_cost_asks_for() {
    let settled = |settle: Settle| {
        let mut pool = pool(&input_limit(6_000).with_output_tokens_per_minute(n(6_000)));
        let cost = Cost::new(10, 10).with_settle(settle);
        let id = granted(&mut pool, 0, PoolRequest::new(cost, 0));
        pool.true_up_input(0, id, 500);
        pool.produced(0, id, 400);
        pool.settle(0, id, &used(500, 400));
        let next = granted(&mut pool, 0, PoolRequest::new(cost, 0));
        pool.settle(0, next, &Settlement::dropped());
        let used = [Dimension::InputTokens, Dimension::OutputTokens];
        used.map(|dimension| 6_000 - level(&pool, 0, dimension).available)
    };
    assert_eq!(settled(Settle::AsCharged), [20, 20]);
    // A dropped request without usage keeps its input, and gives its output back.
    assert_eq!(settled(Settle::OutputByUsage), [20, 400]);
    assert!(settled(Settle::ByUsage)[0] > 500);
}

#[test]
fn headers_do_not_change_fixed_limits() {
    let fixed = LimiterConfig::new().with_learn_limits(false);
    let mut pool = pool_with(&input_limit(6_000), fixed);
    let id = granted(&mut pool, 0, ask(1_000, 0));
    let headers = input_header(60_000, 60_000);
    pool.observe(0, id, &ObservedHead::new(&headers, None));
    let seen = level(&pool, 0, Dimension::InputTokens);
    assert_eq!((seen.limit, seen.available), (6_000, 5_000));
}

#[test]
fn capacity_is_learned_from_the_reset_time() {
    let mut pool = pool(&Limits::unlimited());
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut headers = input_header(600_000, 20_000);
    headers.input_tokens.reset = Some(date + Duration::from_secs(3));
    for _ in 0..50 {
        let id = granted(&mut pool, 0, ask(1, 0));
        pool.observe(0, id, &ObservedHead::new(&headers, Some(date)));
        pool.settle(0, id, &used(1, 1));
    }
    // 20,000 + 3 s of 10,000 a second, a second short because stamps are whole seconds.
    assert_eq!(level(&pool, 0, Dimension::InputTokens).capacity, 40_000);
}

#[test]
fn header_lowers_a_level_used_by_others() {
    let mut pool = pool(&input_limit(600_000));
    let id = granted(&mut pool, 0, ask(1_000, 0));
    let headers = input_header(600_000, 599_000);
    pool.observe(0, id, &ObservedHead::new(&headers, None));
    let id = granted(&mut pool, 0, ask(1_000, 0));
    let headers = input_header(600_000, 100_000);
    pool.observe(S, id, &ObservedHead::new(&headers, None));
    // As high as it can be: what was refilled in that second may be on top of it.
    assert_eq!(available(&pool, S), 110_500);
}

#[test]
fn first_header_far_below_the_configured_level_lowers_it_to_the_minimum() {
    let mut pool = pool(&input_limit(600_000));
    let id = granted(&mut pool, 0, ask(1_000, 0));
    granted(&mut pool, 0, ask(20_000, 0));
    let headers = input_header(600_000, 100_000);
    pool.observe(S, id, &ObservedHead::new(&headers, None));
    assert_eq!(available(&pool, S), 79_500);
}

#[test]
fn first_header_of_a_full_bucket_counts_no_refill_before_the_first_output() {
    let limits = Limits::new().with_output_tokens_per_minute(n(60_000));
    let mut pool = pool(&limits);
    let ids: Vec<_> = (0..20)
        .map(|_| granted(&mut pool, 0, PoolRequest::new(Cost::new(0, 1_000), 0)))
        .collect();
    let now = 500 * MS;
    pool.poll(now, &mut Vec::new());
    let output = |pool: &Pool| level(pool, now, Dimension::OutputTokens).available;
    assert_eq!(output(&pool), 40_500);
    let mut headers = RateLimits::default();
    headers.output_tokens.limit = Some(60_000);
    headers.output_tokens.remaining = Some(60_000);
    pool.observe(now, ids[0], &ObservedHead::new(&headers, None));
    assert!(
        (39_000..=40_000).contains(&output(&pool)),
        "{}",
        output(&pool)
    );
}

/// Returns a pool that has been shown a level of 400,000, after many requests of 1,000.
fn shown_pool(config: LimiterConfig) -> Pool {
    let mut pool = pool_with(&input_limit(600_000), config);
    for _ in 0..50 {
        let id = granted(&mut pool, 0, ask(1_000, 0));
        let headers = input_header(600_000, 400_000);
        pool.observe(0, id, &ObservedHead::new(&headers, None));
        pool.settle(0, id, &used(1_000, 0));
    }
    pool
}

/// Sends a request of 300,000 tokens, which the server rejects with this level.
fn reject(pool: &mut Pool, headers: &RateLimits) {
    reject_at(pool, S, 300_000, headers);
}

fn reject_at(pool: &mut Pool, now: u64, tokens: u64, headers: &RateLimits) {
    let id = granted(pool, now, ask(tokens, now));
    pool.rate_limited(now, id, Some(Duration::from_secs(1)), 0.0);
    let head = ObservedHead::new(headers, None).with_rejected(true);
    pool.observe(now, id, &head);
    pool.settle(now, id, &Settlement::Rejected);
}

#[test]
fn rejection_for_a_low_level_lowers_it_to_the_lowest_that_was_shown() {
    for (shown, available_then) in [(200_000, 199_500), (299_000, 298_500), (320_000, 320_500)] {
        let mut pool = shown_pool(LimiterConfig::new());
        reject(&mut pool, &input_header(600_000, shown));
        assert_eq!(available(&pool, S), available_then, "{shown}");
    }
}

#[test]
fn rejection_of_an_input_larger_than_its_estimate_is_no_external_use() {
    for (shown, shared) in [(100_000, true), (299_000, true), (300_000, false)] {
        let mut pool = shown_pool(LimiterConfig::new());
        reject(&mut pool, &input_header(600_000, shown));
        assert_eq!(pool.snapshot(S).shared, shared, "{shown}");
    }
}

#[test]
fn level_lower_by_an_ordinary_error_shows_external_use_the_second_time() {
    let pool_at_300_000 = || {
        let mut pool = shown_pool(LimiterConfig::new());
        let id = granted(&mut pool, 0, ask(100_000, 0));
        let headers = input_header(600_000, 300_000);
        pool.observe(0, id, &ObservedHead::new(&headers, None));
        pool.settle(0, id, &used(100_000, 0));
        pool
    };
    let rejected = |shown| {
        let mut pool = pool_at_300_000();
        reject_at(&mut pool, MS, 299_000, &input_header(600_000, shown));
        pool
    };
    assert!(rejected(290_000).snapshot(MS).shared, "lower by more");
    let mut pool = rejected(297_000);
    assert!(!pool.snapshot(MS).shared);
    reject_at(&mut pool, 2 * S, 296_000, &input_header(600_000, 294_000));
    assert!(pool.snapshot(2 * S).shared);
}

#[test]
fn full_bucket_refills_nothing_until_the_first_request_arrives() {
    let mut pool = shown_pool(LimiterConfig::new());
    let now = 60 * S;
    granted(&mut pool, now, ask(10_000, now));
    for (passed, expected) in [(0, 590_000), (50, 590_000), (100, 590_500)] {
        let then = now + passed * MS;
        pool.poll(then, &mut Vec::new());
        assert_eq!(available(&pool, then), expected, "{passed}");
    }
    // The first of several arrives sooner.
    let now = 120 * S;
    granted(&mut pool, now, ask(10_000, now));
    granted(&mut pool, now, ask(10_000, now));
    pool.poll(now + 100 * MS, &mut Vec::new());
    assert_eq!(available(&pool, now + 100 * MS), 580_750);
}

#[test]
fn early_reset_time_in_a_rejection_keeps_the_capacity() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut pool = shown_pool(LimiterConfig::new());
    let mut headers = input_header(600_000, 2_000);
    headers.input_tokens.reset = Some(now - Duration::from_secs(30));
    let refused = granted(&mut pool, S, ask(300_000, S));
    // By their timestamps the bucket is full with a few tokens.
    for _ in 0..200 {
        let id = granted(&mut pool, S, ask(0, S));
        pool.observe(S, id, &ObservedHead::new(&headers, Some(now)));
        pool.settle(S, id, &used(0, 0));
    }
    pool.rate_limited(S, refused, Some(Duration::from_secs(1)), 0.0);
    let head = ObservedHead::new(&headers, Some(now)).with_rejected(true);
    pool.observe(S, refused, &head);
    let capacity = level(&pool, S, Dimension::InputTokens).capacity;
    assert!(capacity >= 400_000, "{capacity}");
}

#[test]
fn warning_is_returned_once_per_crossing() {
    let mut pool = pool(&Limits::unlimited());
    let id = granted(&mut pool, 0, ask(1, 0));
    let mut crossings = Vec::new();
    for remaining in [500, 200, 150, 250, 100, 310, 150] {
        let headers = input_header(1_000, remaining);
        let crossing = pool.observe(0, id, &ObservedHead::new(&headers, None));
        crossings.extend(crossing.map(|crossing| crossing.remaining));
    }
    assert_eq!(crossings, [200, 150]);
}

#[test]
fn later_charge_may_be_in_the_level_of_an_earlier_response() {
    let mut pool = pool(&input_limit(600_000));
    let id = granted(&mut pool, 0, ask(1_000, 0));
    granted(&mut pool, 200 * MS, ask(50_000, 0));
    // The level of the response: the second request is in it.
    let headers = input_header(600_000, 549_000);
    pool.observe(400 * MS, id, &ObservedHead::new(&headers, None));
    assert_eq!(available(&pool, 400 * MS), 552_000);
}

#[test]
fn unsent_request_makes_no_header_uncertain() {
    let mut pool = pool(&input_limit(600_000));
    let id = granted(&mut pool, 0, ask(500_000, 0));
    pool.settle(0, id, &Settlement::dropped());
    let id = granted(&mut pool, 0, ask(1_000, 0));
    let unsent = granted(&mut pool, 0, ask(50_000, 0));
    pool.settle(0, unsent, &Settlement::NotSent);
    let headers = input_header(600_000, 500_000);
    pool.observe(0, id, &ObservedHead::new(&headers, None));
    assert_eq!(available(&pool, 0), 499_500);
}

#[test]
fn rejected_request_is_refunded_once() {
    let mut pool = pool(&input_limit(600_000));
    let id = granted(&mut pool, 0, ask(500_000, 0));
    pool.settle(0, id, &Settlement::dropped());
    let id = granted(&mut pool, 0, ask(1_000, 0));
    let refused = granted(&mut pool, 0, ask(50_000, 0));
    let nothing = RateLimits::default();
    pool.observe(
        0,
        refused,
        &ObservedHead::new(&nothing, None).with_rejected(true),
    );
    pool.settle(0, refused, &Settlement::Rejected);
    // This one may or may not be in what the server shows.
    granted(&mut pool, 0, ask(20_000, 0));
    let headers = input_header(600_000, 500_000);
    pool.observe(0, id, &ObservedHead::new(&headers, None));
    assert_eq!(available(&pool, 0), 479_500);
}

#[test]
fn request_after_its_deadline_is_not_admitted() {
    let mut pool = pool(&Limits::unlimited());
    let at = |deadline| ask(1, 0).with_deadline(Some(deadline));
    assert!(pool.enqueue(S, at(S + 1)).is_ok());
    for deadline in [S, S - 1, 0] {
        let refusal = pool.enqueue(S, at(deadline)).expect_err("too late");
        assert!(matches!(
            refusal.reason,
            RejectReason::DeadlineWouldPass { .. }
        ));
    }
}

#[test]
fn repeated_429s_raise_a_shorter_retry_after() {
    let mut pool = pool(&Limits::unlimited());
    let (mut now, second) = (0, Duration::from_secs(1));
    for expected in [1, 2, 4, 4] {
        let id = granted(&mut pool, now, ask(1, 0));
        now += 1;
        let pause = pool.rate_limited(now, id, Some(second), 0.0);
        assert_eq!(pause, second * expected);
        pool.settle(now, id, &Settlement::Rejected);
        now += 10 * S;
    }
}

#[test]
fn observed_request_level_keeps_a_safety_margin() {
    let mut pool = pool(&Limits::unlimited());
    let id = granted(&mut pool, 0, ask(1, 0));
    let mut headers = RateLimits::default();
    headers.requests.limit = Some(60);
    headers.requests.remaining = Some(2);
    pool.observe(0, id, &ObservedHead::new(&headers, None));
    waiting(&mut pool, 0, ask(1, 0));
    // One and a half are held back.
    assert_eq!(poll(&mut pool, 450 * MS).0.len(), 0);
    assert_eq!(poll(&mut pool, 500 * MS).0.len(), 1);
}
