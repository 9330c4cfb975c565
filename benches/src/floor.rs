//! The common part of all rows: build a request, call, read the response to its end.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_service::Service;

use crate::{
    harness::{Case, Worker},
    texts,
};

/// The limits of the headers lie far above what a loop can use, so that no row waits.
const HEADERS: &[(&str, &str)] = &[
    ("date", "Sun, 22 Nov 2026 10:00:00 GMT"),
    ("content-type", "application/json"),
    ("content-length", "788"),
    ("request-id", "req_011CSHoEeqs5C35K2UUqR7Fy"),
    (
        "anthropic-organization-id",
        "00000000-0000-4000-8000-000000000000",
    ),
    ("anthropic-workspace-id", "wrkspc_01Bench"),
    ("anthropic-ratelimit-requests-limit", "1000000000000"),
    ("anthropic-ratelimit-requests-remaining", "999999999000"),
    ("anthropic-ratelimit-requests-reset", "2026-11-22T10:00:01Z"),
    ("anthropic-ratelimit-input-tokens-limit", "1000000000000000"),
    (
        "anthropic-ratelimit-input-tokens-remaining",
        "999999999000000",
    ),
    (
        "anthropic-ratelimit-input-tokens-reset",
        "2026-11-22T10:00:01Z",
    ),
    (
        "anthropic-ratelimit-output-tokens-limit",
        "1000000000000000",
    ),
    (
        "anthropic-ratelimit-output-tokens-remaining",
        "999999999000000",
    ),
    (
        "anthropic-ratelimit-output-tokens-reset",
        "2026-11-22T10:00:00Z",
    ),
    ("anthropic-ratelimit-tokens-limit", "2000000000000000"),
    ("anthropic-ratelimit-tokens-remaining", "1999999999000000"),
    ("anthropic-ratelimit-tokens-reset", "2026-11-22T10:00:01Z"),
];

/// The headers of every answer.
pub(crate) static ANSWER_HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
    HEADERS
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
});

/// A service that has the answer ready. Holds nothing, so that its clones cost nothing and threads
/// share nothing but the layer under test.
#[derive(Clone, Copy)]
pub(crate) struct Answer;

impl<B> Service<Request<B>> for Answer {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        let mut response = Response::new(Full::new(Bytes::from_static(texts::MESSAGE)));
        *response.headers_mut() = ANSWER_HEADERS.clone();
        ready(Ok(response))
    }
}

/// A service whose response is a stream of [`texts::EVENTS`] events, one frame each.
#[derive(Clone)]
pub(crate) struct Streamed(Arc<[Bytes]>);

impl Streamed {
    pub(crate) fn new() -> Self {
        Self(texts::stream().into())
    }
}

impl<B> Service<Request<B>> for Streamed {
    type Response = Response<Chunks>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        let mut response = Response::new(Chunks {
            chunks: self.0.clone(),
            next: 0,
        });
        *response.headers_mut() = ANSWER_HEADERS.clone();
        let event_stream = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, event_stream);
        ready(Ok(response))
    }
}

/// A body of several frames.
pub(crate) struct Chunks {
    chunks: Arc<[Bytes]>,
    next: usize,
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = self.chunks.get(self.next).cloned();
        self.next += 1;
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// The body of every request: 2 KiB.
pub(crate) static REQUEST_BODY: LazyLock<Vec<u8>> = LazyLock::new(|| texts::prose(2 * 1024));

/// `POST /v1/messages` with five headers.
pub(crate) fn request<B>(body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("/v1/messages");
    let headers = request.headers_mut();
    headers.reserve(5);
    for (name, value) in [
        (
            "x-api-key",
            "sk-ant-api03-0123456789abcdefghijklmnopqrstuvwxyz",
        ),
        ("anthropic-version", "2023-06-01"),
        ("content-type", "application/json"),
        ("accept", "application/json"),
        ("user-agent", "overhead/0.1"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    request
}

/// A case over clones of one service, so that all workers share its state.
pub(crate) fn calls<S, B, R>(
    name: &str,
    service: S,
    body: impl Fn(Bytes) -> B + Copy + Send + 'static,
) -> Case
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: std::fmt::Debug,
    B: 'static,
    R: Body + 'static,
    R::Error: std::fmt::Debug,
{
    Case::new(name, move || worker(service.clone(), body))
}

fn worker<S, B, R>(mut service: S, body: impl Fn(Bytes) -> B + Copy + Send + 'static) -> Worker
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Error: std::fmt::Debug,
    R: Body,
    R::Error: std::fmt::Debug,
{
    // Memory of its own, as from a socket: threads must not meet in its reference count.
    let bytes = Bytes::copy_from_slice(&REQUEST_BODY);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O");
    Box::new(move |calls| {
        runtime.block_on(async {
            for _ in 0..calls {
                one_call(&mut service, request(body(bytes.clone()))).await;
            }
        });
    })
}

/// Makes one call and reads its response. `walk.sh` finds this function by its name.
async fn one_call<S, B, R>(service: &mut S, request: Request<B>)
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: std::fmt::Debug,
    R: Body,
    R::Error: std::fmt::Debug,
{
    let ready = service.ready().await.expect("always ready");
    let response = ready.call(request).await.expect("always answered");
    assert!(response.status().is_success(), "a layer refused");
    let mut body = std::pin::pin!(response.into_body());
    while let Some(frame) = body.frame().await {
        std::hint::black_box(frame.expect("a whole body"));
    }
}
