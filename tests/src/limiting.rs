//! The harness of the limiter layers' tests: requests of a known size, and a log of events.
//!
//! The headers `x-fake-*` of the requests set what the fake API uses for them.

use std::fmt::Debug;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body::Body;
use tokio::task::JoinSet;
use tower_claude_core::{Cost, RequestBody, Settle, event::Event};
use tower_service::Service;

use crate::{BASE, EventLog, Reply, SONNET, post, prompt_with, send_ok, summary, with};

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
        .with_settle(Settle::ByUsage)
}

/// Returns the body of a short request to this model.
#[must_use]
pub fn body(model: &str, stream: bool) -> RequestBody {
    prompt_with(model, &format!(r#","max_tokens":8192,"stream":{stream}"#)).into()
}

/// Returns a request for a message that uses this many input and output tokens.
#[must_use]
pub fn message(input: u64, output: u64) -> Request<RequestBody> {
    let request = with(
        post(BASE, body(SONNET, false)),
        "x-fake-input-tokens",
        input,
    );
    let request = with(request, "x-fake-estimate-tokens", input);
    with(request, "x-fake-output-tokens", output)
}

/// Returns a request for a stream that uses this many input and output tokens.
#[must_use]
pub fn stream(input: u64, output: u64) -> Request<RequestBody> {
    message(input, output).map(|_| body(SONNET, true))
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
        calls.spawn(async move { (number, send_ok(&service, request).await.status) });
    }
    while let Some(done) = calls.join_next().await {
        let (number, status) = done.expect("no panic");
        statuses[number] = status;
    }
    statuses
}

/// Returns the line of an event, with its scope.
fn line_of(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::Admitted { layer, scope, .. } => format!("{layer} admitted {scope}"),
        Event::Rejected { layer, class, .. } => format!("{layer} refused {}", class.kind.as_str()),
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
        other => return summary(other),
    })
}

/// Returns a log of events with their scopes.
#[must_use]
pub fn event_log() -> EventLog {
    EventLog::new(line_of)
}
