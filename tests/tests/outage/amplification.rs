//! R11: what a full outage of ten minutes costs the server.

use std::time::Duration;

use tower_claude_circuit_breaker::BreakerConfig;
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident};
use tower_claude_limiter::{Limits, LocalLimiter};

use crate::world::{Fuse, SECOND, load};

const OUTAGE: Duration = Duration::from_secs(600);

/// Attempts per request at 16 requests per second.
async fn attempts_per_request(fuse: &Fuse) -> f64 {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .incident(Incident::new(Duration::ZERO, 2 * OUTAGE, Fault::Overloaded))
        .build();
    let limiter = LocalLimiter::new(Limits::new());
    let calls = load(&fake, fuse, limiter, SECOND / 16, OUTAGE).await;
    assert_eq!(calls.len(), 9_600);
    assert!(calls.iter().all(|call| !call.good));
    fake.log_len() as f64 / calls.len() as f64
}

#[tokio::test(start_paused = true)]
async fn full_outage_is_not_amplified() {
    let without = attempts_per_request(&Fuse::Without).await;
    let with = attempts_per_request(&Fuse::new(BreakerConfig::new())).await;
    println!(
        "R11: 10 min of outage at 16/s, attempts per request: {without:.4} without a breaker (goal 1.10), \
         {with:.4} with (goal 0.2)"
    );
    assert!((1.0..=1.10).contains(&without), "{without}");
    assert!(with <= 0.2, "{with}");
}
