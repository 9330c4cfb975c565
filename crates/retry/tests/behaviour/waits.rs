//! The waits before attempts, and the failures that are returned.

use std::{io, num::NonZeroU32, time::Duration};

use tower::{Layer, ServiceExt};
use tower_claude_core::{Kind, RejectReason, Rejection, event::Event, toolkit::PausedByLimiter};
use tower_claude_retry::RetryLayer;
use tower_claude_tests::EventLog;

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn overload_follows_schedule_then_returns_last_response() {
    let (layer, events) = layer();
    let api = Api::new((0..5).map(|_| Reply::overloaded()));
    let answer = through(&layer, &api).await;
    assert_eq!(api.arrivals(), [0, 1, 3, 7, 15]);
    assert_eq!(answer.status, 529);
    assert!(answer.text().contains("scripted"));
    assert_eq!(answer.class().kind, Kind::Overloaded);
    assert_eq!(
        events.lines(),
        [
            "retry 1 overloaded 1s",
            "retry 2 overloaded 2s",
            "retry 3 overloaded 4s",
            "retry 4 overloaded 8s",
            "gave up 5 overloaded attempts",
        ]
    );
    let snapshot = layer.handle().snapshot();
    assert_eq!((snapshot.retries, snapshot.gave_up), (4, 1));
}

/// The last attempt keeps no request to read the model from.
#[tokio::test(start_paused = true)]
async fn events_have_model() {
    let models = EventLog::new(|event| match event {
        Event::Retry { model, .. } | Event::GaveUp { model, .. } => model.map(str::to_owned),
        _ => None,
    });
    let layer = RetryLayer::new().with_observer(models.clone());
    let api = Api::new((0..5).map(|_| Reply::overloaded()));
    through(&layer, &api).await;
    assert_eq!(models.lines(), ["claude-sonnet-5-5"; 5]);
}

#[tokio::test(start_paused = true)]
async fn long_run_waits_at_most_the_cap() {
    let (layer, _) = layer();
    let layer = layer.with_max_attempts(NonZeroU32::new(9).unwrap());
    let api = Api::new((0..9).map(|_| Reply::rate_limited("0")));
    through(&layer, &api).await;
    assert_eq!(api.arrivals(), [0, 1, 3, 7, 15, 31, 63, 123, 183]);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_shortest_wait() {
    for _ in 0..50 {
        let api = Api::new([Reply::rate_limited("8"), Reply::fine()]);
        assert_eq!(through(&RetryLayer::new(), &api).await.status, 200);
        let wait = api.seen()[1].at;
        assert!(
            wait >= 8 * SECOND && wait <= 12 * SECOND + SECOND / 100,
            "{wait:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_over_maximum_returns_response() {
    let (layer, events) = layer();
    let api = Api::new([Reply::rate_limited("61")]);
    let answer = through(&layer, &api).await;
    assert_eq!((answer.status, api.elapsed()), (429, Duration::ZERO));
    assert_eq!(answer.headers["retry-after"], "61");
    assert_eq!(answer.class().retry_after, Some(61 * SECOND));
    assert_eq!(events.lines(), ["gave up 1 rate_limited retry_after"]);
    // The upper limit is one hour.
    let layer = layer.with_max_retry_after(Duration::MAX);
    let api = Api::new([Reply::rate_limited("3601")]);
    assert_eq!(through(&layer, &api).await.status, 429);
    let api = Api::new([Reply::rate_limited("3600"), Reply::fine()]);
    assert_eq!(through(&layer, &api).await.status, 200);
    assert_eq!(api.arrivals(), [0, 3600]);
}

#[tokio::test(start_paused = true)]
async fn permanent_failure_is_returned() {
    let spend = r#"{"type":"error","error":{"type":"rate_limit_error","message":"x","details":{"error_code":"enforced_spend_limit_reached"}}}"#;
    let credit = r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}"#;
    for (reply, kind) in [
        // The error code overrules the header.
        (
            Reply::json(429, spend).header("x-should-retry", "true"),
            Kind::SpendLimit,
        ),
        (Reply::json(400, credit), Kind::SpendLimit),
        (Reply::error(402, "billing_error"), Kind::SpendLimit),
        (Reply::error(400, "invalid_request_error"), Kind::BadRequest),
        (
            Reply::error(401, "authentication_error"),
            Kind::Unauthorized,
        ),
        (Reply::error(404, "not_found_error"), Kind::NotFound),
        (
            Reply::overloaded().header("x-should-retry", "false"),
            Kind::Overloaded,
        ),
    ] {
        let (layer, events) = layer();
        let api = Api::new([reply]);
        let answer = through(&layer, &api).await;
        assert_eq!(answer.class().kind, kind);
        let line = format!("gave up 1 {} not_retryable", kind.as_str());
        assert_eq!(events.lines(), [line]);
    }
}

#[tokio::test(start_paused = true)]
async fn bad_request_with_should_retry_is_retried() {
    let (layer, _) = layer();
    let bad = Reply::error(400, "invalid_request_error").header("x-should-retry", "true");
    let api = Api::new([bad, Reply::fine()]);
    assert_eq!(through(&layer, &api).await.status, 200);
    assert_eq!(api.arrivals(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn scope_paused_by_limiter_is_retried_without_wait() {
    let (layer, _) = layer();
    let paused = Reply::rate_limited("30").extension(PausedByLimiter { pause: 30 * SECOND });
    let api = Api::new([paused, Reply::fine()]);
    assert_eq!(through(&layer, &api).await.status, 200);
    assert_eq!(api.arrivals(), [0, 0]);
    let paused = Reply::rate_limited("30").extension(PausedByLimiter { pause: 90 * SECOND });
    let api = Api::new([paused]);
    assert_eq!(through(&layer, &api).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn local_rejection_is_returned() {
    let (layer, events) = layer();
    let reason = RejectReason::QueueFull {
        waiting: 3,
        limit: 3,
    };
    let refusal = Rejection::new("limiter", reason).with_retry_after(Some(SECOND));
    let refused = refusal.into_response::<Body>();
    let mut reply = Reply::rate_limited("1").header("x-tower-claude-refused-by", "limiter");
    reply = reply.extension(refusal.class());
    reply = reply.extension(*refused.extensions().get::<Rejection>().unwrap());
    let api = Api::new([reply]);
    let answer = through(&layer, &api).await;
    assert!(answer.class().local);
    assert_eq!(api.elapsed(), Duration::ZERO);
    assert!(
        events.lines().is_empty(),
        "reported by the layer that rejected it"
    );
}

#[tokio::test(start_paused = true)]
async fn service_error_is_retried_then_returned() {
    let (layer, events) = layer();
    let api = Api::new([Reply::broken(io::ErrorKind::ConnectionReset), Reply::fine()]);
    assert_eq!(through(&layer, &api).await.status, 200);
    assert_eq!(api.arrivals(), [0, 1]);
    let layer = layer.with_max_attempts(NonZeroU32::new(2).unwrap());
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    let api = Api::new(kinds.map(Reply::broken));
    let error = send(&layer.layer(api.clone()), request())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(
        events.lines().last().unwrap(),
        "gave up 2 transport attempts"
    );
}

#[tokio::test(start_paused = true)]
async fn service_timeout_is_retried_once() {
    let (layer, events) = layer();
    let api = Api::new([io::ErrorKind::TimedOut; 2].map(Reply::broken));
    let error = send(&layer.layer(api.clone()), request())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(
        events.lines().last().unwrap(),
        "gave up 2 timeout unanswered"
    );
}

#[tokio::test(start_paused = true)]
async fn failed_response_is_dropped_before_wait() {
    let (layer, _) = layer();
    let whole = Reply::overloaded();
    // Classified by the head, so the body is not read.
    let unread = Reply::overloaded().pieces([Piece::Stall]);
    let stream = Reply::stream([data(START), data(ERROR), Piece::Stall]);
    for reply in [whole, unread, stream] {
        let api = Api::new([reply, Reply::fine()]);
        let mut call = Box::pin(layer.layer(api.clone()).oneshot(request()));
        tokio::select! {
            _ = &mut call => panic!("must wait a second"),
            () = tokio::time::sleep(SECOND / 2) => {}
        }
        assert_eq!((api.seen().len(), api.alive()), (1, 0));
        let response = call.await.unwrap();
        assert_eq!(response.status(), 200);
    }
}
