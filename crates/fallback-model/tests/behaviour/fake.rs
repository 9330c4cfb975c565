//! The layer over the fake API, which rejects what a model does not accept.

use std::time::Duration;

use http::Request;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{FakeClaude, FakeError, Fault, Incident};
use tower_claude_fallback_model::{FallbackModelLayer, SERVED_MODEL};
use tower_claude_retry::RetryLayer;

use tower_claude_tests::{Received, with};

use crate::api::{HAIKU, HOUR, OPUS, SECOND, SONNET, Served, asking, send};

/// Returns an API with this fault of Opus for an hour.
fn fake(fault: &Fault) -> FakeClaude {
    let incident =
        |group: &str| Incident::new(Duration::ZERO, HOUR, fault.clone()).with_group(group);
    let builder = FakeClaude::builder().incident(incident("opus-5.5"));
    builder.incident(incident("opus-5.5+fast")).build()
}

async fn one(
    layer: &FallbackModelLayer,
    fake: &FakeClaude,
    request: Request<RequestBody>,
) -> Received<FakeError> {
    let call = send(&layer.layer(fake.clone()), request);
    call.await.expect("a response")
}

#[tokio::test(start_paused = true)]
async fn fault_of_one_model_is_hidden_by_the_stand_in() {
    for fault in [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::Unavailable,
        Fault::Timeout504,
        Fault::RateLimited {
            retry_after: SECOND,
        },
        Fault::RateLimitedBare,
        Fault::Ramp {
            retry_after: SECOND,
        },
        Fault::Reset,
        Fault::NonJson(http::StatusCode::BAD_GATEWAY),
        Fault::ErrorBeforeContent,
    ] {
        let (fake, layer) = (fake(&fault), FallbackModelLayer::new([SONNET]));
        for stream in [false, true].repeat(5) {
            let more = if stream { r#","stream":true"# } else { "" };
            let response = one(&layer, &fake, asking(OPUS, more)).await;
            assert!(response.is_complete(stream), "{fault:?}: {response:?}");
            assert!(
                response.by() == SONNET && response.contains(SONNET),
                "{response:?}"
            );
        }
        let asked = fake.with_log(|log| log.iter().filter(|one| &*one.model == OPUS).count());
        assert_eq!(asked, 3, "{fault:?}: out after three");
    }
}

#[tokio::test(start_paused = true)]
async fn retired_model_is_replaced_and_an_unknown_one_is_not() {
    let (fake, layer) = (
        FakeClaude::builder().build(),
        FallbackModelLayer::new([HAIKU]),
    );
    for (model, expected) in [
        ("claude-opus-4-1-20250805", (200, HAIKU)),
        ("claude-retired-1", (404, "")),
    ] {
        let response = one(&layer, &fake, asking(model, "")).await;
        assert_eq!((response.status, response.by()), expected);
    }
}

/// The API rejects fields that a model does not accept.
#[tokio::test(start_paused = true)]
async fn rewritten_request_is_accepted() {
    let haiku = "claude-haiku-4-5";
    for more in [
        r#","thinking":{"type":"adaptive"},"output_config":{"effort":"max"}"#,
        r#","speed":"fast""#,
        r#","output_config":{"effort":"low"},"stream":true"#,
    ] {
        let layer = FallbackModelLayer::new([haiku]);
        let request = with(asking(OPUS, more), "anthropic-beta", "fast-mode-2026-02-01");
        let response = one(&layer, &fake(&Fault::Overloaded), request).await;
        let seen = (response.status, response.by());
        assert_eq!(seen, (200, haiku), "{more}: {response:?}");
    }
}

/// With an inner retry layer, only the first calls of an outage pay for retries.
#[tokio::test(start_paused = true)]
async fn outage_with_inner_retry_delays_only_the_first_calls() {
    let fake = fake(&Fault::Overloaded);
    let stack = ServiceBuilder::new()
        .layer(FallbackModelLayer::new([SONNET]))
        .layer(RetryLayer::new())
        .service(fake.clone());
    for call in 0..10 {
        let response = stack
            .clone()
            .oneshot(asking(OPUS, ""))
            .await
            .expect("a response");
        assert_eq!(response.headers()[SERVED_MODEL], SONNET, "{call}");
    }
    let asked = fake.with_log(|log| log.iter().filter(|one| &*one.model == OPUS).count());
    assert_eq!(asked, 3 * 3);
    assert_eq!(fake.log_len(), 9 + 10);
    // A probe is one attempt, and its caller hardly waits.
    tokio::time::sleep(60 * SECOND).await;
    let start = tokio::time::Instant::now();
    let response = stack.oneshot(asking(OPUS, "")).await.expect("a response");
    assert_eq!(response.headers()[SERVED_MODEL], SONNET);
    assert_eq!(fake.log_len(), 19 + 2);
    assert!(start.elapsed() < SECOND);
}
