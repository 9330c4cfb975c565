//! Requests, answers and recorded events.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use tower::{Layer, ServiceExt};
use tower_claude_circuit_breaker::{
    BreakerConfig, BreakerSnapshot, BreakerState, CircuitBreakerLayer,
};
use tower_claude_core::{Class, Rejection, RequestBody, Scope, event::Event};
use tower_claude_fake_claude::{FakeClaude, GroupLimits};
use tower_claude_tests::read;
use tower_service::Service;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const SONNET: &str = "claude-sonnet-5-5";
pub(crate) const HAIKU: &str = "claude-haiku-4-5";

pub(crate) fn fake() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build()
}

pub(crate) fn request(model: &str, stream: bool) -> Request<RequestBody> {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":64,"stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    );
    Request::post("https://api.anthropic.com/v1/messages")
        .header("x-api-key", "sk-test")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(RequestBody::from(body))
        .expect("a request")
}

pub(crate) fn scope(model: &str) -> Scope {
    Scope::of_model(&request(model, false))
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) class: Option<Class>,
    pub(crate) refused: Option<Rejection>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn was_sent(&self) -> bool {
        self.refused.is_none()
    }
}

pub(crate) async fn send<S, B>(service: &S, request: Request<RequestBody>) -> Option<Answer>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes> + Unpin,
{
    let response = service.clone().oneshot(request).await.ok()?;
    let (head, body) = response.into_parts();
    let (body, ..) = read(body).await;
    Some(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        class: head.extensions.get().copied(),
        refused: head.extensions.get().copied(),
        body,
    })
}

/// One whole call.
pub(crate) async fn call(layer: &CircuitBreakerLayer, fake: &FakeClaude) -> Option<Answer> {
    send(&layer.layer(fake.clone()), request(SONNET, false)).await
}

/// A number of calls whose answers do not matter.
pub(crate) async fn calls(layer: &CircuitBreakerLayer, fake: &FakeClaude, number: usize) {
    for _ in 0..number {
        call(layer, fake).await;
    }
}

/// The state of the circuit of this model.
pub(crate) fn look(layer: &CircuitBreakerLayer, model: &str) -> BreakerSnapshot {
    let snapshot = layer.handle().snapshot();
    let wanted = scope(model);
    let mut circuits = snapshot.circuits.into_iter();
    let found = circuits.find(|circuit| circuit.scope == wanted);
    found.expect("a circuit").breaker
}

pub(crate) fn state(layer: &CircuitBreakerLayer) -> BreakerState {
    look(layer, SONNET).state
}

/// The recommended layer without the ramp, and its recorded events.
pub(crate) fn layer() -> (CircuitBreakerLayer, EventLog) {
    let events = EventLog::default();
    let copy = events.clone();
    let layer = CircuitBreakerLayer::new()
        .with_config(BreakerConfig::new().with_ramp(None))
        .with_observer(move |event: &Event<'_>| copy.record(event));
    (layer, events)
}

/// The events, one line each.
#[derive(Clone, Default)]
pub(crate) struct EventLog(Arc<Mutex<Vec<String>>>);

impl EventLog {
    fn record(&self, event: &Event<'_>) {
        let line = match event {
            Event::CircuitOpened {
                scope,
                because,
                opens,
                ..
            } => format!("opened {scope} {} {opens}", because.as_str()),
            Event::CircuitProbe { scope, .. } => format!("probe {scope}"),
            Event::CircuitClosed { scope, .. } => format!("closed {scope}"),
            Event::Rejected { scope, class, .. } => {
                let scope = scope.expect("a scope");
                format!("refused {scope} {}", class.kind.as_str())
            }
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
