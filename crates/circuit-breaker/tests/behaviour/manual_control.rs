//! Tests of manual control.

use std::num::NonZeroU32;

use tower_claude_circuit_breaker::{BreakerConfig, BreakerState, CircuitBreakerLayer};
use tower_claude_core::{Kind, RejectReason, Scope};
use tower_claude_fake_claude::Fault;

use crate::common::{SECOND, SONNET, call, calls, fake, layer, request, scope, state};

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
