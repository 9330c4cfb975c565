//! Tests of the layer alone, which admits by the learned limits and settles like a token bucket.

mod common;

use std::time::Duration;

use common::{event_log, gauge, layer, message, only, send_ok, server_limits, stream};
use http::Request;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_claude_core::{
    Deadline, Kind, RejectReason, Rejection, RequestBody, toolkit::PausedByLimiter,
};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Dimension;
use tower_claude_tests::{Reply, Script};
use tower_claude_wire::ApiError;

const LIMITS: common::PerMinute = (1_000, 100_000, 50_000);

fn fake() -> FakeClaude {
    FakeClaude::builder().limits(server_limits(LIMITS)).build()
}

fn available(layer: &common::TestLayer, dimension: Dimension) -> i64 {
    let scope = only(&layer.limiter());
    scope.dimension(dimension).expect("learned").available
}

#[tokio::test(start_paused = true)]
async fn reservation_ends_with_the_body() {
    let layer = layer();
    let service = layer.layer(fake());
    for request in [message(1_000, 400), stream(1_000, 400)] {
        let response = service.clone().oneshot(request).await.expect("an answer");
        assert_eq!(only(&layer.limiter()).in_flight, 1);
        let _ = response.into_body().collect().await.expect("a body");
        let scope = only(&layer.limiter());
        assert_eq!((scope.in_flight, scope.outstanding_output), (0, 0));
    }
    assert_eq!(only(&layer.limiter()).mean_output, Some(400.0));
    let response = service.oneshot(stream(1_000, 400)).await;
    drop(response);
    let scope = only(&layer.limiter());
    assert_eq!((scope.in_flight, scope.outstanding_output), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn counted_request_larger_than_a_learned_limit_is_rejected() {
    let layer = layer().with_estimate(|request: &Request<RequestBody>| {
        let cost = common::by_size(request);
        cost.with_counted_input(cost.input_tokens)
    });
    let fake = fake();
    let service = layer.layer(fake.clone());
    assert_eq!(send_ok(&service, message(10, 10)).await.status, 200);
    let response = send_ok(&service, message(100_001, 10)).await;
    assert_eq!(response.status, 413);
    assert_eq!(
        response.headers["x-tower-claude-refused-by"],
        "header-budget"
    );
    let refused = response.extensions.get::<Rejection>().expect("rejected");
    assert_eq!(
        refused.reason,
        RejectReason::Oversized {
            dimension: Dimension::InputTokens,
            cost: 100_001,
            limit: 100_000
        }
    );
    let text = ApiError::parse(&response.body).expect("an error").message;
    assert!(text.contains("100001 input tokens"), "{text}");
    assert_eq!(fake.log_len(), 1);
}

#[tokio::test(start_paused = true)]
async fn wait_longer_than_max_wait_is_rejected() {
    let empty = gauge(Reply::message(), "ratelimit-requests", 2, 0, 60);
    let events = event_log();
    let layer = HeaderBudgetLayer::new()
        .with_max_wait(Duration::from_secs(10))
        .with_observer(events.clone());
    let service = layer.layer(Script::always(empty));
    send_ok(&service, message(1, 1)).await;
    let start = Instant::now();
    let response = send_ok(&service, message(1, 1)).await;
    assert_eq!(response.status, 429);
    assert!(response.headers.contains_key("retry-after"));
    let mut request = message(1, 1);
    let soon = Deadline(start + Duration::from_secs(5));
    request.extensions_mut().insert(soon);
    assert_eq!(send_ok(&service, request).await.status, 504);
    assert_eq!(start.elapsed(), Duration::ZERO);
    let expected = [Kind::RateLimited, Kind::Timeout]
        .map(|kind| format!("header-budget refused {}", kind.as_str()));
    assert_eq!(events.take_of("refused"), expected);
}

#[tokio::test(start_paused = true)]
async fn rate_limit_refunds_and_pauses() {
    let layer = layer();
    let fake = fake();
    let service = layer.layer(fake.clone());
    send_ok(&service, message(1_000, 10)).await;
    let before = available(&layer, Dimension::InputTokens);
    let retry_after = Duration::from_secs(4);
    fake.inject(Fault::RateLimited { retry_after });
    let response = send_ok(&service, message(50_000, 10)).await;
    assert_eq!(response.status, 429);
    let paced = response
        .extensions
        .get::<PausedByLimiter>()
        .expect("PausedByLimiter")
        .pause;
    assert!(paced >= retry_after && paced <= retry_after * 3 / 2);
    assert_eq!(available(&layer, Dimension::InputTokens), before);
    let start = Instant::now();
    assert_eq!(send_ok(&service, message(1_000, 10)).await.status, 200);
    assert!(start.elapsed() >= paced);
}

/// A spend limit is independent of the rate.
#[tokio::test(start_paused = true)]
async fn spend_limit_does_not_pause() {
    let layer = layer();
    let fake = fake();
    fake.inject(Fault::SpendCap);
    let service = layer.layer(fake);
    let start = Instant::now();
    let response = send_ok(&service, message(1_000, 10)).await;
    assert_eq!(response.status, 429);
    assert!(response.extensions.get::<PausedByLimiter>().is_none());
    assert_eq!(send_ok(&service, message(1_000, 10)).await.status, 200);
    assert_eq!(start.elapsed(), Duration::ZERO);
}
