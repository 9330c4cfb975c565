//! Layers of others between ours: they keep one service for many calls, and do as they like with its futures.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::ServiceExt;
use tower_claude::cache::CacheLayer;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::{Buffered, Cost, RequestBody, Scope};
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{Ask, Limiter, Limits};
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;
use tower_service::Service;

use crate::common::{Told, assert_idle, message};

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All its clones call one service, as those of tower's `Buffer` do.
struct Worker<S>(Arc<Mutex<S>>);

impl<S> Worker<S> {
    fn new(service: S) -> Self {
        Self(Arc::new(Mutex::new(service)))
    }
}

impl<S> Clone for Worker<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Service<Request<RequestBody>>> Service<Request<RequestBody>> for Worker<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        lock(&self.0).poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> S::Future {
        lock(&self.0).call(request)
    }
}

/// An API with so many places: to be ready is to have one, as with tower's `ConcurrencyLimit`.
#[derive(Debug)]
struct Places {
    free: Arc<AtomicUsize>,
    has_one: bool,
}

impl Places {
    fn new(free: usize) -> Self {
        Self {
            free: Arc::new(AtomicUsize::new(free)),
            has_one: false,
        }
    }
}

impl Clone for Places {
    fn clone(&self) -> Self {
        Self {
            free: self.free.clone(),
            has_one: false,
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if self.has_one {
            self.free.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Service<Request<RequestBody>> for Places {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if !self.has_one {
            if self.free.load(Ordering::Relaxed) == 0 {
                return Poll::Pending;
            }
            self.free.fetch_sub(1, Ordering::Relaxed);
            self.has_one = true;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        assert!(std::mem::take(&mut self.has_one), "called unready");
        self.free.fetch_add(1, Ordering::Relaxed);
        ready(Ok(answer()))
    }
}

fn answer() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(r#"{"type":"message","content":[]}"#));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

/// A circuit that is open takes nothing of a service that others want to use.
#[tokio::test(start_paused = true)]
async fn a_refusal_keeps_no_readiness() {
    let places = Places::new(1);
    let breaker = CircuitBreakerLayer::new();
    let scope = Scope::of_model(&message(false));
    breaker.handle().force_open(&scope);
    let service = Buffered::new(Worker::new(breaker.layer(places.clone())));
    let refused = service.clone().oneshot(message(false)).await;
    assert_eq!(refused.expect("a refusal").status(), 529);
    assert_eq!(places.free.load(Ordering::Relaxed), 1);
    breaker.handle().automatic(&scope);
    let served = service.oneshot(message(false)).await;
    assert_eq!(served.expect("an answer").status(), 200);
    assert_eq!(places.free.load(Ordering::Relaxed), 1);
}

/// Its first instance breaks when it is asked whether it is ready, and must not be asked again.
#[derive(Debug)]
struct Frail {
    asked: Arc<AtomicUsize>,
    broken: bool,
}

impl Clone for Frail {
    fn clone(&self) -> Self {
        Self {
            asked: self.asked.clone(),
            broken: false,
        }
    }
}

impl Service<Request<RequestBody>> for Frail {
    type Response = Response<Full<Bytes>>;
    type Error = std::io::Error;
    type Future = Ready<Result<Self::Response, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        assert!(!self.broken, "polled after its error");
        if self.asked.fetch_add(1, Ordering::Relaxed) > 0 {
            return Poll::Ready(Ok(()));
        }
        self.broken = true;
        Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        ready(Ok(answer()))
    }
}

/// Two calls on one service of this layer's, the first of which finds it broken.
async fn twice<L>(layer: L)
where
    L: Layer<Frail>,
    L::Service: Service<Request<RequestBody>, Error = std::io::Error>,
{
    let frail = Frail {
        asked: Arc::default(),
        broken: false,
    };
    let service = Buffered::new(Worker::new(layer.layer(frail)));
    let _ = service.clone().oneshot(message(false)).await;
    assert!(service.oneshot(message(false)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_broken_service_is_not_asked_again() {
    twice(CacheLayer::default()).await;
    twice(FallbackModelLayer::new(["claude-haiku-5-5"])).await;
    twice(FallbackModelLayer::new::<&str>([])).await;
    twice(RetryLayer::new()).await;
    twice(CircuitBreakerLayer::new()).await;
    twice(TokenBucketLayer::new(Limits::new())).await;
    twice(HeaderBudgetLayer::new()).await;
}

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

/// All that a call takes at once it gives back, whether it was polled or not; also a place in a queue, a probe, and
/// the claim to retry.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_polled_leaves_nothing() {
    let one = Limits::new().with_concurrency(std::num::NonZeroU32::MIN);
    let told = Told::default();
    let bucket = TokenBucketLayer::new(one).with_observer(told.clone());
    let (limiter, breaker) = (bucket.limiter(), CircuitBreakerLayer::new());
    let places = Places::new(1);
    let paced = bucket.layer(HeaderBudgetLayer::over(limiter.clone()).layer(places.clone()));
    let ours = RetryLayer::new().layer(breaker.layer(paced));
    let unpolled = || {
        let call = Buffered::new(Unpolled(ours.clone())).oneshot(message(false));
        let mut call = Box::pin(call);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(cx).is_pending());
        call
    };
    let first = unpolled();
    assert_idle(&limiter, "a call that was sent and not polled");
    drop(first);
    // The place in the limiter is taken: the next waits in the queue, in vain.
    let ask = Ask::new(Scope::of(&message(false)), Cost::new(1, 1));
    let held = limiter.acquire(ask).await.expect("free");
    let second = unpolled();
    let queued = |told: &String| told.starts_with("Queued");
    assert_eq!(told.all().iter().filter(|told| queued(told)).count(), 1);
    drop(held);
    assert_idle(&limiter, "a call that was queued and not polled");
    drop(second);
    assert_eq!(places.free.load(Ordering::Relaxed), 1);
    let served = ours.oneshot(message(false)).await.expect("an answer");
    assert_eq!(served.status(), 200);
}
