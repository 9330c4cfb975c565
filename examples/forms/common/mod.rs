//! Code that the examples share: the layers, a printer of their decisions, one request, and a line
//! about a response.
#![allow(dead_code, reason = "each example uses a part")]

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, StatusCode, header::CONTENT_TYPE};
use tower_claude::Recommended;
use tower_claude_core::{RequestBody, event::Event};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_limiter::Limits;
use tower_claude_retry::{Backoff, Jitter, RetryLayer};
use tower_claude_wire::Tier;

/// Any error.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// A response with status 429 and the shortest possible `retry-after`.
pub(crate) const LIMITED: Fault = Fault::RateLimited {
    retry_after: Duration::from_secs(1),
};

/// All six layers in the recommended order. `classifier` reads the errors of the client below.
pub(crate) fn recommended<C: Clone>(classifier: C) -> Recommended<C> {
    // By default retries wait 1 s, 2 s, 4 s and so on. The example is shorter.
    let backoff = Backoff::new(
        Duration::from_millis(20),
        Duration::from_secs(1),
        Jitter::Upward,
    );
    tower_claude::recommended()
        .with_deadline(Duration::from_secs(30))
        .with_limits(Limits::tier(Tier::Build))
        .with_retry(RetryLayer::new().with_backoff(backoff))
        .with_classifier(classifier)
        .with_observer(say)
}

/// Prints what a layer decided.
pub(crate) fn say(event: &Event<'_>) {
    match event {
        Event::Retry { attempt, class, .. } => {
            println!(
                "  retry: attempt {attempt} failed ({}), another follows",
                class.kind.as_str()
            );
        }
        Event::GaveUp {
            attempt, because, ..
        } => {
            println!("  retry: attempt {attempt} was the last ({because})");
        }
        Event::Paused { layer, .. } => println!("  {layer}: the API asks for a pause"),
        _ => {}
    }
}

/// The body of a Messages request.
pub(crate) fn prompt(stream: bool) -> String {
    format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":256,"stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    )
}

/// A Messages request to this base URL.
pub(crate) fn message(base: &str, stream: bool) -> Request<RequestBody> {
    Request::post(format!("{base}/v1/messages"))
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(prompt(stream).into())
        .expect("a base URL")
}

/// Describes a response in one line.
pub(crate) fn describe(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    let status = status.as_u16();
    let text = String::from_utf8_lossy(body);
    let kind = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    if kind.starts_with(b"text/event-stream") {
        let events = text.matches("event: ").count();
        let end = if text.contains("event: message_stop") {
            "whole"
        } else {
            "broken"
        };
        return format!("{status}, a stream of {events} events, {end}");
    }
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(kind) = json["error"]["type"].as_str() {
        let by = headers.get("x-tower-claude-refused-by");
        let by = by.map_or("the API", |by| by.to_str().unwrap_or("somebody"));
        return format!("{status}, {kind} from {by}");
    }
    match json["usage"]["output_tokens"].as_u64() {
        Some(tokens) => format!("{status}, a message of {tokens} tokens"),
        None if text.is_empty() => format!("{status}, without a word"),
        None => format!("{status}, {text:?}"),
    }
}

/// Returns the statuses that the API sent, in order.
pub(crate) fn saw(fake: &FakeClaude) -> String {
    let log = fake.log();
    let statuses: Vec<_> = log
        .iter()
        .map(|attempt| attempt.status.to_string())
        .collect();
    statuses.join(" ")
}
