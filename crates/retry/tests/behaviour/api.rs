//! The recommended layer over a scripted API, and the events of the layer.

use std::io;

use http::Request;
use tower::Layer;
use tower_claude_core::{Classify, RequestBody, event::Event};
use tower_claude_retry::{Backoff, Jitter, RetryLayer};
use tower_claude_tests::{EventLog, Received, SONNET, summary};

pub(crate) use tower_claude_tests::{
    SECOND,
    api::{Api, Body, Piece, Reply, sse::*},
    read, send,
};

pub(crate) fn data(text: &'static str) -> Piece {
    Piece::data(text)
}

pub(crate) fn request() -> Request<RequestBody> {
    tower_claude_tests::request(SONNET, false)
}

/// Sends one request through this layer.
pub(crate) async fn through<C>(layer: &RetryLayer<C>, api: &Api) -> Received<io::Error>
where
    C: Classify<io::Error> + Clone,
{
    let call = send(&layer.layer(api.clone()), request());
    call.await.expect("a response")
}

/// Returns the recommended layer without jitter, and its events.
pub(crate) fn layer() -> (RetryLayer, EventLog) {
    let events = EventLog::new(line_of);
    let layer = RetryLayer::new()
        .with_backoff(Backoff::new(SECOND, 60 * SECOND, Jitter::None))
        .with_observer(events.clone());
    (layer, events)
}

/// Returns the line of an event of the layer.
fn line_of(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::Retry {
            attempt,
            class,
            delay,
            ..
        } => format!("retry {attempt} {} {delay:?}", class.kind.as_str()),
        Event::GaveUp {
            attempt,
            class,
            because,
            ..
        } => format!("gave up {attempt} {} {because}", class.kind.as_str()),
        Event::Broken { class, .. } => format!("broken {}", class.kind.as_str()),
        Event::Rejected { class, .. } => {
            format!("rejected {} local={}", class.kind.as_str(), class.local)
        }
        other => return summary(other),
    })
}
