//! Layers of others between ours that call one service for many requests: what becomes of its
//! readiness.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::ServiceExt;
use tower_claude::cache::CacheLayer;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::{RequestBody, Scope, toolkit::BufferRequest};
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;
use tower_service::Service;

use crate::common::{SONNET, request};

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
pub(crate) struct Places {
    pub(crate) free: Arc<AtomicUsize>,
    has_one: bool,
}

impl Places {
    pub(crate) fn new(free: usize) -> Self {
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
async fn rejection_releases_the_readiness() {
    let places = Places::new(1);
    let breaker = CircuitBreakerLayer::new();
    let scope = Scope::of_model(&request(SONNET, false));
    breaker.handle().force_open(&scope);
    let service = BufferRequest::new(Worker::new(breaker.layer(places.clone())));
    let refused = service.clone().oneshot(request(SONNET, false)).await;
    assert_eq!(refused.expect("a refusal").status(), 529);
    assert_eq!(places.free.load(Ordering::Relaxed), 1);
    breaker.handle().resume_automatic(&scope);
    let served = service.oneshot(request(SONNET, false)).await;
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
    let service = BufferRequest::new(Worker::new(layer.layer(frail)));
    let _ = service.clone().oneshot(request(SONNET, false)).await;
    assert!(service.oneshot(request(SONNET, false)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn service_that_fails_to_become_ready_is_not_polled_again() {
    twice(CacheLayer::default()).await;
    twice(FallbackModelLayer::new(["claude-haiku-5-5"])).await;
    twice(FallbackModelLayer::new::<&str>([])).await;
    twice(RetryLayer::new()).await;
    twice(CircuitBreakerLayer::new()).await;
    twice(TokenBucketLayer::new(Limits::new())).await;
    twice(HeaderBudgetLayer::new()).await;
}

/// Is ready when it is asked for the second time: who waits has a place, which no clone has.
#[derive(Debug, Default)]
struct Queue {
    places: Arc<AtomicUsize>,
    waits: bool,
}

impl Clone for Queue {
    fn clone(&self) -> Self {
        Self {
            places: self.places.clone(),
            waits: false,
        }
    }
}

impl Service<Request<RequestBody>> for Queue {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.waits {
            return Poll::Ready(Ok(()));
        }
        self.waits = true;
        self.places.fetch_add(1, Ordering::Relaxed);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        assert!(std::mem::take(&mut self.waits), "called unready");
        ready(Ok(answer()))
    }
}

/// The handle that was polled and was not ready is polled again and then called. No place is
/// taken twice.
async fn waits_once<L>(layer: L)
where
    L: Layer<Queue>,
    L::Service: Service<Request<RequestBody>, Error = Infallible>,
{
    let queue = Queue::default();
    let service = BufferRequest::new(Worker::new(layer.layer(queue.clone())));
    for calls in 1..3 {
        let answer = service.clone().oneshot(request(SONNET, false)).await;
        assert!(answer.is_ok());
        assert_eq!(queue.places.load(Ordering::Relaxed), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn place_in_a_readiness_queue_is_kept() {
    waits_once(CacheLayer::default()).await;
    waits_once(FallbackModelLayer::new(["claude-haiku-5-5"])).await;
    waits_once(FallbackModelLayer::new::<&str>([])).await;
    waits_once(RetryLayer::new()).await;
    waits_once(CircuitBreakerLayer::new()).await;
    waits_once(TokenBucketLayer::new(Limits::new())).await;
    waits_once(HeaderBudgetLayer::new()).await;
}
