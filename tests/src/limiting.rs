//! The harness of the limiter layers' tests: requests of a known size, and a log of events.
//!
//! The headers `x-fake-*` of the requests set what the fake API uses for them.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_claude_core::{
    Cost, RequestBody,
    event::{Event, Observer},
};
use tower_service::Service;

use crate::Reply;

/// An estimator that reads the cost from the request's headers.
pub type BySize = fn(&Request<RequestBody>) -> Cost;

/// Limits per minute: requests, input tokens, output tokens.
pub type PerMinute = (u64, u64, u64);

/// A service of Claude requests that a test may send to another task.
pub trait ClaudeService:
    Service<
        Request<RequestBody>,
        Response = Response<Self::Body>,
        Error: Debug + Send,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type Body: Body<Data = Bytes, Error: Debug + Send> + Unpin + Send + 'static;
}

impl<S, R> ClaudeService for S
where
    S: Service<Request<RequestBody>, Response = Response<R>, Error: Debug + Send, Future: Send>
        + Clone
        + Send
        + 'static,
    R: Body<Data = Bytes, Error: Debug + Send> + Unpin + Send + 'static,
{
    type Body = R;
}

/// Returns the planned usage of a request (`x-planned-*`), or else its usage at the fake API.
#[must_use]
pub fn by_size(request: &Request<RequestBody>) -> Cost {
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

/// Returns the body of a short request to this model.
#[must_use]
pub fn body(model: &str, stream: bool) -> RequestBody {
    format!(
        r#"{{"model":"{model}","max_tokens":8192,"stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    )
    .into()
}

/// Returns a request for a message that uses this many input and output tokens.
///
/// # Panics
///
/// Never.
#[must_use]
pub fn message(input: u64, output: u64) -> Request<RequestBody> {
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

/// Returns a request for a stream that uses this many input and output tokens.
#[must_use]
pub fn stream(input: u64, output: u64) -> Request<RequestBody> {
    message(input, output).map(|_| body("claude-sonnet-5-5", true))
}

/// Sets a header of a request.
///
/// # Panics
///
/// If the value is no header value.
pub fn with(
    mut request: Request<RequestBody>,
    name: &'static str,
    value: impl TryInto<HeaderValue, Error: Debug>,
) -> Request<RequestBody> {
    let value = value.try_into().expect("a header value");
    let name = HeaderName::from_static(name);
    request.headers_mut().insert(name, value);
    request
}

/// Adds the headers of one limit to a reply: limit, remaining, and a reset after `full_in` seconds.
///
/// # Panics
///
/// If `family` is no part of a header name.
#[must_use]
pub fn gauge(reply: Reply, family: &str, limit: u64, remaining: u64, full_in: u64) -> Reply {
    let name = |part: &str| {
        let name = format!("anthropic-{family}-{part}");
        name.parse::<HeaderName>().expect("a header name")
    };
    let reset = format!("2026-11-22T10:{:02}:{:02}Z", full_in / 60, full_in % 60);
    reply
        .header(name("limit"), &limit.to_string())
        .header(name("remaining"), &remaining.to_string())
        .header(name("reset"), &reset)
        .header(http::header::DATE, "Sun, 22 Nov 2026 10:00:00 GMT")
}

/// Sends a request and reads its response to the end.
///
/// # Panics
///
/// If the service or the body fails.
pub fn send<S, R>(
    service: &S,
    request: Request<RequestBody>,
) -> impl Future<Output = Response<Vec<u8>>> + use<S, R>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    S::Error: Debug,
    R: Body<Data = Bytes, Error: Debug> + Unpin,
{
    let service = service.clone();
    async move {
        let response = service.oneshot(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Response::from_parts(head, body.to_vec())
    }
}

/// Sends all requests at once in this order, tagged with their index, and returns the statuses in
/// the same order.
///
/// # Panics
///
/// If the service or a body fails.
pub async fn send_all(
    service: &impl ClaudeService,
    requests: Vec<Request<RequestBody>>,
) -> Vec<u16> {
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

/// A log of events, one line for each.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    /// Returns an observer that writes to this log.
    pub fn observer(&self) -> impl Observer + 'static {
        let events = self.0.clone();
        move |event: &Event<'_>| {
            let line = match event {
                Event::Admitted { layer, scope, .. } => format!("{layer} admitted {scope}"),
                Event::Rejected { layer, class, .. } => {
                    format!("{layer} refused {}", class.kind.as_str())
                }
                Event::Paused { layer, scope, .. } => format!("{layer} paused {scope}"),
                Event::Headroom {
                    layer,
                    limits,
                    request_id,
                    ..
                } => format!(
                    "{layer} headroom {:?} {}",
                    limits.requests.remaining,
                    request_id.is_some()
                ),
                Event::Threshold {
                    layer, crossing, ..
                } => format!(
                    "{layer} threshold {} {}/{}",
                    crossing.dimension, crossing.remaining, crossing.limit
                ),
                Event::Unauthorized { layer, .. } => format!("{layer} unauthorized"),
                other => format!("{other:?}"),
            };
            events.lock().expect("no panic").push(line);
        }
    }

    /// Takes all lines.
    ///
    /// # Panics
    ///
    /// If an observer panicked.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }

    /// Takes all lines, and returns those that contain `part`.
    #[must_use]
    pub fn take_of(&self, part: &str) -> Vec<String> {
        let mut all = self.take();
        all.retain(|line| line.contains(part));
        all
    }
}
