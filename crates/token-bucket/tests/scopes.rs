//! Tests of scopes: limits that are separate at the server, and are shared by all services of a
//! layer.

mod common;

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use common::{body, event_log, layer, message, over, send_ok, server_limits, with};
use http::Request;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_core::{Call, Endpoint, RequestBody, Scope};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_limiter::{Dimension, Limiter, Limits};
use tower_claude_token_bucket::TokenBucketLayer;

fn of_model(model: &str) -> Request<RequestBody> {
    message(100, 10).map(|_| body(model, false))
}

fn count_tokens() -> Request<RequestBody> {
    let mut request = message(100, 10);
    *request.uri_mut() = "http://localhost/v1/messages/count_tokens"
        .parse()
        .expect("a uri");
    request
}

/// After the two requests per minute of one scope are used up, other scopes still admit at once.
#[tokio::test(start_paused = true)]
async fn keys_models_and_endpoints_have_separate_limits() {
    let limits = (3, 100_000, 100_000);
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build();
    let layer = layer(limits);
    let service = over(&layer, &fake);
    let start = Instant::now();
    let used_up = |name: &'static str| {
        let queued: Vec<_> = layer
            .limiter()
            .snapshot()
            .into_iter()
            .filter(|scope| {
                let requests = scope.dimension(Dimension::Requests);
                requests.is_some_and(|requests| requests.available < 1)
            })
            .collect();
        assert!(!queued.is_empty(), "{name}");
    };
    for _ in 0..3 {
        send_ok(&service, of_model("claude-sonnet-5-5")).await;
    }
    used_up("sonnet");
    for _ in 0..3 {
        send_ok(&service, of_model("claude-haiku-4-5")).await;
        send_ok(
            &service,
            with(of_model("claude-sonnet-5-5"), "x-api-key", "key-b"),
        )
        .await;
        send_ok(&service, count_tokens()).await;
    }
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "somebody waited for another's limit"
    );
    send_ok(&service, of_model("claude-sonnet-5-5")).await;
    assert!(
        start.elapsed() >= Duration::from_secs(10),
        "nothing was limited"
    );
    let scopes = layer.limiter().snapshot();
    let endpoints = |endpoint| {
        scopes
            .iter()
            .filter(|s| s.scope.endpoint == endpoint)
            .count()
    };
    assert_eq!(endpoints(Endpoint::Messages), 3);
    assert_eq!(endpoints(Endpoint::CountTokens), 1);
}

#[tokio::test(start_paused = true)]
async fn models_of_a_rate_group_share_limits() {
    let fake = FakeClaude::builder().build();
    let layer = layer((100, 100_000, 100_000));
    let service = over(&layer, &fake);
    for model in ["claude-opus-4-8", "claude-opus-4-7"] {
        assert_eq!(send_ok(&service, of_model(model)).await.status, 200);
    }
    let scopes = layer.limiter().snapshot();
    assert_eq!(scopes.len(), 1);
    let requests = scopes[0].dimension(Dimension::Requests).expect("limited");
    assert_eq!(requests.available, 98);
}

#[tokio::test(start_paused = true)]
async fn pause_of_a_scope_leaves_other_scopes() {
    let fake = FakeClaude::builder().build();
    let retry_after = Duration::from_secs(30);
    fake.inject(Fault::RateLimited { retry_after });
    let layer = layer((100, 100_000, 100_000));
    let service = over(&layer, &fake);
    let start = Instant::now();
    assert_eq!(send_ok(&service, message(100, 10)).await.status, 429);
    for other in [
        of_model("claude-haiku-4-5"),
        with(message(100, 10), "x-api-key", "key-b"),
        count_tokens(),
    ] {
        assert_eq!(send_ok(&service, other).await.status, 200);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn rate_group_limits_override_the_default() {
    let some = |n| NonZeroU64::new(n).expect("a limit");
    let layer = TokenBucketLayer::new(
        common::limits((100, 100_000, 100_000))
            .with_group("haiku-4.5", Limits::new().with_requests_per_minute(some(7))),
    );
    let service = layer.layer(FakeClaude::builder().build());
    send_ok(&service, of_model("claude-haiku-4-5")).await;
    send_ok(&service, of_model("claude-sonnet-5-5")).await;
    let limit = |group: &str| {
        let scopes = layer.handle().snapshot();
        let scope = scopes.iter().find(|scope| &*scope.scope.group == group);
        let scope = scope.unwrap_or_else(|| panic!("no {group} in {scopes:?}"));
        scope.dimension(Dimension::Requests).expect("limited").limit
    };
    assert_eq!(limit("haiku-4.5"), 7);
    assert_eq!(limit("sonnet-5.5"), 100);
}

#[tokio::test(start_paused = true)]
async fn custom_scope_separates_limits() {
    let layer = layer((2, 100_000, 100_000)).with_scope(|request| {
        let tenant = request
            .headers()
            .get("x-tenant")
            .and_then(|v| v.to_str().ok());
        Scope::named(tenant.unwrap_or("nobody"))
    });
    let service = over(&layer, &FakeClaude::builder().build());
    let start = Instant::now();
    for tenant in ["a", "b", "a", "b"] {
        send_ok(&service, with(message(1, 1), "x-tenant", tenant)).await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    send_ok(&service, with(message(1, 1), "x-tenant", "a")).await;
    assert!(start.elapsed() > Duration::ZERO);
    assert_eq!(layer.handle().snapshot().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn two_scopes_of_one_limiter_are_both_charged() {
    let by_model = layer((10, 100_000, 100_000));
    let all = by_model.clone().with_scope(|_| Scope::named("all"));
    let service = all.layer(by_model.layer(FakeClaude::builder().build()));
    assert_eq!(send_ok(&service, message(100, 10)).await.status, 200);
    let scopes = by_model.limiter().snapshot();
    let left = scopes
        .iter()
        .map(|scope| scope.dimension(Dimension::Requests).expect("limited"));
    assert_eq!(left.map(|left| left.available).collect::<Vec<_>>(), [9, 9]);
}

/// The reservation of an attempt in another scope ends with the attempt. The outer reservation
/// stays.
#[tokio::test(start_paused = true)]
async fn attempt_in_another_scope_keeps_the_outer_reservation() {
    let layer = TokenBucketLayer::new(Limits::new().with_concurrency(NonZeroU32::MIN));
    let inner = layer.layer(FakeClaude::builder().build());
    let falls_back = service_fn(move |request: Request<RequestBody>| {
        let inner = inner.clone();
        async move {
            let models = ["claude-sonnet-5-5", "claude-haiku-4-5", "claude-sonnet-5-5"];
            for model in models {
                let mut attempt = of_model(model);
                Call::of(&request).unwrap().attach(&mut attempt);
                assert_eq!(send_ok(&inner, attempt).await.status, 200, "{model}");
            }
            inner.oneshot(request).await
        }
    });
    let service = layer.layer(falls_back);
    let answer = send_ok(&service, of_model("claude-sonnet-5-5")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(start_paused = true)]
async fn services_of_a_layer_share_limits() {
    let limits = (4, 100_000, 100_000);
    let fake = FakeClaude::builder().limits(server_limits(limits)).build();
    let layer = layer(limits);
    let first = over(&layer, &fake);
    let services = [
        first.clone(),
        first.clone(),
        over(&layer, &fake),
        over(&layer.clone(), &fake),
        over(&layer, &fake),
    ];
    let start = Instant::now();
    for service in services {
        assert_eq!(send_ok(&service, message(100, 10)).await.status, 200);
    }
    assert!(
        start.elapsed() >= Duration::from_secs(14),
        "each had its own"
    );
    assert_eq!(layer.handle().snapshot(), layer.limiter().snapshot());
    // A second layer has another limiter.
    let other = common::layer(limits);
    assert!(other.limiter().snapshot().is_empty());
    assert_ne!(other.limiter().id(), layer.limiter().id());
}

#[tokio::test(start_paused = true)]
async fn every_decision_is_reported() {
    let events = event_log();
    let fake = FakeClaude::builder().build();
    let layer = layer((100, 1_000, 100_000))
        .with_estimate(|request: &Request<RequestBody>| {
            let cost = common::by_size(request);
            cost.with_counted_input(cost.input_tokens)
        })
        .with_max_wait(Duration::from_secs(1))
        .with_observer(events.clone());
    let service = layer.layer(fake);
    send_ok(&service, message(1_000, 10)).await;
    send_ok(&service, message(1_001, 10)).await;
    send_ok(&service, message(900, 10)).await;
    let all = events.take();
    assert_eq!(
        all,
        [
            "token-bucket admitted messages/sonnet-5.5",
            "token-bucket refused too_large",
            "token-bucket refused rate_limited",
        ]
    );
}
