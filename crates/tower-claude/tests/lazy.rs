//! Tests of all six layers with calls that are not polled, and with requests that are answered.

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
use http_body_util::BodyExt;
use tower::{Service, ServiceExt};
use tower_claude::{Limiter, Recommended, RequestBody, recommended};
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

/// A call that is never polled must not keep later calls of its key waiting.
#[tokio::test(start_paused = true)]
async fn cacheable_call_does_nothing_before_the_first_poll() {
    let (layers, told) = layers();
    let api = Api::default();
    let mut service = layers.layer(api.clone());
    let unpolled = service.call(cacheable(true));
    assert_eq!(api.calls(), 0);
    assert!(told.take().is_empty());
    let ready = ServiceExt::<Request<RequestBody>>::ready(&mut service).await;
    let answer = ready.expect("infallible").call(cacheable(true));
    assert_eq!(answer.await.expect("infallible").status(), 200);
    assert_eq!(api.calls(), 1);
    drop(unpolled);
}

/// A call that is dropped before its first poll returns all that its layers took for it.
#[tokio::test(start_paused = true)]
async fn unpolled_call_releases_everything_when_dropped() {
    let (layers, _) = layers();
    let api = Api::default();
    drop(layers.layer(api.clone()).call(request(SONNET, true)));
    let scopes = layers.bucket().limiter().snapshot();
    assert!(
        scopes.iter().all(|scope| scope.in_flight == 0),
        "{scopes:?}"
    );
    let answer = layers
        .layer(api.clone())
        .oneshot(request(SONNET, true))
        .await;
    assert_eq!(answer.expect("infallible").status(), 200);
}

struct Held(#[allow(dead_code, reason = "counts")] Arc<()>, Bytes);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

/// A stream may take minutes, and its prompt may be long.
#[tokio::test(start_paused = true)]
async fn the_request_is_let_go_while_its_answer_streams() {
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
