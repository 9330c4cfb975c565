//! Every fault and incident, in process.

mod common;

use std::error::Error as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use common::{fake, messages, sse_names, text};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use tower_claude_fake_claude::{FakeClaude, FakeError, Fault, Incident};
use tower_claude_wire::{ApiError, RateLimits, retry_after, should_retry};

const SECOND: Duration = Duration::from_secs(1);

async fn send(fake: &FakeClaude, stream: bool) -> (u16, HeaderMap, Result<Bytes, FakeError>) {
    let response = fake
        .clone()
        .oneshot(messages().body(text(stream)).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    (parts.status.as_u16(), parts.headers, body)
}

/// Names of the events of one stream.
async fn events(fake: &FakeClaude) -> Vec<String> {
    let response = fake
        .clone()
        .oneshot(messages().body(text(true)).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    sse_names(&mut response.into_body()).await
}

#[tokio::test(start_paused = true)]
async fn fault_before_admission_has_its_documented_response() {
    let wait = Duration::from_millis(2_500);
    let cases = [
        (
            Fault::Overloaded,
            529,
            "overloaded_error",
            None,
            None,
            Some(true),
        ),
        (Fault::ServerError, 500, "api_error", None, None, Some(true)),
        (Fault::Unavailable, 503, "api_error", None, None, Some(true)),
        (
            Fault::Timeout504,
            504,
            "timeout_error",
            None,
            None,
            Some(true),
        ),
        (
            Fault::RateLimited { retry_after: wait },
            429,
            "rate_limit_error",
            None,
            Some(3),
            Some(true),
        ),
        (
            Fault::RateLimitedBare,
            429,
            "rate_limit_error",
            None,
            None,
            Some(true),
        ),
        (
            Fault::Ramp {
                retry_after: Duration::ZERO,
            },
            429,
            "rate_limit_error",
            Some("ramp_limit_exceeded"),
            Some(1),
            Some(true),
        ),
        (
            Fault::SpendCap,
            429,
            "rate_limit_error",
            Some("enforced_spend_limit_reached"),
            None,
            Some(false),
        ),
        (
            Fault::OwnSpendLimit,
            400,
            "invalid_request_error",
            None,
            None,
            Some(false),
        ),
    ];
    for (fault, status, kind, code, seconds, should) in cases {
        let fake = fake();
        fake.inject(fault.clone());
        let (seen, headers, body) = send(&fake, true).await;
        let error = ApiError::parse(&body.unwrap()).unwrap();
        assert_eq!(
            (seen, &*error.kind, error.error_code.as_deref()),
            (status, kind, code)
        );
        let now = tower_claude_wire::date(&headers).unwrap();
        assert_eq!(
            retry_after(&headers, now),
            seconds.map(Duration::from_secs),
            "{fault:?}"
        );
        assert_eq!(should_retry(&headers), should, "{fault:?}");
        let bare = fault == Fault::RateLimitedBare;
        assert_eq!(
            RateLimits::from_headers(&headers).is_empty(),
            bare,
            "{fault:?}"
        );
        let log = fake.log();
        assert_eq!(
            (log[0].status, log[0].error_type, log[0].error_code),
            (status, Some(kind), code)
        );
        assert_eq!(log[0].fault, Some(fault.name()));
        assert!(log[0].finished_at.is_some() && !log[0].content_sent && !log[0].completed);
        assert_eq!(fake.gauges("sonnet-5.5").requests.level, 1_000);
        // Once was asked for, once it was.
        assert_eq!(send(&fake, true).await.0, 200);
        assert_eq!(fake.log()[1].fault, None);
    }
}

#[tokio::test(start_paused = true)]
async fn own_spend_limit_has_its_message_and_html_is_not_json() {
    let fake = fake();
    fake.inject(Fault::OwnSpendLimit);
    let (_, _, body) = send(&fake, false).await;
    let message = ApiError::parse(&body.unwrap()).unwrap().message;
    assert!(message.starts_with("You have reached your specified API usage limits"));
    fake.inject(Fault::NonJson(StatusCode::BAD_GATEWAY));
    let (status, headers, body) = send(&fake, false).await;
    assert_eq!(status, 502);
    assert!(!tower_claude_wire::is_json(&headers));
    assert!(body.unwrap().starts_with(b"<html>"));
}

#[tokio::test(start_paused = true)]
async fn reset_is_an_error_with_io_source() {
    let fake = fake();
    fake.inject_times(Fault::Reset, 2);
    for _ in 0..2 {
        let error = fake
            .clone()
            .oneshot(messages().body(text(true)).unwrap())
            .await
            .err()
            .unwrap();
        assert_eq!(error, FakeError::Reset);
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(send(&fake, true).await.0, 200);
    assert_eq!(
        (fake.log()[0].status, fake.log()[0].fault),
        (0, Some("reset"))
    );
}

#[tokio::test(start_paused = true)]
async fn slow_head_delays_the_response() {
    let fake = fake();
    fake.inject(Fault::SlowHead(30 * SECOND));
    let (status, _, body) = send(&fake, false).await;
    assert_eq!((status, fake.elapsed()), (200, 30 * SECOND));
    assert!(body.is_ok());
    let log = fake.log();
    assert!(log[0].completed);
    assert_eq!(
        (log[0].at, log[0].finished_at),
        (Duration::ZERO, Some(30 * SECOND))
    );
}

#[tokio::test(start_paused = true)]
async fn error_before_content_ends_the_response() {
    let fake = fake();
    fake.inject_times(Fault::ErrorBeforeContent, 2);
    assert_eq!(events(&fake).await, ["message_start", "ping", "error"]);
    let (status, headers, body) = send(&fake, false).await;
    assert_eq!(status, 529);
    assert!(!RateLimits::from_headers(&headers).is_empty());
    assert_eq!(
        ApiError::parse(&body.unwrap()).unwrap().kind,
        "overloaded_error"
    );
    for attempt in fake.log() {
        assert_eq!(attempt.error_type, Some("overloaded_error"));
        assert!(!attempt.content_sent && !attempt.broken_after_content && !attempt.completed);
        assert!(!attempt.client_gone && attempt.charged_input > 0);
    }
    assert_eq!(fake.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn error_mid_stream_ends_the_stream() {
    let fake = fake();
    fake.inject_times(Fault::ErrorMidStream { after_tokens: 5 }, 2);
    let names = [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
    ];
    assert_eq!(
        events(&fake).await,
        [&names[..], &["content_block_delta", "error"]].concat()
    );
    let (status, _, body) = send(&fake, false).await;
    assert_eq!(
        (
            status,
            ApiError::parse(&body.unwrap()).unwrap().kind.as_str()
        ),
        (500, "api_error")
    );
    let log = fake.log();
    assert_eq!((log[0].charged_output, log[1].charged_output), (5, 5));
    assert!(log[0].broken_after_content && log[0].content_sent);
    assert!(!log[1].broken_after_content && log[1].status == 500);
}

#[tokio::test(start_paused = true)]
async fn truncated_body_ends_without_message_stop() {
    let fake = fake();
    fake.inject_times(Fault::Truncated { after_tokens: 0 }, 2);
    assert_eq!(
        events(&fake).await,
        ["message_start", "content_block_start", "ping"]
    );
    let (status, _, body) = send(&fake, false).await;
    assert_eq!(status, 200);
    assert!(serde_json::from_slice::<serde_json::Value>(&body.unwrap()).is_err());
    for attempt in fake.log() {
        assert!(attempt.broken_after_content && !attempt.completed && !attempt.client_gone);
    }
    fake.inject_times(Fault::TruncatedBeforeContent, 2);
    assert_eq!(events(&fake).await, ["message_start"]);
    let (status, _, body) = send(&fake, false).await;
    assert_eq!((status, body.unwrap().len()), (200, 0));
    assert!(
        fake.log()[2..]
            .iter()
            .all(|attempt| !attempt.content_sent && !attempt.completed)
    );
    assert_eq!(fake.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn cut_body_ends_with_an_error() {
    let fake = fake();
    fake.inject_times(Fault::Cut { after_tokens: 4 }, 2);
    let names = [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "BROKEN",
    ];
    assert_eq!(events(&fake).await, names);
    assert_eq!(send(&fake, false).await.2, Err(FakeError::Cut));
    assert!(
        fake.log()
            .iter()
            .all(|attempt| attempt.broken_after_content)
    );
    assert_eq!(fake.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn stalled_body_continues_after_the_stall() {
    let fake = fake();
    let stall = Fault::Stall {
        after_tokens: 8,
        duration: 60 * SECOND,
    };
    fake.inject_times(stall, 2);
    assert_eq!(
        events(&fake).await.last().map(String::as_str),
        Some("message_stop")
    );
    assert_eq!(fake.elapsed(), 60 * SECOND);
    let (_, _, body) = send(&fake, false).await;
    assert!(serde_json::from_slice::<serde_json::Value>(&body.unwrap()).is_ok());
    assert_eq!(fake.elapsed(), 120 * SECOND);
    assert!(
        fake.log()
            .iter()
            .all(|attempt| attempt.completed && attempt.fault == Some("stall"))
    );
    // A caller that leaves during the silence.
    fake.inject(Fault::Stall {
        after_tokens: 1,
        duration: Duration::MAX,
    });
    let left = tokio::time::timeout(SECOND, events(&fake)).await;
    assert!(left.is_err());
    let log = fake.log();
    assert!(log[2].client_gone && log[2].content_sent && !log[2].broken_after_content);
    assert_eq!(fake.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn pace_after_a_stall_is_unchanged() {
    let fake = FakeClaude::builder()
        .tokens_per_second(1.0)
        .tokens_per_event(1)
        .output_tokens(10)
        .build();
    fake.inject(Fault::Stall {
        after_tokens: 4,
        duration: 60 * SECOND,
    });
    let names = events(&fake).await;
    let deltas = names.iter().filter(|name| *name == "content_block_delta");
    assert_eq!(deltas.count(), 10);
    assert_eq!(fake.elapsed().as_secs(), 60 + 9);
}

#[tokio::test(start_paused = true)]
async fn refusal_is_a_success_with_stop_reason_refusal() {
    let fake = fake();
    fake.inject(Fault::Refusal { after_tokens: 0 });
    let (status, _, body) = send(&fake, false).await;
    let message: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
    assert_eq!(
        (status, message["stop_reason"].as_str()),
        (200, Some("refusal"))
    );
    assert_eq!(message["stop_details"]["type"], "refusal");
    fake.inject(Fault::Refusal { after_tokens: 3 });
    assert_eq!(
        events(&fake).await.last().map(String::as_str),
        Some("message_stop")
    );
    assert_eq!(fake.log()[1].charged_output, 3);
}

#[tokio::test(start_paused = true)]
async fn fault_of_admitted_requests_waits_for_an_admission() {
    let fake = fake();
    fake.inject(Fault::Truncated { after_tokens: 0 });
    let wrong = messages().body(common::full("{}")).unwrap();
    assert_eq!(fake.clone().oneshot(wrong).await.unwrap().status(), 400);
    assert_eq!(fake.log()[0].fault, None);
    events(&fake).await;
    assert_eq!(fake.log()[1].fault, Some("truncated"));
}

#[tokio::test(start_paused = true)]
async fn incident_applies_to_matching_requests_in_its_window() {
    let fake = FakeClaude::builder()
        .incident(
            Incident::new(
                10 * SECOND,
                20 * SECOND,
                Fault::ErrorMidStream { after_tokens: 4 },
            )
            .with_stream_only(),
        )
        .incident(Incident::new(15 * SECOND, 25 * SECOND, Fault::Overloaded).with_probability(0.25))
        .incident(Incident::new(Duration::ZERO, SECOND, Fault::ServerError).with_group("opus-5.5"))
        .seed(3)
        .build();
    assert_eq!(send(&fake, true).await.0, 200);
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(send(&fake, false).await.0, 200);
    assert_eq!(
        events(&fake).await.last().map(String::as_str),
        Some("error")
    );
    tokio::time::advance(10 * SECOND).await;
    let mut overloaded = 0;
    for _ in 0..400 {
        overloaded += u32::from(send(&fake, true).await.0 == 529);
    }
    assert!((70..=130).contains(&overloaded), "{overloaded}");
    tokio::time::advance(5 * SECOND).await;
    assert_eq!(send(&fake, true).await.0, 200);
    let log = fake.log();
    let inside: Vec<bool> = [0, 1, 2, 3, log.len() - 1]
        .iter()
        .map(|index| log[*index].in_incident)
        .collect();
    assert_eq!(inside, [true, true, true, true, false]);
    assert_eq!(log[0].fault, None);
    assert!(fake.in_incident_at(24 * SECOND) && !fake.in_incident_at(25 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn incident_does_not_apply_to_other_endpoints() {
    let fake = FakeClaude::builder()
        .incident(Incident::new(
            Duration::ZERO,
            Duration::MAX,
            Fault::Overloaded,
        ))
        .build();
    let models = http::Request::get("/v1/models")
        .header("x-api-key", "sk-test")
        .header("anthropic-version", "2023-06-01");
    for request in [models, common::post("/v1/messages/count_tokens")] {
        let request = request.body(text(false)).unwrap();
        assert_eq!(fake.clone().oneshot(request).await.unwrap().status(), 200);
    }
    // An injected fault applies to any next request, even without a key. Its response has no
    // rate-limit headers.
    fake.inject(Fault::Overloaded);
    let request = http::Request::post("/v1/messages").body(text(false));
    let response = fake.clone().oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 529);
    assert!(RateLimits::from_headers(response.headers()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn wait_for_returns_after_a_change_of_the_log() {
    let fake = fake();
    let watcher = tokio::spawn({
        let fake = fake.clone();
        async move {
            fake.wait_for(|log| log.iter().any(|attempt| attempt.completed))
                .await;
        }
    });
    tokio::task::yield_now().await;
    assert!(!watcher.is_finished());
    events(&fake).await;
    watcher.await.unwrap();
}
