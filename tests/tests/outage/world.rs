//! A stack under steady load.

use std::time::Duration;

use http::Request;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tower_claude_circuit_breaker::{BreakerConfig, CircuitBreakerLayer};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{Attempt, FakeClaude};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::LocalLimiter;
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;
use tower_service::Service;

use crate::common::{SONNET, request, send};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// One call as its caller saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// The time of the call since the server's start.
    pub(crate) at: Duration,
    /// The duration of the call.
    pub(crate) took: Duration,
    pub(crate) good: bool,
}

/// The breaker of the stack.
#[derive(Clone)]
pub(crate) enum Fuse {
    Without,
    With(CircuitBreakerLayer),
}

impl Fuse {
    pub(crate) fn new(config: BreakerConfig) -> Self {
        Self::With(CircuitBreakerLayer::new().with_config(config))
    }
}

/// Sends one call every `gap` for `length` through retry, breaker, token bucket and header budget.
pub(crate) async fn load(
    fake: &FakeClaude,
    fuse: &Fuse,
    limiter: LocalLimiter,
    gap: Duration,
    length: Duration,
) -> Vec<Call> {
    let bucket = TokenBucketLayer::over(limiter);
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let retry = RetryLayer::new();
    let inside = bucket.layer(budget.layer(fake.clone()));
    match fuse {
        Fuse::Without => drive(fake, &retry.layer(inside), gap, length).await,
        Fuse::With(breaker) => drive(fake, &retry.layer(breaker.layer(inside)), gap, length).await,
    }
}

async fn drive<S, R>(fake: &FakeClaude, service: &S, gap: Duration, length: Duration) -> Vec<Call>
where
    S: Service<Request<RequestBody>, Response = http::Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Send,
    R: http_body::Body<Data = bytes::Bytes> + Unpin + Send,
    R::Error: Send,
{
    let start = Instant::now();
    let mut calls = JoinSet::new();
    let mut done = Vec::new();
    let mut at = start;
    let mut number = 0_u32;
    while at < start + length {
        sleep_until(at).await;
        let (service, fake) = (service.clone(), fake.clone());
        let stream = number.is_multiple_of(2);
        calls.spawn(async move {
            let begun = fake.elapsed();
            let seen = send(&service, request(SONNET, stream)).await;
            Call {
                at: begun,
                took: fake.elapsed() - begun,
                good: seen.is_ok_and(|seen| seen.is_complete(stream)),
            }
        });
        while let Some(call) = calls.try_join_next() {
            done.push(call.expect("no panic"));
        }
        number += 1;
        at += gap;
    }
    while let Some(call) = calls.join_next().await {
        done.push(call.expect("no panic"));
    }
    done.sort_by_key(|call| call.at);
    done
}

/// The most attempts of a log that arrived within this time.
pub(crate) fn most_within(times: &[Duration], span: Duration) -> usize {
    let first_after = |index: usize| times.partition_point(|at| *at < times[index] + span) - index;
    (0..times.len()).map(first_after).max().unwrap_or(0)
}

/// Returns the time of each attempt.
pub(crate) fn arrivals(log: &[Attempt], from: Duration) -> Vec<Duration> {
    let after = log
        .iter()
        .map(|attempt| attempt.at)
        .filter(|at| *at >= from);
    let mut times: Vec<Duration> = after.collect();
    times.sort_unstable();
    times
}
