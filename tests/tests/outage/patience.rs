//! R13: no call is sent again before the server's `retry-after`.

use std::{collections::HashMap, time::Duration};

use http::{HeaderValue, Request};
use tokio::task::JoinSet;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{LimiterConfig, Limits, LocalLimiter};
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    common::{SONNET, request, send},
    world::SECOND,
};

/// The goal's number, where the compiler has done its work.
const CALLS: u64 = if cfg!(debug_assertions) {
    4_000
} else {
    100_000
};
const ROUND: u64 = 500;

fn tagged(number: u64) -> Request<RequestBody> {
    let mut request = request(SONNET, false);
    let headers = request.headers_mut();
    let tag = HeaderValue::from_str(&number.to_string()).expect("digits");
    headers.insert("x-fake-tag", tag);
    // Each has limits of its own, so that each has its own pause.
    let key = HeaderValue::from_str(&format!("key-{}", number % ROUND)).expect("a key");
    headers.insert("x-api-key", key);
    request
}

fn wait(number: u64) -> Duration {
    Duration::from_secs(1 + number * 7 % 41)
}

/// Answers each call once with a `retry-after` of its own. Returns the number of calls that were
/// sent again, and of those that were sent too early.
async fn ask_again<S, R>(fake: &FakeClaude, service: S) -> (usize, usize)
where
    S: Service<Request<RequestBody>, Response = http::Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Send,
    R: http_body::Body<Data = bytes::Bytes> + Unpin + Send,
    R::Error: Send,
{
    let mut told = HashMap::new();
    let (mut again, mut early, mut seen) = (0, 0, 0);
    for round in 0..CALLS / ROUND {
        let mut calls = JoinSet::new();
        for number in round * ROUND..(round + 1) * ROUND {
            fake.inject(Fault::RateLimited {
                retry_after: wait(number),
            });
            let service = service.clone();
            calls.spawn(async move {
                let seen = send(&service, tagged(number)).await;
                assert!(seen.is_ok_and(|seen| seen.is_complete(false)), "{number}");
            });
        }
        calls.join_all().await;
        fake.with_log(|log| {
            // What the n-th injected fault said is what the n-th 429 said.
            for attempt in &log[seen..] {
                let tag = attempt.tag.clone().expect("a tag");
                if attempt.status == 429 {
                    let number = told.len() as u64;
                    let until = attempt.at + wait(number);
                    assert!(told.insert(tag, until).is_none(), "told once");
                } else {
                    again += 1;
                    early += usize::from(attempt.at < told[&tag]);
                }
            }
            seen = log.len();
        });
    }
    (again, early)
}

#[tokio::test(start_paused = true)]
async fn no_call_is_retried_before_its_retry_after() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build();
    // A learned rate would hold some calls back until others are sent again, and these would get
    // the faults that are meant for them.
    let config = LimiterConfig::new().with_learn_limits(false);
    let limiter = LocalLimiter::with_config(Limits::new(), config);
    let bucket = TokenBucketLayer::over(limiter);
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let inside = bucket.layer(budget.layer(fake.clone()));
    let stack = RetryLayer::new().layer(CircuitBreakerLayer::new().layer(inside));
    let (again, early) = ask_again(&fake, stack).await;
    println!("R13: the stack: {again} retries after a 429, {early} before their time");
    assert_eq!((again, early), (CALLS as usize, 0));

    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build();
    let alone = RetryLayer::new().layer(fake.clone());
    let (again, early) = ask_again(&fake, alone).await;
    println!("R13: retry alone: {again} retries after a 429, {early} before their time");
    assert_eq!((again, early), (CALLS as usize, 0));
    assert!(fake.elapsed() > 60 * SECOND);
}
