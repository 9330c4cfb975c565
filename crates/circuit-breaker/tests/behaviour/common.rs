//! The layer over the fake API, and the events of the layer.

use tower::Layer;
use tower_claude_circuit_breaker::{
    BreakerConfig, BreakerSnapshot, BreakerState, CircuitBreakerLayer,
};
use tower_claude_core::{Scope, event::Event};
use tower_claude_fake_claude::{FakeClaude, FakeError, GroupLimits};
use tower_claude_tests::{EventLog, Received, summary};

pub(crate) use tower_claude_tests::{SECOND, SONNET, request, send};

pub(crate) const HAIKU: &str = "claude-haiku-4-5";

pub(crate) fn fake() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build()
}

pub(crate) fn scope(model: &str) -> Scope {
    Scope::of_model(&request(model, false))
}

pub(crate) type Answer = Received<FakeError>;

/// Sends one request to Sonnet. Returns `None` if the connection fails.
pub(crate) async fn call(layer: &CircuitBreakerLayer, fake: &FakeClaude) -> Option<Answer> {
    let call = send(&layer.layer(fake.clone()), request(SONNET, false));
    call.await.ok()
}

/// Sends a number of requests to Sonnet.
pub(crate) async fn calls(layer: &CircuitBreakerLayer, fake: &FakeClaude, number: usize) {
    for _ in 0..number {
        call(layer, fake).await;
    }
}

/// Returns the circuit of this model.
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

/// Returns the recommended layer without the ramp, and its events.
pub(crate) fn layer() -> (CircuitBreakerLayer, EventLog) {
    let events = EventLog::new(line_of);
    let layer = CircuitBreakerLayer::new()
        .with_config(
            BreakerConfig::new()
                .with_cool_down(30 * SECOND, 300 * SECOND)
                .with_ramp(None),
        )
        .with_observer(events.clone());
    (layer, events)
}

/// Returns the line of an event of the layer.
fn line_of(event: &Event<'_>) -> Option<String> {
    Some(match event {
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
        other => return summary(other),
    })
}
