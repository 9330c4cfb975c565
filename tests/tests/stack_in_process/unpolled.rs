//! Layers of others between ours that make a call and do not poll it.

use std::{
    num::NonZeroU32,
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
};

use http::Request;
use tower::ServiceExt;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::{Cost, RequestBody, Scope, toolkit::BufferRequest};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{AcquireRequest, Limiter, Limits};
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    common::{EventLog, SONNET, assert_idle, request},
    readiness::Places,
};

/// Makes every call, and drops it before it is polled.
#[derive(Clone)]
struct Unpolled<S>(S);

impl<S: Service<Request<RequestBody>>> Service<Request<RequestBody>> for Unpolled<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::future::Pending<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        drop(self.0.call(request));
        std::future::pending()
    }
}

/// A call gives back all that it takes at once, polled or not: also its place in a queue, its probe
/// and its claim to retry.
#[tokio::test(start_paused = true)]
async fn call_that_is_never_polled_leaves_nothing() {
    let one = Limits::new().with_concurrency(NonZeroU32::MIN);
    let told = EventLog::default();
    let bucket = TokenBucketLayer::new(one).with_observer(told.clone());
    let (limiter, breaker) = (bucket.limiter(), CircuitBreakerLayer::new());
    let places = Places::new(1);
    let paced = bucket.layer(HeaderBudgetLayer::over(limiter.clone()).layer(places.clone()));
    let ours = RetryLayer::new().layer(breaker.layer(paced));
    let unpolled = || {
        let call = BufferRequest::new(Unpolled(ours.clone())).oneshot(request(SONNET, false));
        let mut call = Box::pin(call);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(cx).is_pending());
        call
    };
    let first = unpolled();
    assert_idle(&limiter, "a call that was sent and not polled");
    drop(first);
    // The place in the limiter is taken: the next waits in the queue, in vain.
    let ask = AcquireRequest::new(Scope::of(&request(SONNET, false)), Cost::new(1, 1));
    let held = limiter.acquire(ask).await.expect("free");
    let second = unpolled();
    assert_eq!(told.count("token-bucket queued"), 1);
    drop(held);
    assert_idle(&limiter, "a call that was queued and not polled");
    drop(second);
    assert_eq!(places.free.load(Ordering::Relaxed), 1);
    let served = ours
        .oneshot(request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(served.status(), 200);
}
