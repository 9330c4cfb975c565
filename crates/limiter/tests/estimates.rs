//! Calibrated estimates: their error quantiles, the charge near a limit, and the need of a count.

use std::num::NonZeroU64;

use tower_claude_core::{Cost, Dimension, Scope, UsageBound, Workload};
use tower_claude_limiter::{
    EstimateSnapshot, LimiterConfig, Limits, Pool, Settlement,
    pool::{Enqueued, PoolRequest, ReservationId},
};
use tower_claude_wire::Usage;

const TRACE: &str = include_str!("fixtures/azure-llm-code-2023-context-tokens.txt");

/// A limit far over all use in these tests.
const PLENTY: u64 = 1 << 40;

fn pool_of(limit: u64, config: LimiterConfig) -> Pool {
    let limit = NonZeroU64::new(limit).expect("not 0");
    let limits = Limits::new().with_input_tokens_per_minute(limit);
    let scope = Scope::named("test");
    Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0)
}

fn pool() -> Pool {
    pool_of(PLENTY, LimiterConfig::new())
}

fn granted(pool: &mut Pool, cost: Cost) -> ReservationId {
    match pool.enqueue(0, PoolRequest::new(cost, 0)) {
        Ok(Enqueued::Granted(id)) => id,
        other => panic!("not granted: {other:?}"),
    }
}

fn used(input: u64) -> Settlement {
    let mut usage = Usage::default();
    usage.input_tokens = Some(input);
    usage.output_tokens = Some(1);
    Settlement::Used { usage }
}

fn teach(pool: &mut Pool, cost: Cost, actual: u64) {
    let id = granted(pool, cost);
    pool.settle(0, id, &used(actual));
}

fn available(pool: &Pool) -> i64 {
    let snapshot = pool.snapshot(0);
    snapshot
        .dimension(Dimension::InputTokens)
        .expect("a limit")
        .available
}

/// Returns the charge of the next request of this cost.
fn charge(pool: &mut Pool, cost: Cost) -> u64 {
    let before = available(pool);
    let id = granted(pool, cost);
    let charge = before - available(pool);
    pool.settle(0, id, &Settlement::NotSent);
    charge as u64
}

fn estimate_of(pool: &Pool, workload: Workload) -> EstimateSnapshot {
    let mut estimates = pool.snapshot(0).estimates;
    estimates.retain(|estimate| estimate.workload == workload);
    estimates.pop().expect("it was learned")
}

fn normal(rng: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

/// The tokens that each request of the trace has beside its text.
const BESIDE: u64 = 900;

/// Returns a request for a text of this many tokens, whose estimate is a third too high and has this
/// relative error.
fn cost_of(text: u64, noise: f64, rng: &mut fastrand::Rng) -> Cost {
    let estimate = text as f64 * 1.33 * (noise * normal(rng)).exp();
    Cost::new(estimate.round() as u64, 1).with_workload(Workload::named("code"))
}

fn trace() -> impl Iterator<Item = u64> {
    TRACE
        .lines()
        .map(|tokens| tokens.parse().expect("a number"))
}

#[test]
fn error_quantiles_cover_nine_tenths_of_the_trace() {
    assert_eq!(trace().count(), 2_940);
    for noise in [0.03, 0.1, 0.25] {
        let mut rng = fastrand::Rng::with_seed(17);
        let mut pool = pool();
        let (mut within, mut over, mut counted) = (0, 0, 0);
        for (number, text) in trace().enumerate() {
            let (cost, tokens) = (cost_of(text, noise, &mut rng), text + BESIDE);
            if number >= 100 {
                let learned = estimate_of(&pool, cost.workload);
                let ratio = tokens as f64 / charge(&mut pool, cost) as f64;
                let quantile = |share| learned.quantile(share).expect("learned");
                counted += 1;
                within += u32::from((quantile(0.05)..=quantile(0.95)).contains(&ratio));
                over += u32::from(ratio > quantile(0.9));
            }
            teach(&mut pool, cost, tokens);
        }
        let share = |count: u32| f64::from(count) / f64::from(counted);
        println!(
            "noise {noise}: {:.3} within, {:.3} over",
            share(within),
            share(over)
        );
        assert!(
            (0.85..=0.95).contains(&share(within)),
            "{noise}: {}",
            share(within)
        );
        assert!(
            (0.05..=0.15).contains(&share(over)),
            "{noise}: {}",
            share(over)
        );
    }
}

#[test]
fn trace_is_charged_within_five_percent_after_twenty_requests() {
    let mut rng = fastrand::Rng::with_seed(3);
    let (mut pool, mut errors) = (pool(), Vec::new());
    for (number, text) in trace().enumerate() {
        let (cost, tokens) = (cost_of(text, 0.02, &mut rng), text + BESIDE);
        if number >= 20 {
            errors.push((charge(&mut pool, cost) as f64 / tokens as f64 - 1.0).abs());
        }
        teach(&mut pool, cost, tokens);
    }
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    let most = errors[errors.len() * 95 / 100];
    assert!(median < 0.02 && most < 0.05, "{median} {most}");
    let learned = estimate_of(&pool, Workload::named("code"));
    assert!((700.0..1_100.0).contains(&learned.offset), "{learned:?}");
    assert!((0.72..0.78).contains(&learned.slope), "{learned:?}");
}

#[test]
fn each_workload_has_a_calibration_in_the_snapshot() {
    let mut pool = pool();
    assert!(pool.snapshot(0).estimates.is_empty());
    let of = |name, estimate| Cost::new(estimate, 1).with_workload(Workload::named(name));
    for request in 0..40 {
        let estimate = 1_000 + 200 * request;
        teach(&mut pool, of("plain", estimate), estimate);
        teach(&mut pool, of("framed", estimate), 2_000 + estimate);
    }
    let plain = estimate_of(&pool, Workload::named("plain"));
    let framed = estimate_of(&pool, Workload::named("framed"));
    assert!(plain.offset < 20.0, "{plain:?}");
    assert!((1_900.0..2_100.0).contains(&framed.offset), "{framed:?}");
    assert!((0.97..1.03).contains(&framed.slope), "{framed:?}");
    assert_eq!((plain.samples, plain.errors.len()), (40, 40));
    assert!(plain.errors.is_sorted());
}

/// A workload whose requests use half or one and a half of their estimate.
fn uneven(pool: &mut Pool) -> Cost {
    let cost = Cost::new(10_000, 1).with_workload(Workload::named("uneven"));
    for request in 0..200 {
        teach(pool, cost, if request % 2 == 0 { 5_000 } else { 15_000 });
    }
    cost
}

/// Uses the limit up to this rest, in pieces, because a margin is kept for the error of each.
fn use_up_to(pool: &mut Pool, rest: i64) {
    while available(pool) > rest {
        let piece = ((available(pool) - rest) / 4).clamp(1, 5_000_000) as u64;
        teach(pool, Cost::new(1, 1).with_counted_input(piece), piece);
    }
}

#[test]
fn charge_near_a_limit_is_that_of_the_percentile() {
    for (percent, far, near) in [
        (50, 10_000, 10_000),
        (95, 10_000, 15_000),
        (0, 10_000, 10_000),
    ] {
        let config = LimiterConfig::new().with_near_limit_percentile(percent);
        let mut pool = pool_of(100_000_000, config);
        let cost = uneven(&mut pool);
        let expected = charge(&mut pool, cost) as f64 / f64::from(far);
        assert!((0.9..1.1).contains(&expected), "{percent}: {expected}");
        use_up_to(&mut pool, 1_000_000);
        let expected = charge(&mut pool, cost) as f64 / f64::from(near);
        assert!((0.9..1.1).contains(&expected), "{percent}: {expected}");
        // What was counted stays as it is.
        assert_eq!(charge(&mut pool, cost.with_counted_input(9_000)), 9_000);
    }
}

#[test]
fn charge_near_a_limit_is_no_larger_than_the_limit_or_the_bound() {
    let config = LimiterConfig::new().with_near_limit_percentile(99);
    let mut pool = pool_of(12_000, config);
    // A first estimate may be exceeded by a third, which is over the limit.
    assert_eq!(charge(&mut pool, Cost::new(10_000, 1)), 12_000);
    let bound = UsageBound::new(11_000, 10);
    assert_eq!(
        charge(&mut pool, Cost::new(10_000, 1).with_bound(bound)),
        11_000
    );
    // An estimate over the limit is tried at a full bucket.
    assert_eq!(charge(&mut pool, Cost::new(20_000, 1)), 20_000);
}

#[test]
fn count_is_worth_its_time_where_less_is_left_than_the_error() {
    let mut pool = pool_of(100_000_000, LimiterConfig::new());
    let exact = Cost::new(10_000, 1).with_workload(Workload::named("exact"));
    for _ in 0..40 {
        teach(&mut pool, exact, 10_000);
    }
    let cost = uneven(&mut pool);
    assert!(!pool.is_estimate_doubtful(0, &cost), "much is left");
    use_up_to(&mut pool, 12_000);
    assert!(pool.is_estimate_doubtful(0, &cost), "it may use 15,000");
    assert!(!pool.is_estimate_doubtful(0, &exact), "it never errs");
    assert!(!pool.is_estimate_doubtful(0, &cost.with_counted_input(11_000)));
    assert!(
        !pool.is_estimate_doubtful(0, &Cost::new(2_000, 1)),
        "it is small"
    );
    assert!(
        pool.is_estimate_doubtful(0, &Cost::new(9_000, 1)),
        "it is not known yet"
    );
    let minute = 60_000_000_000;
    assert!(
        !pool.is_estimate_doubtful(minute, &cost),
        "much is left again"
    );
}

#[test]
fn unlimited_scope_needs_no_count() {
    let scope = Scope::named("test");
    let limits = Limits::unlimited().for_scope(&scope);
    let mut pool = Pool::new(scope, &limits, LimiterConfig::new(), 0);
    assert!(!pool.is_estimate_doubtful(0, &Cost::new(1_000_000, 1)));
}
