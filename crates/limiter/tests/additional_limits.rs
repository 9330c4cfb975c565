//! Several limits on one dimension, and limits per day.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::{Duration, SystemTime},
};

use tower_claude_core::{Cost, Dimension, RejectReason, Scope};
use tower_claude_limiter::{
    Day, Limits, Pool, Settlement,
    pool::{Enqueued, Next, ObservedHead, PoolRequest, ReservationId},
};
use tower_claude_wire::{RateLimits, Usage};

const S: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * S;

fn n(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).unwrap()
}

fn pool(limits: &Limits) -> Pool {
    let scope = Scope::named("test");
    Pool::new(
        scope.clone(),
        &limits.for_scope(&scope),
        tower_claude_limiter::LimiterConfig::new(),
        0,
    )
}

fn ask(input: u64, output: u64) -> PoolRequest {
    PoolRequest::new(Cost::new(input, output), 0)
}

fn granted(pool: &mut Pool, now: u64, ask: PoolRequest) -> ReservationId {
    match pool.enqueue(now, ask) {
        Ok(Enqueued::Granted(id)) => id,
        other => panic!("not granted: {other:?}"),
    }
}

fn waits_until(pool: &mut Pool, now: u64, ask: PoolRequest) -> u64 {
    let Ok(Enqueued::Waiting(waiter)) = pool.enqueue(now, ask) else {
        panic!("does not wait")
    };
    let Next::At(at) = pool.poll(now, &mut Vec::new()) else {
        panic!("no time")
    };
    assert!(pool.cancel(waiter));
    at
}

/// At 9 in the morning UTC.
fn nine() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + 9 * 3_600)
}

#[test]
fn request_is_admitted_only_if_all_additional_limits_have_room() {
    let workspace = Limits::new()
        .with_input_tokens_per_minute(n(6_000))
        .with_concurrency(NonZeroU32::new(3).unwrap());
    let organisation = Limits::new()
        .with_input_tokens_per_minute(n(60_000))
        .with_requests_per_minute(n(2));
    let mut pool = pool(&organisation.clone().with_additional(workspace));
    let first = granted(&mut pool, 0, ask(3_000, 0));
    // The workspace's tokens: 3,000 are left, and 100 come back each second.
    assert_eq!(waits_until(&mut pool, 0, ask(4_000, 0)), 10 * S);
    let second = granted(&mut pool, 0, ask(1_000, 0));
    // The organisation's requests.
    assert_eq!(waits_until(&mut pool, 0, ask(1, 0)), 30 * S);
    let dimensions = pool.snapshot(0).dimensions;
    let input: Vec<_> = dimensions
        .iter()
        .filter(|one| one.dimension == Dimension::InputTokens)
        .map(|one| (one.limit, one.available))
        .collect();
    assert_eq!(input, [(60_000, 56_000), (6_000, 2_000)]);
    // Corrections and refunds reach all of them.
    pool.true_up_input(0, first, 2_000);
    pool.settle(0, second, &Settlement::NotSent);
    let dimensions = pool.snapshot(0).dimensions;
    let left: Vec<_> = dimensions.iter().map(|one| one.available).collect();
    // Requests, input, the workspace's input, at once.
    assert_eq!(left, [1, 58_000, 4_000, 2]);
}

#[test]
fn additional_limit_has_a_safety_margin_with_and_without_a_main_limit() {
    let limit = Limits::new().with_input_tokens_per_minute(n(1_000_000));
    let more = Limits::new().with_input_tokens_per_minute(n(10_000_000));
    let margins = [
        limit.clone(),
        Limits::new().with_additional(limit.clone()),
        more.with_additional(limit),
    ]
    .map(|limits| {
        let mut pool = pool(&limits);
        for actual in [500, 1_500].into_iter().cycle().take(40) {
            let id = granted(&mut pool, 0, ask(1_000, 0));
            let mut usage = Usage::default();
            usage.input_tokens = Some(actual);
            pool.settle(0, id, &Settlement::Used { usage });
        }
        granted(&mut pool, 0, ask(20_000, 0));
        let dimensions = pool.snapshot(0).dimensions;
        let input = dimensions.iter().find(|one| one.limit == 1_000_000);
        let margin = input.expect("a limit").safety_margin;
        (margin, waits_until(&mut pool, 0, ask(940_000, 0)))
    });
    assert!((10_000..=100_000).contains(&margins[0].0), "{margins:?}");
    assert_eq!(margins[0], margins[1]);
    assert_eq!(margins[0], margins[2]);
}

#[test]
fn counted_cost_over_an_additional_limit_is_rejected_with_both_numbers() {
    let mut pool =
        pool(&Limits::new().with_additional(Limits::new().with_input_tokens_per_minute(n(100))));
    let counted = PoolRequest::new(Cost::new(1, 0).with_counted_input(101), 0);
    let refusal = pool.enqueue(0, counted).unwrap_err();
    let expected = RejectReason::Oversized {
        dimension: Dimension::InputTokens,
        cost: 101,
        limit: 100,
    };
    assert_eq!(refusal.reason, expected);
}

#[test]
fn group_has_its_own_additional_limits() {
    let limits = Limits::new()
        .with_additional(Limits::new().with_requests_per_minute(n(5)))
        .with_group(
            "test",
            Limits::new().with_additional(Limits::new().with_requests_per_minute(n(1))),
        );
    let mut pool = pool(&limits);
    granted(&mut pool, 0, ask(1, 0));
    assert_eq!(waits_until(&mut pool, 0, ask(1, 0)), 60 * S);
    assert_eq!(
        limits.for_scope(&Scope::named("other")).additional[0].requests,
        Some(n(5))
    );
}

#[test]
fn daily_limit_resets_at_its_time_of_day() {
    let limits = Limits::new()
        .with_tokens_per_day(n(10_000))
        .with_day(Day::ResetsAt {
            seconds_after_midnight_utc: 12 * 3_600,
        });
    let mut pool = pool(&limits).with_wall_time(0, nine());
    let id = granted(&mut pool, 0, ask(8_000, 1_000));
    let mut usage = Usage::default();
    usage.input_tokens = Some(8_000);
    usage.output_tokens = Some(2_000);
    pool.settle(S, id, &Settlement::Used { usage });
    assert_eq!(waits_until(&mut pool, S, ask(1, 0)), 3 * HOUR);
    let day = pool
        .snapshot(S)
        .dimension(Dimension::TokensPerDay)
        .unwrap()
        .clone();
    assert_eq!((day.limit, day.available), (10_000, 0));
    assert_eq!(day.time_to_full(), Duration::from_secs(3 * 3_600 - 1));
    // Who would wait past its patience hears it at once, and for how long.
    let refusal = pool
        .enqueue(S, ask(1, 0).with_max_wait(Some(60 * S)))
        .unwrap_err();
    assert_eq!(
        refusal.retry_after,
        Some(Duration::from_secs(3 * 3_600 - 1))
    );
    granted(&mut pool, 3 * HOUR, ask(8_000, 1_000));
}

#[test]
fn daily_limit_follows_the_servers_clock() {
    let limits = Limits::new()
        .with_tokens_per_day(n(10))
        .with_day(Day::ResetsAt {
            seconds_after_midnight_utc: 0,
        });
    let mut pool = pool(&limits).with_wall_time(0, nine());
    let id = granted(&mut pool, 0, ask(10, 0));
    let server = nine() + Duration::from_secs(3_600);
    pool.observe(
        S,
        id,
        &ObservedHead::new(&RateLimits::default(), Some(server)),
    );
    assert_eq!(waits_until(&mut pool, S, ask(1, 0)), S + 14 * HOUR);
}

#[test]
fn rolling_day_frees_usage_after_a_day() {
    let mut pool = pool(&Limits::new().with_tokens_per_day(n(100)));
    granted(&mut pool, 0, ask(60, 0));
    granted(&mut pool, 12 * HOUR, ask(40, 0));
    let quarter = HOUR / 4;
    assert_eq!(
        waits_until(&mut pool, 13 * HOUR, ask(60, 0)),
        24 * HOUR + quarter
    );
    assert_eq!(
        waits_until(&mut pool, 13 * HOUR, ask(61, 0)),
        36 * HOUR + quarter
    );
    let counted = PoolRequest::new(Cost::new(1, 0).with_counted_input(101), 0);
    let refusal = pool.enqueue(13 * HOUR, counted).unwrap_err();
    assert!(matches!(
        refusal.reason,
        RejectReason::Oversized {
            dimension: Dimension::TokensPerDay,
            ..
        }
    ));
}

/// The largest numbers are cut off, not over.
#[test]
fn huge_additional_limit_is_reported_as_full() {
    let most = |limits: Limits| {
        let limits = limits.with_burst(Duration::MAX);
        limits.with_requests_per_minute(NonZeroU64::MAX)
    };
    let pool = pool(&most(Limits::new()).with_additional(most(Limits::new())));
    for one in pool.snapshot(0).dimensions {
        assert_eq!(one.limit, u64::MAX);
        assert_eq!(one.capacity, one.available.unsigned_abs());
        assert_eq!(one.time_to_full(), Duration::ZERO);
    }
}
