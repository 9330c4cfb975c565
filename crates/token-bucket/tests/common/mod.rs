//! What the tests of this layer share.
#![allow(dead_code)]

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use tower_claude_core::{
    Cost, Dimension, RequestBody,
    event::{Event, Observer},
};
use tower_claude_fake_claude::{FakeClaude, FakeError, GroupLimits};
use tower_claude_limiter::{Limiter, LimiterConfig, Limits, LocalLimiter, ScopeSnapshot};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_service::Service;

pub(crate) type BySize = fn(&Request<RequestBody>) -> Cost;
pub(crate) type TestLayer = TokenBucketLayer<LocalLimiter, BySize>;

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// Limits per minute: requests, input tokens, output tokens.
pub(crate) type PerMinute = (u64, u64, u64);

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

/// A layer that knows what each request will use, and waits as long as it takes.
pub(crate) fn layer(per_minute: PerMinute) -> TestLayer {
    layer_with(per_minute, LimiterConfig::new())
}

pub(crate) fn layer_with(per_minute: PerMinute, config: LimiterConfig) -> TestLayer {
    TokenBucketLayer::over(LocalLimiter::with_config(limits(per_minute), config))
        .with_estimate(by_size as BySize)
        .with_max_wait(HOUR)
}

/// What the request plans to use (`x-planned-*`), else what it tells the fake that it does use.
pub(crate) fn by_size(request: &Request<RequestBody>) -> Cost {
    if request.body().model().is_none() {
        return Cost::default();
    }
    let number = |kind: &str| {
        let value = request
            .headers()
            .get(format!("x-planned-{kind}"))
            .or_else(|| request.headers().get(format!("x-fake-{kind}-tokens")))?;
        value.to_str().ok()?.parse().ok()
    };
    Cost::new(number("input").unwrap_or(0), number("output").unwrap_or(0))
}

pub(crate) fn body(model: &str, stream: bool) -> RequestBody {
    format!(
        r#"{{"model":"{model}","max_tokens":8192,"stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    )
    .into()
}

/// A request for a message that uses so many input and output tokens.
pub(crate) fn message(input: u64, output: u64) -> Request<RequestBody> {
    Request::post("http://localhost/v1/messages")
        .header("x-api-key", "key-a")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .header("x-fake-input-tokens", input)
        .header("x-fake-estimate-tokens", input)
        .header("x-fake-output-tokens", output)
        .body(body("claude-sonnet-5-5", false))
        .expect("a request")
}

/// The same as a stream.
pub(crate) fn stream(input: u64, output: u64) -> Request<RequestBody> {
    message(input, output).map(|_| body("claude-sonnet-5-5", true))
}

pub(crate) fn with(
    mut request: Request<RequestBody>,
    name: &'static str,
    value: impl TryInto<HeaderValue, Error: std::fmt::Debug>,
) -> Request<RequestBody> {
    let value = value.try_into().expect("a header value");
    request
        .headers_mut()
        .insert(HeaderName::from_static(name), value);
    request
}

/// Sends a request and reads its answer to the end.
pub(crate) fn send<S, R>(
    service: &S,
    request: Request<RequestBody>,
) -> impl Future<Output = Response<Vec<u8>>> + use<S, R>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    S::Error: std::fmt::Debug,
    R: Body<Data = bytes::Bytes, Error: std::fmt::Debug> + Unpin,
{
    let service = service.clone();
    async move {
        let response = service.oneshot(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Response::from_parts(head, body.to_vec())
    }
}

/// Sends all of them at once, in this order, tagged 0, 1, 2, …; the statuses in the same order.
pub(crate) async fn send_all<S, R>(service: &S, requests: Vec<Request<RequestBody>>) -> Vec<u16>
where
    S: Service<Request<RequestBody>, Response = Response<R>, Error = FakeError>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    R: Body<Data = bytes::Bytes, Error = FakeError> + Unpin + Send + 'static,
{
    let mut calls = JoinSet::new();
    let mut statuses = vec![0; requests.len()];
    for (number, request) in requests.into_iter().enumerate() {
        let (service, request) = (service.clone(), with(request, "x-fake-tag", number));
        calls.spawn(async move { (number, send(&service, request).await.status().as_u16()) });
    }
    while let Some(done) = calls.join_next().await {
        let (number, status) = done.expect("no panic");
        statuses[number] = status;
    }
    statuses
}

/// What the limiter knows of the only scope there is.
pub(crate) fn only(limiter: &LocalLimiter) -> ScopeSnapshot {
    let mut scopes = limiter.snapshot();
    assert_eq!(scopes.len(), 1, "{scopes:?}");
    scopes.remove(0)
}

/// What is left of requests, input and output tokens in the only scope there is.
pub(crate) fn left(limiter: &LocalLimiter) -> [i64; 3] {
    let scope = only(limiter);
    [
        Dimension::Requests,
        Dimension::InputTokens,
        Dimension::OutputTokens,
    ]
    .map(|dimension| scope.dimension(dimension).expect("limited").available)
}

/// Statuses of all attempts that the fake has seen.
pub(crate) fn statuses(fake: &FakeClaude) -> Vec<u16> {
    fake.with_log(|log| log.iter().map(|attempt| attempt.status).collect())
}

/// Keeps the name of every event, with what tells one from another.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    pub(crate) fn observer(&self) -> impl Observer + 'static {
        let events = self.0.clone();
        move |event: &Event<'_>| {
            let line = match event {
                Event::Admitted { layer, scope, .. } => format!("{layer} admitted {scope}"),
                Event::Rejected { layer, class, .. } => {
                    format!("{layer} refused {}", class.kind.as_str())
                }
                Event::Paused { layer, scope, .. } => format!("{layer} paused {scope}"),
                other => format!("{other:?}"),
            };
            events.lock().expect("no panic").push(line);
        }
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

pub(crate) fn over(layer: &TestLayer, fake: &FakeClaude) -> impl FakeService {
    layer.layer(fake.clone())
}

/// The layer's service over the fake.
pub(crate) trait FakeService:
    Service<
        Request<RequestBody>,
        Response = Response<Self::Body>,
        Error = FakeError,
        Future = Self::Call,
    > + Clone
    + Send
    + 'static
{
    type Call: Future<Output = Result<Response<Self::Body>, FakeError>> + Send;
    type Body: Body<Data = bytes::Bytes, Error = FakeError> + Unpin + Send + 'static;
}

impl<S, R> FakeService for S
where
    S: Service<Request<RequestBody>, Response = Response<R>, Error = FakeError>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    R: Body<Data = bytes::Bytes, Error = FakeError> + Unpin + Send + 'static,
{
    type Call = S::Future;
    type Body = R;
}
