//! Tests of pauses after a 429.

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    event_log, layer, left, message, only, over, send_all, send_ok, statuses, stream, with,
};
use http::header::RETRY_AFTER;
use tokio::time::Instant;
use tower::Layer;
use tower_claude_core::{
    Call, Class, HttpClassify, Kind, Reach, RejectReason, Rejection, toolkit::PausedByLimiter,
};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_tests::{Reply, Script};
use tower_claude_wire::ApiError;

const LIMITS: common::PerMinute = (1_000, 100_000, 50_000);
const SEVEN: Duration = Duration::from_secs(7);

fn limited_for(retry_after: Duration) -> (FakeClaude, Fault) {
    let fake = FakeClaude::builder().build();
    let fault = Fault::RateLimited { retry_after };
    fake.inject(fault.clone());
    (fake, fault)
}

#[tokio::test(start_paused = true)]
async fn rate_limit_with_retry_after_pauses_the_scope() {
    let events = event_log();
    let (fake, _) = limited_for(SEVEN);
    let layer = layer(LIMITS).with_observer(events.clone());
    let service = over(&layer, &fake);
    let start = Instant::now();
    let response = send_ok(&service, message(4_000, 900)).await;
    assert_eq!(response.status, 429);
    assert_eq!(response.headers["retry-after"], "7");
    let paced = *response
        .extensions
        .get::<PausedByLimiter>()
        .expect("PausedByLimiter");
    assert!(paced.pause >= SEVEN, "{paced:?}");
    assert!(paced.pause <= SEVEN * 3 / 2, "{paced:?}");
    assert_eq!(only(&layer.limiter()).paused_for, paced.pause);
    assert_eq!(left(&layer.limiter()), [1_000, 100_000, 50_000], "refunded");
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "the 429 itself is not held"
    );
    assert_eq!(
        events.take(),
        [
            "token-bucket admitted messages/sonnet-5.5",
            "token-bucket paused messages/sonnet-5.5"
        ]
    );
    // All requests wait for the same pause.
    let got = send_all(&service, vec![message(100, 10), stream(100, 10)]).await;
    assert_eq!(got, [200, 200]);
    let waited = start.elapsed();
    assert!(waited >= paced.pause, "{waited:?}");
    assert!(
        waited <= paced.pause + Duration::from_millis(10),
        "{waited:?}"
    );
    assert!(only(&layer.limiter()).paused_for.is_zero());
}

#[tokio::test(start_paused = true)]
async fn rate_limit_without_headers_pauses_longer_each_time() {
    let fake = FakeClaude::builder().build();
    fake.inject_times(Fault::RateLimitedBare, 3);
    let layer = layer(LIMITS);
    let service = over(&layer, &fake);
    let mut pauses = Vec::new();
    for _ in 0..3 {
        let response = send_ok(&service, message(100, 10)).await;
        assert_eq!(response.status, 429);
        pauses.push(
            response
                .extensions
                .get::<PausedByLimiter>()
                .expect("PausedByLimiter")
                .pause,
        );
    }
    assert!(pauses[0] >= Duration::from_secs(1), "{pauses:?}");
    assert!(
        pauses[2] >= Duration::from_secs(4),
        "each is longer: {pauses:?}"
    );
    assert_eq!(send_ok(&service, message(100, 10)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn ramp_limit_pauses_the_scope() {
    let fake = FakeClaude::builder().build();
    fake.inject(Fault::Ramp { retry_after: SEVEN });
    let layer = layer(LIMITS);
    let response = send_ok(&over(&layer, &fake), message(100, 10)).await;
    assert_eq!(response.status, 429);
    assert!(only(&layer.limiter()).paused_for >= SEVEN);
}

/// Waiting does not lift a spend limit.
#[tokio::test(start_paused = true)]
async fn spend_limit_does_not_pause() {
    for fault in [Fault::SpendCap, Fault::OwnSpendLimit] {
        let fake = FakeClaude::builder().build();
        fake.inject(fault.clone());
        let layer = layer(LIMITS);
        let service = over(&layer, &fake);
        let start = Instant::now();
        let response = send_ok(&service, message(4_000, 900)).await;
        assert!((400..500).contains(&response.status));
        assert!(
            response.extensions.get::<PausedByLimiter>().is_none(),
            "{fault:?}"
        );
        assert!(only(&layer.limiter()).paused_for.is_zero(), "{fault:?}");
        assert_eq!(
            left(&layer.limiter()),
            [1_000, 100_000, 50_000],
            "{fault:?}"
        );
        assert_eq!(send_ok(&service, message(4_000, 900)).await.status, 200);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

/// The outer layers need not read the error body again.
#[tokio::test(start_paused = true)]
async fn error_response_carries_its_class() {
    for (fault, kind) in [
        (Fault::SpendCap, Kind::SpendLimit),
        (Fault::OwnSpendLimit, Kind::SpendLimit),
        (Fault::Ramp { retry_after: SEVEN }, Kind::RampLimited),
        (Fault::RateLimited { retry_after: SEVEN }, Kind::RateLimited),
    ] {
        let fake = FakeClaude::builder().build();
        fake.inject(fault.clone());
        let response = send_ok(&over(&layer(LIMITS), &fake), message(100, 10)).await;
        let class = response.extensions.get::<Class>().expect("a class");
        assert_eq!(class.kind, kind, "{fault:?}");
        assert!(!class.local);
        let error = ApiError::parse(&response.body).expect("the whole body");
        let code = fake.with_log(|log| log[0].error_code);
        assert_eq!(error.error_code.as_deref(), code);
    }
}

/// The next attempt of the call is admitted before requests that arrived later.
#[tokio::test(start_paused = true)]
async fn rejected_request_keeps_its_queue_position() {
    let (fake, _) = limited_for(SEVEN);
    let layer = layer(LIMITS);
    let service = over(&layer, &fake);
    let context = Arc::new(Call::new(&http::Extensions::new(), Instant::now()));
    let attempt = || {
        let mut request = with(message(100, 10), "x-fake-tag", "first");
        context.begin_attempt();
        request.extensions_mut().insert(context.clone());
        request
    };
    assert_eq!(send_ok(&service, attempt()).await.status, 429);
    tokio::time::advance(Duration::from_secs(1)).await;
    let others: Vec<_> = (0..3)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send_ok(&service, message(100, 10)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(only(&layer.limiter()).queued, 3);
    assert_eq!(send_ok(&service, attempt()).await.status, 200);
    for other in others {
        assert_eq!(other.await.expect("no panic").status, 200);
    }
    let tags = fake.with_log(|log| log.iter().map(|a| a.tag.clone()).collect::<Vec<_>>());
    assert_eq!(tags.len(), 5);
    assert_eq!(tags[1].as_deref(), Some("first"));
    assert_eq!(statuses(&fake), [429, 200, 200, 200, 200]);
}

/// Ten requests in flight are rejected together, which is one pause.
#[tokio::test(start_paused = true)]
async fn concurrent_rate_limits_are_one_pause() {
    let limited = Reply::claude_error(429, "rate_limit_error").header(RETRY_AFTER, "7");
    let layer = layer(LIMITS);
    let service = layer.layer(Script::always(limited).together(10));
    let start = Instant::now();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send_ok(&service, message(100, 10)).await })
        })
        .collect();
    for call in calls {
        let response = call.await.expect("no panic");
        assert!(response.extensions.get::<PausedByLimiter>().is_some());
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    let service = layer.layer(Script::always(Reply::message()));
    assert_eq!(send_ok(&service, message(100, 10)).await.status, 200);
    assert!(start.elapsed() >= SEVEN);
    assert!(start.elapsed() <= SEVEN * 3 / 2 + Duration::from_millis(10));
    assert_eq!(only(&layer.limiter()).in_flight, 0);
}

/// The request is rejected at once, and not sent into the next 429.
#[tokio::test(start_paused = true)]
async fn pause_longer_than_max_wait_rejects_at_once() {
    let (fake, _) = limited_for(Duration::from_secs(600));
    let layer = layer(LIMITS).with_max_wait(Duration::from_secs(60));
    let service = over(&layer, &fake);
    send_ok(&service, message(100, 10)).await;
    let start = Instant::now();
    let refused = send_ok(&service, message(100, 10)).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers["x-tower-claude-refused-by"], "token-bucket");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(fake.log_len(), 1);
}

/// A rejection by an inner layer is no rate limit of the server, even under a custom classifier.
#[tokio::test(start_paused = true)]
async fn local_rejection_does_not_pause() {
    let reason = RejectReason::QueueFull {
        waiting: 1,
        limit: 1,
    };
    let refusal = Rejection::new("inner-layer", reason).with_retry_after(Some(SEVEN));
    let script = Script::always(Reply::refusal(refusal));
    let (plain, own) = (
        layer(LIMITS),
        layer(LIMITS).with_classifier(HttpClassify::default()),
    );
    assert_eq!(
        send_ok(&plain.layer(script.clone()), message(1, 1))
            .await
            .status,
        429
    );
    assert_eq!(send_ok(&own.layer(script), message(1, 1)).await.status, 429);
    for limiter in [plain.limiter(), own.limiter()] {
        assert_eq!(only(&limiter).paused_for, Duration::ZERO);
        assert_eq!(left(&limiter), [1_000, 100_000, 50_000]);
    }
}

/// A 429 that concerns only its own request, like one for credits that a feature needs.
#[tokio::test(start_paused = true)]
async fn rate_limit_that_reaches_only_its_request_pauses_nothing() {
    let class = Class::new(Kind::RateLimited)
        .with_retry_after(Some(SEVEN))
        .with_reach(Reach::Request);
    let rejected = Reply::claude_error(429, "rate_limit_error")
        .header(RETRY_AFTER, "7")
        .extension(class);
    let script = Script::new([rejected, Reply::message()]);
    let layer = layer(LIMITS);
    let service = layer.layer(script);
    let response = send_ok(&service, message(4_000, 900)).await;
    assert_eq!(response.status, 429);
    assert!(response.extensions.get::<PausedByLimiter>().is_none());
    assert!(only(&layer.limiter()).paused_for.is_zero());
    let start = Instant::now();
    assert_eq!(send_ok(&service, message(100, 10)).await.status, 200);
    assert_eq!(start.elapsed(), Duration::ZERO);
}
