//! R14: many wait for the same `retry-after`, and do not come back as one.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use tokio::task::JoinSet;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{LimiterConfig, Limits, LocalLimiter, SlowStart};
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;

use crate::{
    common::{SONNET, request, send},
    world::{SECOND, arrivals, most_within},
};

/// A hundred per second.
const PER_MINUTE: u64 = 6_000;
const SPAN: Duration = Duration::from_millis(100);
const FAIR: f64 = 10.0;

/// Returns the most requests that were sent in any 100 ms after a 429 that all of them got.
///
/// The limiter rises to its rate within 10 s, in which it admits about 540 requests. The others
/// then find a full bucket.
async fn most_at_once(config: LimiterConfig, waiting: u32) -> usize {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::requests_only(PER_MINUTE))
        .incident(Incident::new(
            Duration::ZERO,
            SECOND,
            Fault::RateLimited {
                retry_after: 5 * SECOND,
            },
        ))
        .build();
    let limit = NonZeroU64::new(PER_MINUTE).expect("not 0");
    let limits = Limits::new().with_requests_per_minute(limit);
    let config = config.with_initial_concurrency(NonZeroU32::new(10_000));
    let bucket = TokenBucketLayer::over(LocalLimiter::with_config(limits, config));
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let inside = bucket.layer(budget.layer(fake.clone()));
    let service = RetryLayer::new().layer(CircuitBreakerLayer::new().layer(inside));
    let mut calls = JoinSet::new();
    for _ in 0..waiting {
        let service = service.clone();
        calls.spawn(async move {
            let seen = send(&service, request(SONNET, false))
                .await
                .expect("an answer");
            seen.is_complete(false)
        });
    }
    let good = calls.join_all().await.into_iter().filter(|good| *good);
    assert_eq!(good.count(), waiting as usize, "all are served in the end");
    let log = fake.log();
    let after = arrivals(&log, 5 * SECOND);
    most_within(&after, SPAN)
}

#[tokio::test(start_paused = true)]
async fn calls_after_a_shared_429_are_spread() {
    let ramp = LimiterConfig::new().with_slow_start(Some(SlowStart::new()));
    for waiting in [100, 400] {
        let most = most_at_once(ramp.clone(), waiting).await;
        println!(
            "R14: {waiting} wait for one retry-after, at most {most} in any 100 ms: {:.2} of the fair rate (goal 1.2)",
            most as f64 / FAIR
        );
        assert!(most as f64 <= 1.2 * FAIR, "{most} of {waiting}");
    }
}
