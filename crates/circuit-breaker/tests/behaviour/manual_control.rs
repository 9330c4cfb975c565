//! Tests of manual control.

use std::num::NonZeroU32;

use tower::Layer;
use tower_claude_circuit_breaker::{BreakerConfig, BreakerState, CircuitBreakerLayer};
use tower_claude_core::{Kind, RejectReason, Scope};
use tower_claude_fake_claude::Fault;

use crate::common::{HAIKU, SECOND, SONNET, call, calls, fake, layer, request, scope, send, state};

#[tokio::test(start_paused = true)]
async fn manual_control_opens_closes_and_resumes() {
    let (layer, _) = layer();
    let (handle, fake) = (layer.handle(), fake());
    fake.inject_times(Fault::Reset, 5);
    calls(&layer, &fake, 5).await;
    handle.force_open(&scope(SONNET));
    assert_eq!(state(&layer), BreakerState::ForcedOpen);
    let answer = call(&layer, &fake).await.expect("a rejection");
    let refused = answer.rejected().expect("tagged");
    let because = Kind::Overloaded;
    assert_eq!(refused.reason, RejectReason::CircuitOpen { because });
    assert_eq!(refused.retry_after, None, "the end is unknown");
    assert!(!answer.headers.contains_key("retry-after"));

    handle.force_close(&scope(SONNET));
    fake.inject_times(Fault::Overloaded, 20);
    calls(&layer, &fake, 20).await;
    assert_eq!(
        (state(&layer), fake.log_len()),
        (BreakerState::ForcedClosed, 25)
    );

    handle.resume_automatic(&scope(SONNET));
    fake.inject_times(Fault::Overloaded, 5);
    calls(&layer, &fake, 6).await;
    assert_eq!((state(&layer), fake.log_len()), (BreakerState::Open, 30));
}

/// A scope of the user may contain a credential without being the scope of a credential circuit.
#[tokio::test(start_paused = true)]
async fn circuit_created_by_manual_control_has_the_settings_of_its_kind() {
    let config = BreakerConfig::new().with_failures(NonZeroU32::MIN, SECOND);
    let layer = CircuitBreakerLayer::new()
        .with_config(config)
        .with_scope(Scope::of);
    let (handle, fake) = (layer.handle(), fake());
    let scope = Scope::of(&request(SONNET, false));
    handle.force_open(&scope);
    handle.resume_automatic(&scope);
    fake.inject(Fault::Overloaded);
    calls(&layer, &fake, 1).await;
    let [circuit] = handle.snapshot().circuits.try_into().expect("one circuit");
    assert_eq!(circuit.breaker.state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn debug_output_has_no_credential() {
    let (layer, _) = layer();
    let fake = fake();
    calls(&layer, &fake, 1).await;
    let text = format!("{:?} {layer:?}", layer.handle());
    assert!(
        text.contains("Closed") && !text.contains("sk-test"),
        "{text}"
    );
}

/// The server asks for an hour, and the limit is raised after a minute.
#[tokio::test(start_paused = true)]
async fn reset_after_a_raised_spend_limit_admits_the_next_call() {
    let (layer, events) = layer();
    let fake = fake();
    fake.inject(Fault::SpendCap);
    let service = layer.layer(fake.clone());
    for _ in 0..2 {
        let answer = send(&service, request(SONNET, false)).await.expect("it");
        assert!(!(200..300).contains(&answer.status));
    }
    assert_eq!(fake.log_len(), 1, "the circuit of the credential is open");
    let handle = layer.handle();
    handle.force_open(&scope(HAIKU));
    assert_eq!(handle.reset(Kind::Unauthorized), 0);
    assert_eq!(handle.reset(Kind::SpendLimit), 1);
    assert_eq!(handle.reset(Kind::SpendLimit), 0);
    let answer = send(&service, request(SONNET, false)).await.expect("it");
    assert_eq!((answer.status, fake.log_len()), (200, 2));
    let lines = events.lines();
    assert!(
        lines.iter().any(|line| line.starts_with("closed other")),
        "{lines:?}"
    );
    let refused = send(&service, request(HAIKU, false)).await.expect("it");
    assert!(refused.is_rejected(), "manual control stays");
}

#[tokio::test(start_paused = true)]
async fn snapshot_of_a_circuit_that_never_opened_has_no_cause() {
    let (layer, fake) = (CircuitBreakerLayer::new(), fake());
    let cause = || layer.handle().snapshot().circuits[0].because;
    calls(&layer, &fake, 1).await;
    assert_eq!(cause(), None);
    fake.inject_times(Fault::ServerError, 5);
    calls(&layer, &fake, 4).await;
    assert_eq!(cause(), None);
    calls(&layer, &fake, 1).await;
    assert_eq!(cause(), Some(Kind::ServerError));
    layer.handle().force_open(&scope(SONNET));
    assert_eq!(cause(), None);
}
