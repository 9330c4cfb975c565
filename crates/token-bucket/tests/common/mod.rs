//! The layer under test, and its limits at both ends.
#![allow(dead_code, unused_imports)]

use std::num::NonZeroU64;

use tower::Layer;
use tower_claude_core::Dimension;
use tower_claude_fake_claude::{FakeClaude, GroupLimits};
use tower_claude_limiter::{Limiter, LimiterConfig, Limits, LocalLimiter, ScopeSnapshot};
use tower_claude_token_bucket::TokenBucketLayer;

pub(crate) use tower_claude_tests::{EventLog, HOUR, limiting::*, send_ok, with};

pub(crate) type TestLayer = TokenBucketLayer<LocalLimiter, BySize>;

pub(crate) fn limits((requests, input, output): PerMinute) -> Limits {
    let some = |n| NonZeroU64::new(n).expect("a limit");
    Limits::new()
        .with_requests_per_minute(some(requests))
        .with_input_tokens_per_minute(some(input))
        .with_output_tokens_per_minute(some(output))
}

pub(crate) fn server_limits((requests, input, output): PerMinute) -> GroupLimits {
    GroupLimits::new()
        .with_requests_per_minute(requests)
        .with_input_tokens_per_minute(input)
        .with_output_tokens_per_minute(output)
}

/// Returns a layer that knows the usage of each request, and waits for up to an hour.
pub(crate) fn layer(per_minute: PerMinute) -> TestLayer {
    layer_with(per_minute, LimiterConfig::new())
}

pub(crate) fn layer_with(per_minute: PerMinute, config: LimiterConfig) -> TestLayer {
    TokenBucketLayer::over(LocalLimiter::with_config(limits(per_minute), config))
        .with_estimate(by_size as BySize)
        .with_max_wait(HOUR)
}

/// Returns the only scope of the limiter.
pub(crate) fn only(limiter: &LocalLimiter) -> ScopeSnapshot {
    let mut scopes = limiter.snapshot();
    assert_eq!(scopes.len(), 1, "{scopes:?}");
    scopes.remove(0)
}

/// Returns the levels of requests, input and output tokens in the only scope.
pub(crate) fn left(limiter: &LocalLimiter) -> [i64; 3] {
    let scope = only(limiter);
    [
        Dimension::Requests,
        Dimension::InputTokens,
        Dimension::OutputTokens,
    ]
    .map(|dimension| scope.dimension(dimension).expect("limited").available)
}

/// Returns the statuses of all attempts at the fake API.
pub(crate) fn statuses(fake: &FakeClaude) -> Vec<u16> {
    fake.with_log(|log| log.iter().map(|attempt| attempt.status).collect())
}

pub(crate) fn over(layer: &TestLayer, fake: &FakeClaude) -> impl ClaudeService + use<> {
    layer.layer(fake.clone())
}
