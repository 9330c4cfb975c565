//! Tests of the layer inside a `TokenBucketLayer`, over the same limiter and over another.

mod common;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use common::{
    BySize, HOUR, by_size, event_log, limits, message, only, send_all, send_ok, server_limits,
    statuses, stream, with,
};
use http::Request;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_claude_core::{
    Call, ClaudeClassify, HttpClassify, RequestBody, driver::DriverLayer, event::Event,
    toolkit::PausedByLimiter,
};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{Dimension, Limiter, LocalLimiter};
use tower_claude_token_bucket::TokenBucketLayer;

type Outer = TokenBucketLayer<LocalLimiter, BySize>;

const LIMITS: common::PerMinute = (1_000, 100_000, 50_000);

fn outer(per_minute: common::PerMinute) -> Outer {
    TokenBucketLayer::new(limits(per_minute))
        .with_estimate(by_size as BySize)
        .with_max_wait(HOUR)
}

fn available(limiter: &LocalLimiter, dimension: Dimension) -> i64 {
    let scope = only(limiter);
    scope.dimension(dimension).expect("limited").available
}

#[tokio::test(start_paused = true)]
async fn shared_limiter_reserves_once_per_request() {
    let events = event_log();
    let outer = outer(LIMITS).with_observer(events.clone());
    let inner = HeaderBudgetLayer::over(outer.limiter()).with_observer(events.clone());
    let fake = FakeClaude::builder().limits(server_limits(LIMITS)).build();
    let service = outer.layer(inner.layer(fake));
    let response = service
        .oneshot(stream(1_000, 500))
        .await
        .expect("an answer");
    let limiter = outer.limiter();
    assert_eq!(only(&limiter).in_flight, 1);
    assert_eq!(available(&limiter, Dimension::Requests), 999);
    assert_eq!(available(&limiter, Dimension::InputTokens), 99_000);
    assert_eq!(
        events.take(),
        [
            "token-bucket admitted messages/sonnet-5.5",
            "header-budget headroom Some(999) true"
        ]
    );
    drop(response);
    assert_eq!(only(&limiter).in_flight, 0);
    assert_eq!(available(&limiter, Dimension::Requests), 999);
}

/// Other clients use the same limits, and the level follows the headers.
#[tokio::test(start_paused = true)]
async fn inner_layer_corrects_the_level() {
    let fake = FakeClaude::builder().limits(server_limits(LIMITS)).build();
    send_ok(&fake, message(60_000, 10)).await;
    let outer = outer(LIMITS);
    let inner = HeaderBudgetLayer::over(outer.limiter());
    let service = outer.layer(inner.layer(fake.clone()));
    for _ in 0..3 {
        send_ok(&service, message(1_000, 100)).await;
        let level = available(&outer.limiter(), Dimension::InputTokens);
        let told = fake.gauges("sonnet-5.5").input_tokens.level;
        assert!((level - told).abs() <= 1_500, "{level} against {told}");
    }
    // Without correction, the level would be 97,000.
    let start = Instant::now();
    assert_eq!(send_ok(&service, message(90_000, 10)).await.status, 200);
    assert!(start.elapsed() >= Duration::from_secs(25));
    assert_eq!(statuses(&fake), [200; 5]);
}

#[tokio::test(start_paused = true)]
async fn inner_layer_corrects_the_limits() {
    let fake = FakeClaude::builder()
        .limits(server_limits((50, 30_000, 8_000)))
        .build();
    let outer = outer(LIMITS);
    let inner = HeaderBudgetLayer::over(outer.limiter());
    let service = outer.layer(inner.layer(fake));
    send_ok(&service, message(100, 100)).await;
    let limits = only(&outer.limiter()).dimensions;
    let limits: Vec<u64> = limits.iter().map(|dimension| dimension.limit).collect();
    assert_eq!(limits, [50, 30_000, 8_000]);
}

/// In one driver, the two layers are one policy.
#[tokio::test(start_paused = true)]
async fn one_driver_with_both_layers_admits_once_and_learns() {
    let events = event_log();
    let outer = outer(LIMITS).with_observer(events.clone());
    let inner = HeaderBudgetLayer::over(outer.limiter()).with_observer(events.clone());
    let fake = FakeClaude::builder()
        .limits(server_limits((50, 30_000, 8_000)))
        .build();
    let policy = outer.policy().with_header_budget(&inner.policy());
    let service = DriverLayer::new((), policy, ClaudeClassify::default()).layer(fake.clone());
    assert_eq!(send_ok(&service, message(1_000, 100)).await.status, 200);
    let limits = only(&outer.limiter()).dimensions;
    let limits: Vec<u64> = limits.iter().map(|dimension| dimension.limit).collect();
    assert_eq!(limits, [50, 30_000, 8_000]);
    fake.inject(Fault::RateLimited {
        retry_after: Duration::from_secs(5),
    });
    assert_eq!(send_ok(&service, message(1_000, 100)).await.status, 429);
    let events = events.take();
    let decision = |line: &String| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let events: Vec<_> = events.iter().map(decision).collect();
    assert_eq!(
        events,
        [
            "token-bucket admitted",
            "header-budget headroom",
            "header-budget limit_differs",
            "token-bucket admitted",
            "header-budget paused",
            "header-budget headroom",
        ]
    );
    assert_eq!(only(&outer.limiter()).in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn rate_limit_pauses_once() {
    let events = event_log();
    let fake = FakeClaude::builder().limits(server_limits(LIMITS)).build();
    fake.inject(Fault::RateLimited {
        retry_after: Duration::from_secs(5),
    });
    let outer = outer(LIMITS).with_observer(events.clone());
    let inner = HeaderBudgetLayer::over(outer.limiter()).with_observer(events.clone());
    let service = outer.layer(inner.layer(fake.clone()));
    let response = send_ok(&service, message(4_000, 900)).await;
    assert_eq!(response.status, 429);
    let paced = *response
        .extensions
        .get::<PausedByLimiter>()
        .expect("PausedByLimiter");
    assert_eq!(only(&outer.limiter()).paused_for, paced.pause);
    assert_eq!(
        events.take_of("paused"),
        ["header-budget paused messages/sonnet-5.5"]
    );
    assert_eq!(only(&outer.limiter()).in_flight, 0);
    assert_eq!(available(&outer.limiter(), Dimension::InputTokens), 100_000);
    let start = Instant::now();
    assert_eq!(send_ok(&service, message(10, 10)).await.status, 200);
    assert!(start.elapsed() >= paced.pause);
}

/// The class of the inner layer is reused unless the user has set a classifier.
#[tokio::test(start_paused = true)]
async fn custom_classifier_overrules_the_inner_class() {
    let fake = FakeClaude::builder().limits(server_limits(LIMITS)).build();
    fake.inject_times(Fault::SpendCap, 2);
    let by_claude = outer(LIMITS);
    let inner = HeaderBudgetLayer::over(by_claude.limiter());
    let service = by_claude.layer(inner.layer(fake.clone()));
    let response = send_ok(&service, message(10, 10)).await;
    assert!(response.extensions.get::<PausedByLimiter>().is_none());
    assert!(only(&by_claude.limiter()).paused_for.is_zero());
    // For this classifier, every 429 is a rate limit.
    let by_status = outer(LIMITS).with_classifier(HttpClassify::default());
    let inner = HeaderBudgetLayer::over(by_status.limiter());
    let service = by_status.layer(inner.layer(fake));
    let response = send_ok(&service, message(10, 10)).await;
    assert!(response.extensions.get::<PausedByLimiter>().is_some());
    assert!(!only(&by_status.limiter()).paused_for.is_zero());
}

#[tokio::test(start_paused = true)]
async fn retried_rate_limit_keeps_its_queue_position() {
    let fake = FakeClaude::builder().limits(server_limits(LIMITS)).build();
    fake.inject(Fault::RateLimited {
        retry_after: Duration::from_secs(5),
    });
    let outer = outer(LIMITS);
    let inner = HeaderBudgetLayer::over(outer.limiter());
    let service = outer.layer(inner.layer(fake.clone()));
    let context = Arc::new(Call::new(&http::Extensions::new(), Instant::now()));
    let attempt = || {
        let mut request = with(message(100, 10), "x-fake-tag", "first");
        context.begin_attempt();
        request.extensions_mut().insert(context.clone());
        request
    };
    assert_eq!(send_ok(&service, attempt()).await.status, 429);
    tokio::time::advance(Duration::from_secs(1)).await;
    let others = tokio::spawn({
        let service = service.clone();
        async move { send_all(&service, (0..5).map(|_| message(100, 10)).collect()).await }
    });
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(only(&outer.limiter()).queued, 5);
    assert_eq!(send_ok(&service, attempt()).await.status, 200);
    assert_eq!(others.await.expect("no panic"), [200; 5]);
    let tags = fake.with_log(|log| log.iter().map(|a| a.tag.clone()).collect::<Vec<_>>());
    assert_eq!(tags[1].as_deref(), Some("first"));
    // Each attempt is settled once.
    assert_eq!(only(&outer.limiter()).in_flight, 0);
}

/// Of 300 requests under tight limits, none gets a 429, and 95 % of the limit is used.
#[tokio::test(start_paused = true)]
async fn shared_limiter_avoids_rate_limits_and_waste() {
    let tight = (600, 60_000, 30_000);
    let fake = FakeClaude::builder()
        .limits(server_limits(tight))
        .time_to_first_token(Duration::from_millis(500))
        .tokens_per_second(200.0)
        .build();
    let outer = outer(tight);
    let inner = HeaderBudgetLayer::over(outer.limiter());
    let service = outer.layer(inner.layer(fake.clone()));
    let requests = (0..300)
        .map(|number| {
            let input = 500 + 37 * (number % 27);
            match number % 2 {
                0 => message(input, 100),
                _ => stream(input, 100),
            }
        })
        .collect();
    assert_eq!(send_all(&service, requests).await, [200; 300]);
    assert_eq!(statuses(&fake), [200; 300]);
    let (used, last) = fake.with_log(|log| {
        let used: u64 = log.iter().map(|attempt| attempt.charged_input).sum();
        (used, log[299].at)
    });
    // 60,000 at first and 1,000 each second.
    let could = 60_000.0 + 1_000.0 * last.as_secs_f64();
    let share = used as f64 / could;
    assert!(share >= 0.95, "{share} of the limit in {last:?}");
    assert_eq!(only(&outer.limiter()).in_flight, 0);
}

/// Over a limiter of its own, the inner layer admits, learns and settles by itself.
#[tokio::test(start_paused = true)]
async fn separate_limiters_both_admit() {
    let events = event_log();
    let outer = outer(LIMITS).with_observer(events.clone());
    let inner = HeaderBudgetLayer::new()
        .with_estimate(by_size as BySize)
        .with_observer(events.clone());
    let fake = FakeClaude::builder()
        .limits(server_limits((50, 30_000, 8_000)))
        .build();
    let service = outer.layer(inner.layer(fake));
    let response = service
        .oneshot(stream(1_000, 500))
        .await
        .expect("an answer");
    for limiter in [outer.limiter(), inner.limiter()] {
        assert_eq!(only(&limiter).in_flight, 1);
    }
    assert_eq!(
        events.take(),
        [
            "token-bucket admitted messages/sonnet-5.5",
            "header-budget admitted messages/sonnet-5.5",
            "header-budget headroom Some(49) true"
        ]
    );
    // Each has its own limits.
    assert_eq!(available(&outer.limiter(), Dimension::InputTokens), 99_000);
    assert_eq!(available(&inner.limiter(), Dimension::InputTokens), 29_000);
    drop(response);
    for limiter in [outer.limiter(), inner.limiter()] {
        assert_eq!(only(&limiter).in_flight, 0);
        assert_eq!(only(&limiter).outstanding_output, 0);
    }
}

/// The server allows 1,000 requests per minute, of which this service is to use 5.
#[tokio::test(start_paused = true)]
async fn configured_limit_below_that_of_the_server_is_kept_and_reported_once() {
    let differences = Arc::new(Mutex::new(Vec::new()));
    let seen = differences.clone();
    let outer = outer((5, 100_000, 50_000)).with_max_wait(Duration::from_secs(1));
    let inner = HeaderBudgetLayer::over(outer.limiter()).with_observer(move |event: &Event<'_>| {
        if let Event::LimitDiffers {
            dimension,
            configured,
            server,
            ..
        } = event
        {
            let difference = (*dimension, *configured, *server);
            seen.lock().expect("no panic").push(difference);
        }
    });
    let fake = FakeClaude::builder().limits(server_limits(LIMITS)).build();
    let service = outer.layer(inner.layer(fake.clone()));
    let requests = (0..50).map(|_| message(10, 10)).collect();
    let statuses = send_all(&service, requests).await;
    let sent = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(sent, common::statuses(&fake).len());
    // The safety margin is at most a tenth of the limit.
    assert!((4..=5).contains(&sent), "{sent}");
    let differences = differences.lock().expect("no panic");
    assert_eq!(*differences, [(Dimension::Requests, 5, 1_000)]);
}

/// The inner layer has not sent the request.
#[tokio::test(start_paused = true)]
async fn inner_rejection_refunds_the_outer_reservation() {
    let outer = outer(LIMITS);
    let inner = HeaderBudgetLayer::over(LocalLimiter::new(limits((10, 2_000, 2_000))))
        .with_estimate(|request: &Request<RequestBody>| {
            let cost = by_size(request);
            cost.with_counted_input(cost.input_tokens)
        });
    let service = outer.layer(inner.layer(FakeClaude::builder().build()));
    let response = send_ok(&service, message(5_000, 10)).await;
    assert_eq!(response.status, 413);
    assert_eq!(
        response.headers["x-tower-claude-refused-by"],
        "header-budget"
    );
    assert_eq!(available(&outer.limiter(), Dimension::InputTokens), 100_000);
    assert_eq!(available(&outer.limiter(), Dimension::Requests), 1_000);
}

/// A retry of another library, which sends each request twice with all its extensions.
#[derive(Clone)]
struct Twice<S>(S);

impl<S> tower_service::Service<http::Request<RequestBody>> for Twice<S>
where
    S: tower_service::Service<http::Request<RequestBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<RequestBody>) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let copy = body.try_clone().expect("buffered");
            let first = http::Request::from_parts(head.clone(), copy);
            drop(inner.clone().oneshot(first).await?);
            let second = http::Request::from_parts(head, body);
            inner.oneshot(second).await
        })
    }
}

/// The second attempt must not join the settled reservation of the first.
#[tokio::test(start_paused = true)]
async fn foreign_retry_reserves_for_every_attempt() {
    let events = event_log();
    let outer = outer(LIMITS);
    let inner = HeaderBudgetLayer::new()
        .with_estimate(by_size as BySize)
        .with_observer(events.clone());
    let fake = FakeClaude::builder().limits(server_limits(LIMITS)).build();
    let service = outer.layer(Twice(inner.layer(fake.clone())));
    assert_eq!(send_ok(&service, message(100, 10)).await.status, 200);
    assert_eq!(fake.log_len(), 2);
    assert_eq!(
        events.take_of("admitted"),
        [
            "header-budget admitted messages/sonnet-5.5",
            "header-budget admitted messages/sonnet-5.5"
        ]
    );
    let inner = inner.limiter();
    assert_eq!(available(&inner, Dimension::Requests), 998);
    // A token bucket in its place behaves alike.
    let bucket = self::outer(LIMITS);
    let service = outer.layer(Twice(bucket.layer(fake)));
    assert_eq!(send_ok(&service, message(100, 10)).await.status, 200);
    assert_eq!(available(&bucket.limiter(), Dimension::Requests), 998);
}

/// Both layers hold a reservation.
#[tokio::test(start_paused = true)]
async fn call_dropped_in_flight_settles() {
    let fake = FakeClaude::builder()
        .time_to_first_token(Duration::from_secs(5))
        .build();
    let outer = outer(LIMITS);
    let shared = HeaderBudgetLayer::over(outer.limiter());
    let own = HeaderBudgetLayer::new();
    let service = outer.layer(shared.layer(own.layer(fake)));
    for millis in [0, 1, 4_999, 5_000] {
        let call = service.clone().oneshot(message(100, 10));
        let _ = tokio::time::timeout(Duration::from_millis(millis), call).await;
        for limiter in [outer.limiter(), own.limiter()] {
            for scope in limiter.snapshot() {
                assert_eq!((scope.in_flight, scope.queued), (0, 0), "{millis} ms");
            }
        }
    }
}
