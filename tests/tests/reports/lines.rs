//! The lines of the log: their levels, and the texts of others in them.

use http::{HeaderName, HeaderValue, StatusCode};
use tower_claude::recommended;
use tower_claude_core::{
    Dimension, Kind, Scope,
    event::{Event, EventSink, credential_tag, emit},
    toolkit::LimitWarning,
};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_retry::RetryLayer;
use tower_claude_tests::{
    LogLines,
    api::{Api, Reply},
};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;
use tracing::Level;

use crate::{
    common::{SECOND, SONNET, quiet, request, rpm, send, with},
    stacks::client,
};

/// A name that would begin a line of its own, color it and hide the rest.
const FORGED: &str = r"x\nERROR forged\r\u001b[31mred\u0007\u0085\u2028\u202ebidi\u200b\ufeff";

fn assert_escaped(lines: &[String]) {
    assert!(!lines.is_empty());
    for line in lines {
        let is_unsafe = |char: char| {
            char.is_control() || "\u{2028}\u{2029}\u{202E}\u{200B}\u{FEFF}".contains(char)
        };
        assert!(!line.contains(is_unsafe), "{line:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn name_of_a_model_can_neither_begin_a_line_nor_control_a_terminal() {
    let (log, _guard) = LogLines::start(Level::TRACE);
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .accept_unknown_models(true)
        .build();
    let bucket = TokenBucketLayer::new(rpm(1)).with_max_wait(100 * SECOND);
    let service = recommended().with_bucket(bucket).layer(client(&fake));
    fake.inject_times(Fault::Overloaded, 5);
    for _ in 0..3 {
        let call = send(&service, request(FORGED, true));
        let _ = tokio::time::timeout(200 * SECOND, call).await;
    }
    let call = send(&service, request(FORGED, true));
    let _ = tokio::time::timeout(SECOND, call).await;
    let lines = log.take();
    assert_escaped(&lines);
    for decision in [
        "admitted",
        "queued",
        "retry",
        "attempt_ended",
        "call_ended",
        "abandoned",
    ] {
        let of = format!("decision=\"{decision}\"");
        let found = lines.iter().filter(|line| line.contains(&of));
        assert!(
            found.clone().count() > 0 && found.clone().all(|line| line.contains("forged")),
            "{decision}: {lines:#?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn fallback_from_a_forged_name_is_one_escaped_line() {
    let (log, _guard) = LogLines::start(Level::TRACE);
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .accept_unknown_models(true)
        .build();
    let service = recommended().with_fallback([SONNET]).layer(client(&fake));
    // Works once, so that the layer knows the name.
    send(&service, request(FORGED, true))
        .await
        .expect("an answer");
    fake.inject(Fault::SpendCap);
    fake.inject_times(Fault::Overloaded, 9);
    let _ = send(&service, request(FORGED, true)).await;
    assert_escaped(&log.take());
}

#[tokio::test(start_paused = true)]
async fn ids_and_errors_of_a_server_are_escaped_and_not_quoted() {
    let (log, _guard) = LogLines::start(Level::TRACE);
    let fake = quiet();
    let id = HeaderValue::from_bytes(b"req_\xff\xfe\x9b31m\ttab").expect("a header value");
    fake.inject(Fault::Custom {
        status: StatusCode::BAD_REQUEST,
        headers: vec![(HeaderName::from_static("request-id"), id)],
        body: r#"{"type":"error","error":{"type":"evil\n\u001b[1m","message":"key sk-ant-1\nERROR forged"}}"#
            .into(),
    });
    let service = recommended().layer(client(&fake));
    let seen = send(&service, request(SONNET, false)).await.expect("a 400");
    assert_eq!(seen.status, 400);
    let lines = log.take();
    assert_escaped(&lines);
    for secret in ["sk-ant-1", "forged", "evil", "key-a"] {
        assert!(
            lines.iter().all(|line| !line.contains(secret)),
            "{lines:#?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn named_scope_of_a_header_is_escaped() {
    let (log, _guard) = LogLines::start(Level::TRACE);
    let bucket = TokenBucketLayer::new(rpm(1))
        .with_max_wait(SECOND)
        .with_scope(|_| Scope::named("tenant\n\u{1b}[2J\" decision=\"forged"));
    let service = recommended().with_bucket(bucket).layer(client(&quiet()));
    for _ in 0..2 {
        send(&service, request(SONNET, false))
            .await
            .expect("an answer");
    }
    let lines = log.take();
    assert_escaped(&lines);
    // The quotes are escaped by the format of the text.
    assert!(
        lines
            .iter()
            .all(|line| !line.contains(" decision=\"forged")),
        "{lines:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn long_name_is_cut() {
    let (log, _guard) = LogLines::start(Level::INFO);
    let name = "é".repeat(500);
    let service = RetryLayer::new().layer(Api::new([Reply::error(400, "invalid_request_error")]));
    send(&service, request(&name, false)).await.expect("a 400");
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("é…\""), "{lines:?}");
    assert!(lines[0].len() < 1_000, "{lines:?}");
}

/// Returns the lines at `INFO`, each from its level on.
fn levels(lines: &[String]) -> Vec<String> {
    let field = |line: &str, name: &str| {
        let start = line.find(&format!(" {name}=\""))? + name.len() + 3;
        Some(
            line[start..]
                .split('"')
                .next()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let line = |line: &String| {
        let level = line.split_whitespace().nth(1).unwrap_or_default();
        format!("{level} {}", field(line, "decision").unwrap_or_default())
    };
    lines.iter().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn ordinary_call_logs_nothing_at_info() {
    let (log, _guard) = LogLines::start(Level::INFO);
    let service = recommended().layer(client(&quiet()));
    for stream in [false, true] {
        send(&service, request(SONNET, stream))
            .await
            .expect("an answer");
    }
    assert_eq!(log.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn slow_call_logs_its_end_at_info() {
    let (log, _guard) = LogLines::start(Level::INFO);
    let fake = quiet();
    fake.inject(Fault::SlowHead(12 * SECOND));
    let service = recommended().layer(client(&fake));
    send(&service, request(SONNET, true))
        .await
        .expect("an answer");
    let lines = log.take();
    assert_eq!(levels(&lines), ["INFO call_ended"], "{lines:?}");
    assert!(lines[0].contains("INFO  answered after 1"), "{lines:?}");
    assert!(lines[0].contains(" first_content_ms=1"), "{lines:?}");
    assert!(!lines[0].contains(" class="), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn call_that_fell_back_logs_the_reason_at_its_end() {
    let (log, _guard) = LogLines::start(Level::INFO);
    let fake = quiet();
    let once = RetryLayer::new().with_max_attempts(1.try_into().expect("not zero"));
    let stack = recommended().with_fallback(["claude-haiku-5-5"]);
    let service = stack.with_retry(once).layer(client(&fake));
    fake.inject_times(Fault::Overloaded, 1);
    send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    fake.inject_times(Fault::RateLimitedBare, 1);
    send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    let lines = log.take();
    let ends = lines
        .iter()
        .filter(|line| line.contains("decision=\"call_ended\""));
    let ends: Vec<_> = ends.collect();
    for (end, kind) in ends.iter().zip(["overloaded", "rate_limited"]) {
        assert!(end.contains(&format!(", fell back ({kind})")), "{end}");
        assert!(end.contains(&format!(" fallback=\"{kind}\"")), "{end}");
    }
    assert_eq!(ends.len(), 2, "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn threshold_warns_once_for_each_pool_and_dimension() {
    let (log, _guard) = LogLines::start(Level::DEBUG);
    let sink = EventSink::default();
    let pools = ["a", "b"].map(Scope::named);
    for remaining in [20, 13] {
        for scope in &pools {
            for dimension in [Dimension::Requests, Dimension::InputTokens] {
                let crossing = LimitWarning::new(dimension, remaining, 100);
                let layer = "header-budget";
                emit(
                    &sink,
                    &Event::Threshold {
                        layer,
                        scope,
                        crossing,
                    },
                );
            }
        }
    }
    let levels = levels(&log.take());
    assert_eq!(levels[..4], ["WARN threshold"; 4]);
    assert_eq!(levels[4..], ["DEBUG threshold"; 4]);
}

#[tokio::test(start_paused = true)]
async fn circuit_of_another_service_names_its_host() {
    let (log, _guard) = LogLines::start(Level::INFO);
    let mut scope = Scope::named("");
    scope.host = "prices.example".into();
    emit(
        &EventSink::default(),
        &Event::CircuitOpened {
            layer: "circuit-breaker",
            scope: &scope,
            because: Kind::ServerError,
            cool_down: SECOND,
            opens: 1,
        },
    );
    let lines = log.take();
    assert!(
        lines[0].contains(r#" scope="other at prices.example""#),
        "{lines:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn configured_name_with_a_space_forges_no_field() {
    let (log, _guard) = LogLines::start(Level::INFO);
    recommended()
        .with_fallback(["x decision=forged"])
        .layer(client(&quiet()));
    let lines = log.take();
    assert!(
        lines[0].contains(r#" model="x decision=forged""#),
        "{lines:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn incident_warns_once_and_each_lost_call_has_a_line_at_info() {
    let (log, _guard) = LogLines::start(Level::INFO);
    let fake = quiet();
    fake.inject_times(Fault::Overloaded, 1_000);
    let once = RetryLayer::new().with_max_attempts(1.try_into().expect("not zero"));
    let service = recommended().with_retry(once).layer(client(&fake));
    for _ in 0..50 {
        let seen = send(&service, request(SONNET, false)).await.expect("a 529");
        assert_eq!(seen.status, 529);
    }
    let lines = levels(&log.take());
    let count = |line: &str| lines.iter().filter(|found| *found == line).count();
    assert_eq!(count("INFO call_ended"), 50, "{lines:?}");
    for decision in ["gave_up", "refused", "circuit_opened"] {
        assert_eq!(count(&format!("WARN {decision}")), 1, "{lines:?}");
    }
    assert_eq!(lines.len(), 53, "{lines:?}");
    // After a quiet minute it is another incident.
    tokio::time::advance(600 * SECOND).await;
    send(&service, request(SONNET, false)).await.expect("a 529");
    let lines = levels(&log.take());
    assert!(lines.contains(&"WARN gave_up".to_owned()), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn errors_of_requests_do_not_warn() {
    let (log, _guard) = LogLines::start(Level::INFO);
    let replies = [400, 404, 413, 422, 409].map(|status| Reply::error(status, "an_error"));
    let once = RetryLayer::new().with_max_attempts(1.try_into().expect("not zero"));
    let service = recommended()
        .with_retry(once)
        .with_fallback(["claude-haiku-5-5"]);
    let service = service.layer(Api::new(replies));
    for _ in 0..5 {
        send(&service, request(SONNET, false))
            .await
            .expect("an error");
    }
    let lines = levels(&log.take());
    assert_eq!(lines, ["INFO call_ended"; 5]);
}

#[tokio::test(start_paused = true)]
async fn long_wait_logs_one_line_at_info() {
    let (log, _guard) = LogLines::start(Level::INFO);
    let bucket = TokenBucketLayer::new(rpm(1)).with_max_wait(100 * SECOND);
    let service = recommended().with_bucket(bucket).layer(client(&quiet()));
    for _ in 0..2 {
        send(&service, request(SONNET, false))
            .await
            .expect("an answer");
    }
    let lines = log.take();
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| !line.contains("WARN"))
        .cloned()
        .collect();
    assert_eq!(
        levels(&lines),
        ["INFO admitted", "INFO call_ended"],
        "{lines:?}"
    );
    assert!(lines[1].contains(", waited "), "{lines:?}");
    assert!(!lines[1].contains("{"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn line_names_the_credential_by_its_tag() {
    let (log, _guard) = LogLines::start(Level::ERROR);
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .api_key("another")
        .build();
    let service = recommended().layer(client(&fake));
    let request = with(request(SONNET, false), "x-api-key", "revoked");
    let tag = credential_tag(Scope::credential_of(&request)).expect("a credential");
    send(&service, request).await.expect("a 401");
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(&format!(" credential={tag:?}")),
        "{lines:?}"
    );
    assert!(lines[0].contains(" request_id=\"req_"), "{lines:?}");
    assert!(!lines[0].contains("revoked"), "{lines:?}");
}
