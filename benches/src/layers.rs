//! The layers of this project in the same loop.

use std::num::{NonZeroU32, NonZeroU64};

use tower::Layer;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::{RequestBody, Scope};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;

use crate::{
    floor::{Answer, calls},
    harness::Case,
};

/// The row that stands for the recommended stack.
pub(crate) const STACK: &str = "retry + token-bucket + header-budget";

/// The row of all six layers, as recommended; nothing is cached, nobody waits, nothing fails.
pub(crate) const SIX: &str = "all six, as recommended";

/// The row that is compared with the peer's breaker: one circuit, as the peer has it.
pub(crate) const BREAKER: &str = "circuit-breaker, one circuit for all";

/// Far above what a loop can use.
pub(crate) fn limits() -> Limits {
    let requests = NonZeroU64::new(1_000_000_000_000).expect("not 0");
    let tokens = NonZeroU64::new(1_000_000_000_000_000).expect("not 0");
    Limits::new()
        .with_requests_per_minute(requests)
        .with_input_tokens_per_minute(tokens)
        .with_output_tokens_per_minute(tokens)
        .with_concurrency(NonZeroU32::new(1_000_000).expect("not 0"))
}

pub(crate) fn cases() -> Vec<Case> {
    let bucket = TokenBucketLayer::new(limits());
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let stack = RetryLayer::new().layer(bucket.layer(budget.layer(Answer)));
    let all = Scope::named("all");
    vec![
        calls(
            "token-bucket",
            TokenBucketLayer::new(limits()).layer(Answer),
            RequestBody::from,
        ),
        calls(
            "header-budget",
            HeaderBudgetLayer::new().layer(Answer),
            RequestBody::from,
        ),
        calls("retry", RetryLayer::new().layer(Answer), RequestBody::from),
        calls(
            "circuit-breaker (reads the model)",
            CircuitBreakerLayer::new().layer(Answer),
            RequestBody::from,
        ),
        calls(
            BREAKER,
            CircuitBreakerLayer::new()
                .with_scope(move |_| all.clone())
                .layer(Answer),
            RequestBody::from,
        ),
        calls(STACK, stack.clone(), RequestBody::from),
        calls(
            SIX,
            tower_claude::recommended()
                .with_limits(limits())
                .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
                .layer(Answer),
            RequestBody::from,
        ),
        calls(
            "floor, later",
            crate::floor::Later,
            http_body_util::Full::<bytes::Bytes>::new,
        ),
        calls(
            "all six, later",
            tower_claude::recommended()
                .with_limits(limits())
                .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
                .layer(crate::floor::Later),
            RequestBody::from,
        ),
        calls(
            "all six, later, no timeouts",
            tower_claude::recommended()
                .with_limits(limits())
                .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
                .with_retry(RetryLayer::new().with_timeouts(tower_claude_retry::Timeouts::NONE))
                .layer(crate::floor::Later),
            RequestBody::from,
        ),
        calls(
            "the same, body buffered by the first hall",
            stack,
            http_body_util::Full::new,
        ),
    ]
}
