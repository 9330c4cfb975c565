//! The stack under test.
#![allow(dead_code, unused_imports, reason = "each test target uses a part")]

use std::num::{NonZeroU32, NonZeroU64};

use http::Request;
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{Attempt, FakeClaude, GroupLimits, HeaderFamily};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{Limiter, Limits, LocalLimiter};
use tower_claude_retry::{RetryHandle, RetryLayer};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;

pub(crate) use tower_claude_tests::{
    EventLog, HOUR, Received, SECOND, SONNET, prompt, request, request_to, send, with,
};

/// The three layers as the README stacks them.
pub(crate) type Layers<S> = <RetryLayer as Layer<Bucketed<S>>>::Service;
type Bucketed<S> = <TokenBucketLayer as Layer<Budgeted<S>>>::Service;
type Budgeted<S> = <HeaderBudgetLayer as Layer<S>>::Service;

/// A stack and all its handles.
#[derive(Clone)]
pub(crate) struct Stack<S: Clone> {
    pub(crate) service: Layers<S>,
    pub(crate) limiter: LocalLimiter,
    pub(crate) retry: RetryHandle,
    pub(crate) events: EventLog,
}

impl<S: Clone> Stack<S> {
    /// Returns the recommended layers over `inner`, with these limits.
    pub(crate) fn new(inner: S, limits: Limits) -> Self {
        Self::with(inner, RetryLayer::new(), TokenBucketLayer::new(limits))
    }

    pub(crate) fn with(inner: S, retry: RetryLayer, bucket: TokenBucketLayer) -> Self {
        let events = EventLog::default();
        let retry = retry.with_observer(events.clone());
        let bucket = bucket.with_observer(events.clone());
        let budget = HeaderBudgetLayer::over(bucket.limiter()).with_observer(events.clone());
        Self {
            limiter: bucket.limiter(),
            retry: retry.handle(),
            events,
            service: retry.layer(bucket.layer(budget.layer(inner))),
        }
    }

    /// Asserts that nothing is in flight, queued or reserved.
    pub(crate) fn assert_idle(&self, what: &str) {
        assert_idle(&self.limiter, what);
    }
}

/// Asserts that nothing is in flight, queued or reserved.
pub(crate) fn assert_idle(limiter: &LocalLimiter, what: &str) {
    for scope in limiter.snapshot() {
        assert_eq!(scope.in_flight, 0, "in flight after {what}: {scope:?}");
        assert_eq!(scope.queued, 0, "queued after {what}: {scope:?}");
        assert_eq!(
            scope.outstanding_output, 0,
            "reserved after {what}: {scope:?}"
        );
    }
}

/// Returns a request with this number of input tokens, by the fake and by its estimate.
pub(crate) fn sized(stream: bool, input: u64) -> Request<RequestBody> {
    let request = with(request(SONNET, stream), "x-fake-input-tokens", input);
    with(request, "x-fake-estimate-tokens", input)
}

/// Returns a server without limits.
pub(crate) fn quiet() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build()
}

/// Returns a server without limits and without headers of limits.
pub(crate) fn silent() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .header_family(HeaderFamily::None)
        .build()
}

pub(crate) fn rpm(limit: u64) -> Limits {
    Limits::new().with_requests_per_minute(NonZeroU64::new(limit).expect("a limit"))
}

pub(crate) fn at_once(limit: u32) -> Limits {
    Limits::new().with_concurrency(NonZeroU32::new(limit).expect("a limit"))
}

/// Returns the statuses of all attempts.
pub(crate) fn statuses(log: &[Attempt]) -> Vec<u16> {
    log.iter().map(|attempt| attempt.status).collect()
}
