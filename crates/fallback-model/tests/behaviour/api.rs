//! A scripted API, the layer over it, and the events of the layer.

use std::io;

use http::Request;
use tower::Layer;
use tower_claude_core::{Classify, RequestBody, event::Event};
use tower_claude_fallback_model::{FallbackModelLayer, SERVED_MODEL, ServedBy};
use tower_claude_tests::{EventLog, Received, request_with, summary};

pub(crate) use tower_claude_tests::{
    HAIKU, HOUR, OPUS, SECOND, SONNET,
    api::{Api, Piece, Reply, Seen, sse::*},
    send,
};

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

impl<E> Served for Received<E> {
    fn served(&self) -> Option<&ServedBy> {
        self.extensions.get()
    }

    fn by(&self) -> &str {
        self.header(SERVED_MODEL.as_str())
    }
}

pub(crate) fn request() -> Request<RequestBody> {
    asking(OPUS, "")
}

/// Returns a request for this model with more fields.
pub(crate) fn asking(model: &str, more: &str) -> Request<RequestBody> {
    request_with(model, &format!(r#","max_tokens":64{more}"#))
}

/// Sends one request through this layer.
pub(crate) async fn through<C>(layer: &FallbackModelLayer<C>, api: &Api) -> Received<io::Error>
where
    C: Classify<io::Error> + Clone,
{
    let call = send(&layer.layer(api.clone()), request());
    call.await.expect("a response")
}

/// Returns a layer with Sonnet and Haiku as stand-ins, and its events.
pub(crate) fn layer() -> (FallbackModelLayer, EventLog) {
    let events = EventLog::new(line_of);
    let layer = FallbackModelLayer::new([SONNET, HAIKU]).with_observer(events.clone());
    (layer, events)
}

/// Returns the line of an event of the layer, with short names of models.
fn line_of(event: &Event<'_>) -> Option<String> {
    let short = |model: &str| model.split('-').nth(1).unwrap_or(model).to_owned();
    Some(match event {
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
        other => return summary(other),
    })
}
