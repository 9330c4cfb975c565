//! Tests of rejections: requests that cannot be sent in time, or never.

mod common;

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use common::{HOUR, layer, layer_with, left, message, only, over, send_ok, stream};
use http::Request;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_claude_core::{Cost, Deadline, Kind, REJECTED_BY, RejectReason, Rejection, RequestBody};
use tower_claude_fake_claude::{FakeClaude, GroupLimits};
use tower_claude_limiter::{Dimension, Limiter, LimiterConfig, Limits, LocalLimiter};
use tower_claude_tests::{BASE, Received, Reply, Script, post};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_claude_wire::ApiError;

fn fake() -> FakeClaude {
    FakeClaude::builder().build()
}

/// Returns the rejection, after checking that all of its forms agree.
fn refused<E>(response: &Received<E>, status: u16, kind: &str) -> Rejection {
    assert_eq!(response.status, status);
    assert_eq!(response.headers[REJECTED_BY], "token-bucket");
    assert_eq!(response.headers["content-type"], "application/json");
    let refused = response.rejected().expect("rejected");
    assert_eq!(refused.by, "token-bucket");
    assert!(refused.class().local);
    let class = response.class();
    assert_eq!(class, refused.class(), "outer layers reuse the class");
    let error = ApiError::parse(&response.body).expect("Claude's error shape");
    assert_eq!(error.kind, kind);
    let seconds = response
        .headers
        .get("retry-after")
        .map(|value| value.to_str().expect("text").parse::<u64>());
    let rounded_up = |wait: Duration| wait.as_nanos().div_ceil(1_000_000_000) as u64;
    assert_eq!(
        seconds,
        refused.retry_after.map(|wait| Ok(rounded_up(wait)))
    );
    refused
}

fn text<E>(response: &Received<E>) -> String {
    ApiError::parse(&response.body).expect("an error").message
}

#[tokio::test(start_paused = true)]
async fn counted_request_larger_than_a_limit_is_rejected_with_413() {
    let script = Script::always(Reply::message());
    for (request, dimension, cost, limit) in [
        (message(5_001, 10), Dimension::InputTokens, 5_001, 5_000),
        (stream(9_999, 10), Dimension::InputTokens, 9_999, 5_000),
    ] {
        let layer = layer((10, 5_000, 800)).with_estimate(counted);
        let response = send_ok(&layer.layer(script.clone()), request).await;
        let refused = refused(&response, 413, "request_too_large");
        let oversized = RejectReason::Oversized {
            dimension,
            cost,
            limit,
        };
        assert_eq!(refused.reason, oversized);
        assert_eq!(refused.class().kind, Kind::TooLarge);
        assert_eq!(response.headers["x-should-retry"], "false");
        let text = text(&response);
        for part in [&cost.to_string(), &limit.to_string(), dimension.as_str()] {
            assert!(text.contains(part), "{part} is missing in {text:?}");
        }
        assert_eq!(left(&layer.limiter()), [10, 5_000, 800], "it costs nothing");
    }
    assert_eq!(script.calls(), 0);
}

/// Returns the cost of a request, with input that was counted.
fn counted(request: &Request<RequestBody>) -> Cost {
    let cost = common::by_size(request);
    cost.with_counted_input(cost.input_tokens)
}

/// The prompt has about 20,700 tokens, and its estimate is over the limit.
#[tokio::test(start_paused = true)]
async fn estimate_larger_than_a_limit_is_sent() {
    let prompt = "In the quiet harbour the morning light fell across the water, and the old ferry \
                  waited. "
        .repeat(1_270);
    let body = format!(
        r#"{{"model":"claude-sonnet-4-6","max_tokens":64,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    );
    let limit = |n| NonZeroU64::new(n).expect("not 0");
    let lanes = [
        Limits::new().with_input_tokens_per_minute(limit(30_000)),
        Limits::new().with_total_tokens_per_minute(limit(30_000)),
        Limits::new().with_tokens_per_day(limit(30_000)),
        Limits::new().with_additional(Limits::new().with_input_tokens_per_minute(limit(30_000))),
    ];
    for limits in lanes {
        let script = Script::always(Reply::message());
        let layer = TokenBucketLayer::new(limits);
        let request: Request<RequestBody> = post(BASE, body.clone());
        let response = send_ok(&layer.layer(script.clone()), request).await;
        assert_eq!((response.status, script.calls()), (200, 1));
    }
}

/// Expected output is a guess, and the API counts output only as it is produced.
#[tokio::test(start_paused = true)]
async fn large_expected_output_is_not_rejected() {
    let fake = FakeClaude::builder()
        .limits(common::server_limits((10, 5_000, 800)))
        .build();
    let layer = layer((10, 5_000, 800));
    let service = over(&layer, &fake);
    let start = Instant::now();
    assert_eq!(send_ok(&service, message(10, 1_600)).await.status, 200);
    assert_eq!(send_ok(&service, message(10, 10)).await.status, 200);
    // The debt is paid before the next request.
    assert!(start.elapsed() >= Duration::from_secs(60));
    assert_eq!(common::statuses(&fake), [200, 200]);
}

/// A request as large as the limit of a minute is admitted, though the burst is one second.
#[tokio::test(start_paused = true)]
async fn request_larger_than_the_burst_is_admitted() {
    let limiter = LocalLimiter::new(
        common::limits((1_000, 60_000, 60_000)).with_burst(Duration::from_secs(1)),
    );
    let layer = TokenBucketLayer::over(limiter)
        .with_estimate(common::by_size)
        .with_max_wait(HOUR);
    let service = layer.layer(fake());
    let start = Instant::now();
    assert_eq!(send_ok(&service, message(60_000, 10)).await.status, 200);
    assert_eq!(send_ok(&service, message(10, 10)).await.status, 200);
    // The debt is paid before the next request.
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(59), "{waited:?}");
    assert!(waited <= Duration::from_secs(61), "{waited:?}");
}

/// The end of the requests in flight cannot be foreseen, and `retry-after: 0` would be wrong.
#[tokio::test(start_paused = true)]
async fn concurrency_rejection_has_no_retry_after() {
    let limits = Limits::new().with_concurrency(NonZeroU32::MIN);
    let config = LimiterConfig::new().with_queue_limit(0);
    for max_wait in [Duration::ZERO, HOUR] {
        let limiter = LocalLimiter::with_config(limits.clone(), config.clone());
        let layer = TokenBucketLayer::over(limiter).with_max_wait(max_wait);
        let service = layer.layer(fake());
        let held = service.clone().oneshot(message(10, 10)).await;
        let response = send_ok(&service, message(10, 10)).await;
        let refused = refused(&response, 429, "rate_limit_error");
        assert_eq!(refused.retry_after, None);
        let text = text(&response);
        assert!(!text.contains("0.0ns,"), "{text}");
        drop(held);
    }
}

#[tokio::test(start_paused = true)]
async fn wait_longer_than_max_wait_is_rejected_with_429() {
    let layer = layer((1_000, 60_000, 60_000)).with_max_wait(Duration::from_secs(20));
    let service = over(&layer, &fake());
    send_ok(&service, message(60_000, 10)).await;
    let start = Instant::now();
    let response = send_ok(&service, message(30_000, 10)).await;
    assert_eq!(Instant::now(), start, "at once, not after the wait");
    let refused = refused(&response, 429, "rate_limit_error");
    assert_eq!(refused.class().kind, Kind::RateLimited);
    let RejectReason::WaitTooLong {
        estimated,
        max_wait,
    } = refused.reason
    else {
        panic!("{:?}", refused.reason);
    };
    assert_eq!(max_wait, Duration::from_secs(20));
    assert!(estimated >= Duration::from_secs(30), "{estimated:?}");
    assert!(estimated <= Duration::from_secs(40), "{estimated:?}");
    // A request after `retry-after` is admitted.
    tokio::time::advance(refused.retry_after.expect("retry-after")).await;
    assert_eq!(send_ok(&service, message(30_000, 10)).await.status, 200);
    // A request that fits the longest wait waits.
    assert_eq!(send_ok(&service, message(15_000, 10)).await.status, 200);
}

/// The estimated wait was short enough at arrival and grew later.
#[tokio::test(start_paused = true)]
async fn waiting_request_is_rejected_after_max_wait() {
    let layer = layer((1_000, 60_000, 60_000)).with_max_wait(Duration::from_secs(20));
    let fake = fake();
    let service = over(&layer, &fake);
    send_ok(&service, message(60_000, 10)).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let start = Instant::now();
    let waiting = tokio::spawn({
        let service = service.clone();
        async move { send_ok(&service, message(10_000, 10)).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(only(&layer.limiter()).queued, 1);
    // A request uses more than planned.
    let script = Script::always(Reply::json(
        r#"{"usage":{"input_tokens":50000,"output_tokens":1}}"#,
    ));
    let early = tower_claude_core::Call::new(&http::Extensions::new(), start - HOUR);
    let mut small = message(1, 1);
    small.extensions_mut().insert(std::sync::Arc::new(early));
    send_ok(&layer.layer(script), small).await;
    let response = waiting.await.expect("no panic");
    refused(&response, 429, "rate_limit_error");
    let waited = start.elapsed();
    assert!(waited <= Duration::from_secs(21), "{waited:?}");
    assert_eq!(only(&layer.limiter()).queued, 0);
}

#[tokio::test(start_paused = true)]
async fn wait_past_the_deadline_is_rejected_with_504() {
    let layer = layer((1_000, 60_000, 60_000));
    let service = over(&layer, &fake());
    let by = |seconds| {
        let mut request = message(30_000, 10);
        let deadline = Deadline(Instant::now() + Duration::from_secs(seconds));
        request.extensions_mut().insert(deadline);
        request
    };
    send_ok(&service, message(60_000, 10)).await;
    let start = Instant::now();
    let response = send_ok(&service, by(20)).await;
    assert_eq!(Instant::now(), start, "at once, not at the deadline");
    let refused = refused(&response, 504, "timeout_error");
    assert_eq!(refused.class().kind, Kind::Timeout);
    let RejectReason::DeadlineWouldPass { remaining, .. } = refused.reason else {
        panic!("{:?}", refused.reason);
    };
    assert_eq!(remaining, Duration::from_secs(20));
    assert_eq!(send_ok(&service, by(45)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn full_queue_is_rejected_with_429() {
    let config = LimiterConfig::new().with_queue_limit(2);
    let layer = layer_with((1_000, 60_000, 60_000), config);
    let fake = fake();
    let service = over(&layer, &fake);
    send_ok(&service, message(60_000, 10)).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send_ok(&service, message(1_000, 10)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(only(&layer.limiter()).queued, 2);
    let response = send_ok(&service, message(1_000, 10)).await;
    let refused = refused(&response, 429, "rate_limit_error");
    let full = RejectReason::QueueFull {
        waiting: 2,
        limit: 2,
    };
    assert_eq!(refused.reason, full);
    for call in waiting {
        assert_eq!(call.await.expect("no panic").status, 200);
    }
}

/// A body that is not JSON, no object, or without a model costs one request.
#[tokio::test(start_paused = true)]
async fn request_without_model_passes_with_default_cost() {
    let bodies: [&'static str; 5] = ["", "not json", "[1]", "{}", "{\"model\":7}"];
    for body in bodies {
        let layer = TokenBucketLayer::new(common::limits((10, 5_000, 800)));
        let script = Script::always(Reply::status(204));
        let request = message(1, 1).map(|_| RequestBody::from(body));
        let response = send_ok(&layer.layer(script.clone()), request).await;
        assert_eq!(response.status, 204);
        assert_eq!(script.seen()[0].body, body);
        assert_eq!(left(&layer.limiter()), [9, 5_000, 800], "{body:?}");
    }
}

/// A body over the buffer limit costs one request.
#[tokio::test(start_paused = true)]
async fn body_over_the_limit_passes() {
    let layer = TokenBucketLayer::new(common::limits((10, 5_000, 800))).with_body_limit(64);
    let script = Script::always(Reply::status(204));
    let text = format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":10,"messages":[{{"role":"user","content":"{}"}}]}}"#,
        "x".repeat(1 << 20)
    );
    let request: Request<http_body_util::Full<bytes::Bytes>> =
        message(1, 1).map(|_| http_body_util::Full::new(text.clone().into()));
    let service = layer.layer(script.clone());
    let response = tower::ServiceExt::oneshot(service, request)
        .await
        .expect("an answer");
    assert_eq!(response.status(), 204);
    assert_eq!(script.seen()[0].body, text);
    drop(response);
    assert_eq!(left(&layer.limiter()), [9, 5_000, 800]);
}

#[tokio::test(start_paused = true)]
async fn unlimited_layer_admits_everything() {
    let layer = TokenBucketLayer::new(Limits::unlimited()).with_max_wait(Duration::ZERO);
    let service = layer.layer(
        FakeClaude::builder()
            .limits(GroupLimits::unlimited())
            .build(),
    );
    for _ in 0..100 {
        assert_eq!(send_ok(&service, message(100_000, 10)).await.status, 200);
    }
    assert_eq!(layer.handle().snapshot()[0].in_flight, 0);
}
