//! A probe in a limiter's queue.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::sleep;
use tower::ServiceExt;
use tower_claude_circuit_breaker::{BreakerConfig, CircuitBreakerLayer};
use tower_claude_core::breaker::{BreakerSnapshot, BreakerState};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_limiter::LocalLimiter;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;

use crate::{
    common::{at_once, message, send},
    world::SECOND,
};

/// The circuit's only one.
fn look(layer: &CircuitBreakerLayer) -> BreakerSnapshot {
    layer.handle().snapshot().circuits[0].breaker
}

/// Its lease begins when the limiter lets it go: a wait in the queue that is longer than the lease is no failure of the
/// server, and what is found out is what the probe says.
#[tokio::test(start_paused = true)]
async fn the_lease_begins_when_the_request_is_sent() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build();
    let hour = Duration::from_secs(3_600);
    let bucket = TokenBucketLayer::over(LocalLimiter::new(at_once(1))).with_max_wait(hour);
    let config = BreakerConfig::new()
        .with_ramp(None)
        .with_probes(NonZeroU32::MIN, NonZeroU32::MIN)
        .with_attempt_timeout(60 * SECOND);
    let layer = CircuitBreakerLayer::new().with_config(config);
    let service = layer.layer(bucket.layer(fake.clone()));
    fake.inject_times(Fault::Overloaded, 5);
    for _ in 0..5 {
        let _ = send(&service, message(false)).await;
    }
    assert_eq!(look(&layer).state, BreakerState::Open);
    sleep(36 * SECOND).await;

    // Somebody else has the only place for 50 s.
    fake.inject(Fault::SlowHead(50 * SECOND));
    let other = bucket.layer(fake.clone());
    let other = tokio::spawn(async move { send(&other, message(false)).await.is_ok() });
    tokio::task::yield_now().await;
    // The probe then takes 50 s of its own: more than its lease in all, less from when it was sent.
    fake.inject(Fault::SlowHead(50 * SECOND));
    let probe = service.clone();
    let probe = tokio::spawn(async move { probe.oneshot(message(false)).await.is_ok() });
    sleep(90 * SECOND).await;
    let refused = send(&service, message(false)).await.expect("a refusal");
    assert_eq!(refused.status, 529);
    let seen = look(&layer);
    assert_eq!((seen.state, seen.opens), (BreakerState::HalfOpen, 1));
    assert!(other.await.expect("no panic") && probe.await.expect("no panic"));
    assert_eq!(fake.log_len(), 7);
}
