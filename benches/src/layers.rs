//! The layers of this project in the same loop.

use std::num::{NonZeroU32, NonZeroU64};

use bytes::Bytes;
use http_body_util::Full;
use tower::Layer;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::{ClaudeClassify, RequestBody, Scope, driver::DriverLayer};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;

use crate::{
    floor::{Answer, Streamed, calls},
    harness::Case,
    texts,
};

/// The row that stands for a stack of three: their policies in one driver. The goal applies to it,
/// because [`NESTED`] has three drivers.
pub(crate) const STACK: &str = "retry + token-bucket + header-budget, one driver";

/// The same three as separate layers, each with a driver of its own.
pub(crate) const NESTED: &str = "retry + token-bucket + header-budget";

/// The row of all six layers, as recommended. Nothing is cached, no call waits and none fails.
pub(crate) const SIX: &str = "all six, as recommended";

/// The row of the retry layer alone.
pub(crate) const RETRY: &str = "retry";

/// The row that is compared with the peer's breaker: one circuit, as the peer has it.
pub(crate) const BREAKER: &str = "circuit-breaker, one circuit for all";

/// Far above what a loop can use.
fn limits() -> Limits {
    let requests = NonZeroU64::new(1_000_000_000_000).expect("not 0");
    let tokens = NonZeroU64::new(1_000_000_000_000_000).expect("not 0");
    Limits::new()
        .with_requests_per_minute(requests)
        .with_input_tokens_per_minute(tokens)
        .with_output_tokens_per_minute(tokens)
        .with_concurrency(NonZeroU32::new(1_000_000).expect("not 0"))
}

/// The floor and the recommended stack over a stream, per event.
pub(crate) fn streams() -> [Case; 2] {
    let streamed = Streamed::new();
    let six = tower_claude::recommended()
        .with_limits(limits())
        .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
        .layer(streamed.clone());
    [
        calls("floor, a stream", streamed, Full::<Bytes>::new),
        calls("all six, a stream", six, RequestBody::from),
    ]
    .map(|case| case.with_items(texts::EVENTS).with_probe(5))
}

pub(crate) fn cases() -> Vec<Case> {
    let bucket = TokenBucketLayer::new(limits());
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let nested = RetryLayer::new().layer(bucket.layer(budget.layer(Answer)));
    let limits_policy = bucket.policy().with_header_budget(&budget.policy());
    let retry = RetryLayer::new();
    let one = DriverLayer::new(retry.policy(), limits_policy, ClaudeClassify::default());
    let all = Scope::named("all");
    let empty = DriverLayer::new((), (), ClaudeClassify::default());
    vec![
        calls(
            "the driver of all layers, without a policy",
            empty.layer(Answer),
            RequestBody::from,
        ),
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
        calls(RETRY, RetryLayer::new().layer(Answer), RequestBody::from),
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
        calls(STACK, one.layer(Answer), RequestBody::from),
        calls(NESTED, nested.clone(), RequestBody::from),
        calls(
            SIX,
            tower_claude::recommended()
                .with_limits(limits())
                .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
                .layer(Answer),
            RequestBody::from,
        ),
        calls(
            "the same, body buffered by the outermost layer",
            nested,
            Full::new,
        ),
    ]
}
