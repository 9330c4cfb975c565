//! The layer under test, and its limits at both ends.
#![allow(dead_code, unused_imports)]

use std::num::NonZeroU64;

use tower_claude_core::Dimension;
use tower_claude_fake_claude::{FakeClaude, GroupLimits};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{Limiter, Limits, LocalLimiter, ScopeSnapshot};

pub(crate) use tower_claude_tests::{EventLog, HOUR, MINUTE, limiting::*, send_ok, with};

pub(crate) type TestLayer = HeaderBudgetLayer<LocalLimiter, BySize>;

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

/// Returns a layer without limits that knows the usage of each request, and waits for up to a day.
pub(crate) fn layer() -> TestLayer {
    HeaderBudgetLayer::new()
        .with_estimate(by_size as BySize)
        .with_max_wait(24 * HOUR)
}

/// Returns the only scope of the limiter.
pub(crate) fn only(limiter: &LocalLimiter) -> ScopeSnapshot {
    let mut scopes = limiter.snapshot();
    assert_eq!(scopes.len(), 1, "{scopes:?}");
    scopes.remove(0)
}

/// Returns the limit of a dimension of the only scope, if it is known.
pub(crate) fn limit(limiter: &LocalLimiter, dimension: Dimension) -> Option<u64> {
    Some(only(limiter).dimension(dimension)?.limit)
}

/// Returns the statuses of all attempts at the fake API.
pub(crate) fn statuses(fake: &FakeClaude) -> Vec<u16> {
    fake.with_log(|log| log.iter().map(|attempt| attempt.status).collect())
}
