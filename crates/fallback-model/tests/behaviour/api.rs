//! A scripted API, the layer over it, and the events of the layer.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use tower::Layer;
use tower_claude_core::{Classify, RequestBody, event::Event};
use tower_claude_fallback_model::{FallbackModelLayer, SERVED_MODEL, ServedBy};

pub(crate) use tower_claude_tests::api::{Answer, Api, Piece, Reply, Seen, send, sse::*};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn data(text: &'static str) -> Piece {
    Piece::data(text)
}

/// Returns an API in which Opus sends this response and all other models work.
pub(crate) fn opus(reply: Reply) -> Api {
    both(reply, Reply::fine())
}

/// Returns an API in which Opus and Sonnet send these responses and all other models work.
pub(crate) fn both(opus: Reply, sonnet: Reply) -> Api {
    Api::by_model(move |model| match model {
        OPUS => opus.clone(),
        SONNET => sonnet.clone(),
        _ => Reply::fine(),
    })
}

/// Access to the serving model.
pub(crate) trait Served {
    fn served(&self) -> Option<&ServedBy>;
    /// Returns the serving model of the header, or an empty text if it is the model asked for.
    fn by(&self) -> &str;
}

impl Served for Answer {
    fn served(&self) -> Option<&ServedBy> {
        self.extensions.get()
    }

    fn by(&self) -> &str {
        let by = self.headers.get(SERVED_MODEL);
        by.map_or("", |by| by.to_str().expect("text"))
    }
}

pub(crate) const OPUS: &str = "claude-opus-5-5";
pub(crate) const SONNET: &str = "claude-sonnet-5-5";
pub(crate) const HAIKU: &str = "claude-haiku-5-5";

pub(crate) fn request() -> Request<RequestBody> {
    asking(OPUS, "")
}

/// Returns a request for this model with more fields.
pub(crate) fn asking(model: &str, more: &str) -> Request<RequestBody> {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":64{more},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    );
    Request::post("https://api.anthropic.com/v1/messages")
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(RequestBody::from(body))
        .expect("a request")
}

/// Sends one request through this layer.
pub(crate) async fn through<C>(layer: &FallbackModelLayer<C>, api: &Api) -> Answer
where
    C: Classify<io::Error> + Clone,
{
    send(layer.layer(api.clone()), request())
        .await
        .expect("a response")
}

/// Returns a layer with Sonnet and Haiku as stand-ins, and its events.
pub(crate) fn layer() -> (FallbackModelLayer, EventLog) {
    let events = EventLog::default();
    let copy = events.clone();
    let layer = FallbackModelLayer::new([SONNET, HAIKU])
        .with_observer(move |event: &Event<'_>| copy.record(event));
    (layer, events)
}

/// The events, with a line for each.
#[derive(Clone, Default)]
pub(crate) struct EventLog(Arc<Mutex<Vec<String>>>);

impl EventLog {
    fn record(&self, event: &Event<'_>) {
        let short = |model: &str| model.split('-').nth(1).unwrap_or(model).to_owned();
        let line = match event {
            Event::FellBack {
                from,
                to,
                class,
                asked,
                ..
            } => {
                let (from, to) = (short(from), short(to));
                let how = if *asked { "" } else { " unasked" };
                format!("{from} -> {to} {}{how}", class.kind.as_str())
            }
            Event::GaveUp {
                model: Some(model),
                attempt,
                class,
                because,
                ..
            } => format!(
                "{} gave up {attempt} {} {because}",
                short(model),
                class.kind.as_str()
            ),
            Event::CircuitOpened { scope, because, .. } => {
                format!("opened {scope} {}", because.as_str())
            }
            Event::CircuitProbe { scope, .. } => format!("probe {scope}"),
            Event::CircuitClosed { scope, .. } => format!("closed {scope}"),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
