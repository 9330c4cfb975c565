//! The settings of the recommended stack that apply to more than one layer.

use std::{num::NonZeroU64, time::Duration};

use http::{HeaderName, Request, StatusCode};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_claude::{
    CacheLayer, Deadline, DeadlineLayer, Limiter, LimiterConfig, Limits, LocalLimiter,
    RejectReason, Rejection, RequestBody, core::Scope, recommended,
};
use tower_claude_fake_claude::FakeClaude;

fn request() -> Request<RequestBody> {
    let body = r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#;
    Request::post("http://localhost/v1/messages")
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(RequestBody::from(body))
        .expect("a request")
}

/// A limit that the second request of a minute exceeds.
fn one_per_minute() -> Limits {
    let one = NonZeroU64::new(1).expect("more than 0");
    Limits::unlimited().with_requests_per_minute(one)
}

/// The deadline that reaches the inner service.
async fn deadline_after(layer: DeadlineLayer, given: Option<Duration>) -> Option<Duration> {
    let service = layer.layer(tower::service_fn(|request: Request<()>| async move {
        Ok::<_, std::convert::Infallible>(request.extensions().get::<Deadline>().copied())
    }));
    let mut request = Request::new(());
    let now = Instant::now();
    if let Some(given) = given {
        request.extensions_mut().insert(Deadline(now + given));
    }
    let Ok(deadline) = service.oneshot(request).await;
    deadline.map(|deadline| deadline.0 - now)
}

#[tokio::test(start_paused = true)]
async fn deadline_layer_with_other_deadline_keeps_earlier() {
    let (short, long) = (Duration::from_secs(1), Duration::from_secs(9));
    let layer = DeadlineLayer::new;
    assert_eq!(deadline_after(layer(short), None).await, Some(short));
    assert_eq!(deadline_after(layer(short), Some(long)).await, Some(short));
    assert_eq!(deadline_after(layer(long), Some(short)).await, Some(short));
    assert_eq!(deadline_after(layer(Duration::MAX), None).await, None);
    assert_eq!(
        deadline_after(layer(Duration::MAX), Some(long)).await,
        Some(long)
    );
    assert_eq!(deadline_after(DeadlineLayer::disabled(), None).await, None);
}

#[tokio::test(start_paused = true)]
async fn recommended_with_deadline_rejects_call_that_would_wait_longer() {
    let config = LimiterConfig::new().with_learn_limits(false);
    let stack = recommended()
        .with_limiter(LocalLimiter::with_config(one_per_minute(), config))
        .with_deadline(Duration::from_secs(5));
    let service = stack.layer(FakeClaude::builder().build());
    let first = service
        .clone()
        .oneshot(request())
        .await
        .expect("a response");
    assert_eq!(first.status(), StatusCode::OK);
    let second = service.oneshot(request()).await.expect("a response");
    assert_eq!(second.status(), StatusCode::GATEWAY_TIMEOUT);
    let rejection = second.extensions().get::<Rejection>().expect("a rejection");
    assert!(
        matches!(rejection.reason, RejectReason::DeadlineWouldPass { .. }),
        "{rejection}"
    );
}

#[tokio::test(start_paused = true)]
async fn recommended_with_detached_cache_and_shared_limiter_uses_both() {
    let limiter = LocalLimiter::new(one_per_minute());
    let stack = recommended()
        .with_cache(CacheLayer::default().detached())
        .with_limiter(limiter.clone())
        .with_observer(|_: &tower_claude::event::Event<'_>| {});
    let service = stack.layer(FakeClaude::builder().build());
    let response = service.oneshot(request()).await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(limiter.snapshot().len(), 1);
    assert_eq!(stack.cache().handle().snapshot().in_flight, 0);
}

/// Two tenants, each with a scope of its own by the function.
#[tokio::test(start_paused = true)]
async fn recommended_with_scope_uses_it_in_both_limiter_layers() {
    let header = HeaderName::from_static("x-team");
    let stack = recommended()
        .with_limits(one_per_minute())
        .with_scope(|request| {
            let team = request.headers().get("x-team");
            Scope::named(team.and_then(|team| team.to_str().ok()).unwrap_or_default())
        })
        .with_tenant_header(header.clone())
        .with_priority_header(HeaderName::from_static("x-priority"));
    let service = stack.layer(FakeClaude::builder().build());
    for team in ["a", "b"] {
        let mut request = request();
        let value = team.parse().expect("a header value");
        request.headers_mut().insert(header.clone(), value);
        let response = service.clone().oneshot(request).await.expect("a response");
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(stack.bucket().handle().snapshot().len(), 2);
}
