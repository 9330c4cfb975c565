//! The layer over the fake API, which rejects what a model does not accept.

use std::time::Duration;

use http::Request;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{FakeClaude, Fault, Incident};
use tower_claude_fallback_model::{FallbackModelLayer, SERVED_MODEL};
use tower_claude_retry::RetryLayer;
use tower_claude_tests::read;

use crate::api::{HAIKU, OPUS, SONNET, asking};

const HOUR: Duration = Duration::from_secs(3600);

/// Returns an API with this fault of Opus for an hour.
fn fake(fault: &Fault) -> FakeClaude {
    let incident =
        |group: &str| Incident::new(Duration::ZERO, HOUR, fault.clone()).with_group(group);
    let builder = FakeClaude::builder().incident(incident("opus-5.5"));
    builder.incident(incident("opus-5.5+fast")).build()
}

/// Returns the status, the serving model, the text, and true if the body failed.
async fn one(
    layer: &FallbackModelLayer,
    fake: &FakeClaude,
    request: Request<RequestBody>,
) -> (u16, String, String, bool) {
    let response = layer.layer(fake.clone()).oneshot(request).await;
    let (head, body) = response.expect("a response").into_parts();
    let by = head.headers.get(SERVED_MODEL);
    let by = by.map_or("", |by| by.to_str().expect("text")).to_owned();
    let (body, _, error) = read(body).await;
    let text = String::from_utf8(body.to_vec()).expect("text");
    (head.status.as_u16(), by, text, error.is_some())
}

#[tokio::test(start_paused = true)]
async fn fault_of_one_model_is_hidden_by_the_stand_in() {
    let second = Duration::from_secs(1);
    for fault in [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::Unavailable,
        Fault::Timeout504,
        Fault::RateLimited {
            retry_after: second,
        },
        Fault::RateLimitedBare,
        Fault::Ramp {
            retry_after: second,
        },
        Fault::Reset,
        Fault::NonJson(http::StatusCode::BAD_GATEWAY),
        Fault::ErrorBeforeContent,
    ] {
        let (fake, layer) = (fake(&fault), FallbackModelLayer::new([SONNET]));
        for stream in [false, true].repeat(5) {
            let more = if stream { r#","stream":true"# } else { "" };
            let (status, by, text, broken) = one(&layer, &fake, asking(OPUS, more)).await;
            assert_eq!((status, &*by, broken), (200, SONNET, false), "{fault:?}");
            assert!(text.contains(SONNET), "{text}");
            let end = if stream { "message_stop" } else { "end_turn" };
            assert!(text.contains(end), "{text}");
        }
        let asked = fake.with_log(|log| log.iter().filter(|one| &*one.model == OPUS).count());
        assert_eq!(asked, 3, "{fault:?}: out after three");
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_model_is_replaced() {
    let (fake, layer) = (
        FakeClaude::builder().build(),
        FallbackModelLayer::new([HAIKU]),
    );
    let request = asking("claude-retired-1", "");
    let (status, by, ..) = one(&layer, &fake, request).await;
    assert_eq!((status, &*by), (200, HAIKU));
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
        let mut request = asking(OPUS, more);
        let beta = http::HeaderValue::from_static("fast-mode-2026-02-01");
        request.headers_mut().insert("anthropic-beta", beta);
        let (status, by, text, _) = one(&layer, &fake(&Fault::Overloaded), request).await;
        assert_eq!((status, &*by), (200, haiku), "{more}: {text}");
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
    assert_eq!(asked, 3 * 5);
    assert_eq!(fake.log_len(), 15 + 10);
    // A probe is one attempt, and its caller hardly waits.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let start = tokio::time::Instant::now();
    let response = stack.oneshot(asking(OPUS, "")).await.expect("a response");
    assert_eq!(response.headers()[SERVED_MODEL], SONNET);
    assert_eq!(fake.log_len(), 25 + 2);
    assert!(start.elapsed() < Duration::from_secs(1));
}
