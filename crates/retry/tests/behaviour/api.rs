//! A scripted API, the recommended layer over it, and the events of the layer.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use tower::Layer;
use tower_claude_core::{Classify, RequestBody, event::Event};
use tower_claude_retry::{Backoff, Jitter, RetryLayer};

pub(crate) use tower_claude_tests::api::{Answer, Api, Body, Piece, Reply, send, sse::*};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn data(text: &'static str) -> Piece {
    Piece::data(text)
}

pub(crate) fn request() -> Request<RequestBody> {
    Request::post("/v1/messages")
        .body(RequestBody::from(r#"{"model":"claude-sonnet-5-5"}"#))
        .expect("a request")
}

/// Sends one request through this layer.
pub(crate) async fn through<C>(layer: &RetryLayer<C>, api: &Api) -> Answer
where
    C: Classify<io::Error> + Clone,
{
    send(layer.layer(api.clone()), request())
        .await
        .expect("a response")
}

/// Returns the recommended layer without jitter, and its events.
pub(crate) fn layer() -> (RetryLayer, EventLog) {
    let events = EventLog::default();
    let copy = events.clone();
    let layer = RetryLayer::new()
        .with_backoff(Backoff::new(SECOND, 60 * SECOND, Jitter::None))
        .with_observer(move |event: &Event<'_>| copy.note(event));
    (layer, events)
}

/// A log of events, with a line for each.
#[derive(Clone, Default)]
pub(crate) struct EventLog(Arc<Mutex<Vec<String>>>);

impl EventLog {
    fn note(&self, event: &Event<'_>) {
        let line = match event {
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
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
