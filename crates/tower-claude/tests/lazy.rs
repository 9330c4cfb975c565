//! Nothing happens before the first poll, and nothing of a request is kept once it is answered: over all six layers.

mod common;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use common::{EventLog, HAIKU, SONNET, cacheable, event_log, request};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_claude::{Recommended, RequestBody, recommended};
use tower_layer::Layer;

/// Begins a stream and never ends it.
struct Endless(Option<&'static str>);

const CONTENT: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(text) => Poll::Ready(Some(Ok(Frame::data(text.into())))),
            None => Poll::Pending,
        }
    }
}

/// Counts the calls it gets.
#[derive(Clone, Default)]
struct Api(Arc<AtomicUsize>);

impl Api {
    fn calls(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Service<Request<RequestBody>> for Api {
    type Response = Response<Endless>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        self.0.fetch_add(1, Ordering::Relaxed);
        let response = Response::builder().header("content-type", "text/event-stream");
        std::future::ready(Ok(response
            .body(Endless(Some(CONTENT)))
            .expect("a response")))
    }
}

fn layers() -> (Recommended, EventLog) {
    let told = event_log();
    let layers = recommended().with_fallback([HAIKU]);
    (layers.with_observer(told.clone()), told)
}

/// The call that this makes does nothing, and then all at once.
async fn is_lazy<S, B, R>(mut service: S, api: &Api, told: &EventLog, request: Request<B>)
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
{
    let _ = told.take();
    let before = api.calls();
    let ready = service.ready().await.expect("infallible");
    let call = ready.call(request);
    assert_eq!(api.calls(), before);
    assert!(told.take().is_empty());
    assert_eq!(call.await.expect("infallible").status(), 200);
    assert_eq!(api.calls(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn call_before_its_first_poll_does_nothing() {
    let (layers, told) = layers();
    let api = Api::default();
    let stack = || layers.layer(api.clone());
    is_lazy(stack(), &api, &told, request(SONNET, true)).await;
    assert!(!told.take().is_empty());
    is_lazy(stack(), &api, &told, cacheable(true)).await;
    // One that has to be collected.
    let full = |request: Request<RequestBody>| {
        request.map(|body| Full::new(body.try_into_bytes().expect("buffered")))
    };
    is_lazy(stack(), &api, &told, full(request(SONNET, true))).await;
    // Behind a layer of others, and with one in the middle.
    let outermost = ServiceBuilder::new()
        .map_request(|request: Request<RequestBody>| request)
        .service(stack());
    is_lazy(outermost, &api, &told, request(SONNET, true)).await;
    let within = layers.retry().layer(layers.breaker().layer(api.clone()));
    let between = ServiceBuilder::new()
        .layer(layers.fallback().clone())
        .map_request(|request: Request<RequestBody>| request)
        .service(within);
    is_lazy(between, &api, &told, request(SONNET, true)).await;
    // Each layer for itself.
    let (cache, fallback, retry) = (layers.cache(), layers.fallback(), layers.retry());
    let (breaker, bucket, budget) = (layers.breaker(), layers.bucket(), layers.budget());
    drop(cache.layer(api.clone()).call(cacheable(true)));
    drop(cache.layer(api.clone()).call(request(SONNET, true)));
    drop(fallback.layer(api.clone()).call(request(SONNET, true)));
    drop(retry.layer(api.clone()).call(request(SONNET, true)));
    drop(breaker.layer(api.clone()).call(request(SONNET, true)));
    drop(bucket.layer(api.clone()).call(request(SONNET, true)));
    drop(budget.layer(api.clone()).call(request(SONNET, true)));
    assert_eq!(api.calls(), 5);
    assert!(told.take().is_empty());
}

struct Held(#[allow(dead_code, reason = "counts")] Arc<()>, Bytes);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

/// A stream may take minutes, and its prompt may be long.
#[tokio::test(start_paused = true)]
async fn streaming_response_does_not_hold_the_request() {
    let (layers, _) = layers();
    let alive = Arc::new(());
    for request in [request(SONNET, true), cacheable(true)] {
        let request = request.map(|body| {
            let bytes = body.try_into_bytes().expect("buffered");
            RequestBody::from(Bytes::from_owner(Held(alive.clone(), bytes)))
        });
        let answer = layers.layer(Api::default()).oneshot(request).await;
        let mut body = answer.expect("infallible").into_body();
        assert!(body.frame().await.is_some());
        assert_eq!(Arc::strong_count(&alive), 1, "of the request");
    }
}
