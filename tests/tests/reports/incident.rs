//! Incidents as an engineer on call sees them: the log at `INFO` alone says why a call was slow,
//! and what became of the calls that were lost.
//!
//! `cargo test -p tower-claude-tests --test reports incident -- --nocapture --test-threads 1`
//! prints the logs.

use std::{collections::BTreeMap, time::Duration};

use http::{Request, Response};
use http_body::Body;
use tokio::time::sleep;
use tower::Service;
use tower_claude::recommended;
use tower_claude_core::{BoxError, RequestBody};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident};
use tower_claude_retry::RetryLayer;
use tower_claude_tests::{HAIKU, LogLines};
use tower_layer::Layer;
use tracing::Level;

use crate::{
    common::{SECOND, SONNET, request, send, with},
    stacks::client,
};

/// Sends `calls` requests, one in each `pause`, and drops those that take longer than 30 s. Returns
/// the number of each result: the status, or 0 for an error or a dropped call.
async fn send_all<S, B>(service: &S, calls: u32, pause: Duration) -> BTreeMap<u16, usize>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = BoxError> + Clone,
    B: Body<Data = bytes::Bytes> + Unpin,
{
    let patience = 30 * SECOND;
    let calls = (0..calls).map(|number| async move {
        sleep(number * pause).await;
        let call = send(service, request(SONNET, true));
        match tokio::time::timeout(patience, call).await {
            Ok(Ok(seen)) => seen.status,
            _ => 0,
        }
    });
    let mut results = BTreeMap::new();
    for status in futures_util::future::join_all(calls).await {
        *results.entry(status).or_default() += 1;
    }
    results
}

/// Returns the lines that contain all of these texts.
fn lines_with<'a>(lines: &'a [String], texts: &[&str]) -> Vec<&'a String> {
    let has_all = |line: &&String| texts.iter().all(|text| line.contains(text));
    lines.iter().filter(has_all).collect()
}

fn print(name: &str, results: &BTreeMap<u16, usize>, lines: &[String]) {
    println!("\n== {name}: {results:?}");
    for line in lines {
        println!("{line}");
    }
}

const ENDED: &str = "decision=\"call_ended\"";

#[tokio::test(start_paused = true)]
async fn storm_of_429s_explains_slow_and_lost_calls() {
    let limits = GroupLimits::unlimited().with_requests_per_minute(60);
    let fault = Fault::RateLimited {
        retry_after: 2 * SECOND,
    };
    let storm = Incident::new(10 * SECOND, 11 * SECOND, fault);
    let fake = FakeClaude::builder().limits(limits).incident(storm).build();
    let (log, _guard) = LogLines::start(Level::INFO);
    let service = recommended().layer(client(&fake));
    let results = send_all(&service, 150, SECOND / 3).await;
    let lines = log.take();
    print("429 storm", &results, &lines);

    let lost = results.get(&0).copied().unwrap_or_default();
    assert!(lost > 5, "{results:?}");
    // Each lost call left the queue, and ended when its caller dropped it.
    let dropped = lines_with(&lines, &[ENDED, "ending=\"dropped\"", "duration_ms=30000"]);
    assert_eq!(dropped.len(), lost);
    let left = lines_with(&lines, &["decision=\"abandoned\"", "because=\"dropped\""]);
    assert_eq!(left.len(), lost);
    // A call that was answered after a wait of 12 s.
    let slow = lines_with(&lines, &[ENDED, "ending=\"answered\"", ", waited 12."]);
    assert!(!slow.is_empty());
    let admitted = lines_with(&lines, &["decision=\"admitted\"", "admitted after 12."]);
    assert!(!admitted.is_empty());
    // Few warnings, however many calls there are.
    assert!(lines_with(&lines, &["WARN"]).len() <= 6);
}

#[tokio::test(start_paused = true)]
async fn outage_explains_lost_calls() {
    let limits = GroupLimits::unlimited();
    let outage = Incident::new(10 * SECOND, 100 * SECOND, Fault::Overloaded);
    let fake = FakeClaude::builder()
        .limits(limits)
        .incident(outage)
        .build();
    let (log, _guard) = LogLines::start(Level::INFO);
    let service = recommended().layer(client(&fake));
    let results = send_all(&service, 60, SECOND).await;
    let lines = log.take();
    print("outage", &results, &lines);

    let lost: usize = results
        .iter()
        .filter(|(status, _)| **status != 200)
        .map(|(_, n)| n)
        .sum();
    assert!(lost > 30, "{results:?}");
    let failed = lines_with(&lines, &[ENDED, "ending=\"failed\""]);
    assert_eq!(failed.len(), lost);
    for line in failed {
        let by_breaker = line.contains("refused_by=\"circuit-breaker\" because=\"circuit_open\"");
        let by_server = line.contains("class=\"overloaded\"") && line.contains("request_id=\"req_");
        assert!(by_breaker || by_server, "{line}");
    }
    for decision in ["gave_up", "refused", "circuit_opened"] {
        let decision = format!("decision=\"{decision}\"");
        assert_eq!(
            lines_with(&lines, &["WARN", &decision]).len(),
            1,
            "{decision}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn outage_of_one_model_shows_which_model_answered() {
    let limits = GroupLimits::unlimited();
    let outage = Incident::new(Duration::ZERO, 100 * SECOND, Fault::Overloaded);
    let outage = outage.with_group("sonnet-5.5");
    let fake = FakeClaude::builder()
        .limits(limits)
        .incident(outage)
        .build();
    let (log, _guard) = LogLines::start(Level::INFO);
    let service = recommended().with_fallback([HAIKU]).layer(client(&fake));
    let results = send_all(&service, 20, SECOND).await;
    let lines = log.take();
    print("outage with a stand-in", &results, &lines);

    assert_eq!(results.into_iter().collect::<Vec<_>>(), [(200, 20)]);
    let model = format!("model={HAIKU:?} asked={SONNET:?}");
    assert_eq!(lines_with(&lines, &[ENDED, &model]).len(), 20);
    assert_eq!(
        lines_with(&lines, &["WARN", "decision=\"fell_back\""]).len(),
        1
    );
    assert!(lines_with(&lines, &["WARN"]).len() <= 4, "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn revoked_key_is_one_error_with_its_tag() {
    let limits = GroupLimits::unlimited();
    let fake = FakeClaude::builder()
        .limits(limits)
        .api_key("another")
        .build();
    let (log, _guard) = LogLines::start(Level::INFO);
    let service = recommended().layer(client(&fake));
    let results = send_all(&service, 5, SECOND).await;
    let lines = log.take();
    print("revoked key", &results, &lines);

    assert_eq!(results.into_iter().collect::<Vec<_>>(), [(401, 5)]);
    let errors = lines_with(
        &lines,
        &["ERROR", "decision=\"unauthorized\"", "credential=\""],
    );
    assert_eq!(errors.len(), 1);
    assert_eq!(
        lines_with(&lines, &[ENDED, "class=\"unauthorized\""]).len(),
        5
    );
}

#[tokio::test(start_paused = true)]
async fn slow_minutes_and_lost_connections_are_explained() {
    let limits = GroupLimits::unlimited();
    let slow = Incident::new(Duration::ZERO, 5 * SECOND, Fault::SlowHead(12 * SECOND));
    let reset = Incident::new(5 * SECOND, 100 * SECOND, Fault::Reset);
    let fake = FakeClaude::builder()
        .limits(limits)
        .incident(slow)
        .incident(reset)
        .build();
    let (log, _guard) = LogLines::start(Level::INFO);
    let once = RetryLayer::new().with_max_attempts(2.try_into().expect("not zero"));
    let service = recommended().with_retry(once).layer(client(&fake));
    let results = send_all(&service, 8, SECOND).await;
    let lines = log.take();
    print("slow minutes, then resets", &results, &lines);

    let slow = lines_with(
        &lines,
        &[ENDED, "answered after 1", "wait_ms=0", "first_content_ms=1"],
    );
    assert_eq!(slow.len(), 5);
    let lost = lines_with(
        &lines,
        &[ENDED, "ending=\"failed\"", "cause=\"connection reset"],
    );
    assert_eq!(lost.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn log_has_no_prompt_and_no_key() {
    let (log, _guard) = LogLines::start(Level::TRACE);
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build();
    for fault in [Fault::Overloaded, Fault::OwnSpendLimit, Fault::Reset] {
        fake.inject(fault);
        let service = recommended().layer(client(&fake));
        let request = with(request(SONNET, true), "x-api-key", "key-of-the-vault");
        let _ = send(&service, request).await;
    }
    for line in log.take() {
        assert!(
            !line.contains("key-of-the-vault") && !line.contains("\"Hi\""),
            "{line}"
        );
    }
}
