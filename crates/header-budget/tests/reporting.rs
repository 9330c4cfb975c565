//! Tests of the events: headroom, thresholds, and credentials that are not accepted.

mod common;

use common::{event_log, gauge, layer, message, send_ok, stream, with};
use tower::Layer;
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_tests::{Reply, Script};

#[tokio::test(start_paused = true)]
async fn every_response_reports_headroom() {
    let events = event_log();
    let layer = layer().with_observer(events.clone());
    let fake = FakeClaude::builder().build();
    let service = layer.layer(fake.clone());
    send_ok(&service, message(10, 10)).await;
    send_ok(&service, stream(10, 10)).await;
    fake.inject(Fault::Overloaded);
    assert_eq!(send_ok(&service, message(10, 10)).await.status, 529);
    assert_eq!(
        events.take_of("headroom"),
        [
            "header-budget headroom Some(999) true",
            "header-budget headroom Some(998) true",
            "header-budget headroom Some(998) true",
        ]
    );
    // An error has no headers.
    fake.inject(Fault::Reset);
    let _ = tower::ServiceExt::oneshot(service, message(10, 10)).await;
    assert!(events.take_of("headroom").is_empty());
}

/// The warning comes at 80 %, and again only after the level has recovered.
#[tokio::test(start_paused = true)]
async fn threshold_is_reported_once_until_recovery() {
    let levels = [50, 21, 20, 10, 5, 25, 19, 45, 18, 0];
    let said = levels.map(|left| {
        gauge(
            Reply::message(),
            "ratelimit-input-tokens",
            100_000,
            left * 1_000,
            60,
        )
    });
    let events = event_log();
    let layer = layer().with_observer(events.clone());
    let service = layer.layer(Script::new(said));
    let mut told = Vec::new();
    for left in levels {
        send_ok(&service, message(1, 1)).await;
        for line in events.take_of("threshold") {
            told.push((left, line));
        }
    }
    let told: Vec<_> = told.iter().map(|(at, line)| (*at, line.as_str())).collect();
    // 25 is not yet a recovery, 45 is.
    let expected = |left: u64| {
        (
            left,
            format!(
                "header-budget threshold input tokens {}/100000",
                left * 1_000
            ),
        )
    };
    let (first, second) = (expected(20), expected(18));
    assert_eq!(
        told,
        [(first.0, first.1.as_str()), (second.0, second.1.as_str())]
    );
}

#[tokio::test(start_paused = true)]
async fn warn_percent_moves_the_threshold() {
    let said = |left| gauge(Reply::message(), "ratelimit-requests", 100, left, 60);
    let events = event_log();
    let layer = layer().with_warn_percent(50).with_observer(events.clone());
    let service = layer.layer(Script::new([said(51), said(50), said(49)]));
    let mut told = Vec::new();
    for _ in 0..3 {
        send_ok(&service, message(1, 1)).await;
        told.push(events.take_of("threshold").len());
    }
    assert_eq!(told, [0, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn unauthorized_is_reported_once_per_credential() {
    let events = event_log();
    let layer = layer().with_observer(events.clone());
    let fake = FakeClaude::builder().api_key("key-a").build();
    let service = layer.layer(fake);
    let again = layer.layer(FakeClaude::builder().api_key("key-a").build());
    for key in ["key-x", "key-x", "key-y", "key-a", "key-y"] {
        send_ok(&service, with(message(1, 1), "x-api-key", key)).await;
        send_ok(&again, with(message(1, 1), "x-api-key", key)).await;
    }
    assert_eq!(
        events.take_of("unauthorized"),
        ["header-budget unauthorized", "header-budget unauthorized"]
    );
}

#[tokio::test(start_paused = true)]
async fn debug_output_contains_no_key() {
    let layer = layer();
    let service = layer.layer(FakeClaude::builder().build());
    send_ok(&service, with(message(1, 1), "x-api-key", "sk-secret")).await;
    let said = format!("{layer:?} {:?} {service:?}", layer.handle());
    assert!(!said.contains("sk-secret"), "{said}");
}
