//! Tests of the conditions that open a circuit, and of the rejections.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, StatusCode};
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Layer, ServiceExt};
use tower_claude_circuit_breaker::{
    BreakerConfig, BreakerState, CircuitBreakerLayer, SlowCallRate,
};
use tower_claude_core::{
    Call, Class, ClaudeClassify, Deadline, Kind, REJECTED_BY, RejectReason, RequestBody, Scope,
    driver::DriverLayer,
};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_retry::{RetryLayer, Timeouts};
use tower_claude_tests::{FrameBody, Readiness, Reply, Script};
use tower_service::Service;

use crate::common::{SECOND, SONNET, call, calls, fake, layer, look, request, scope, send, state};

#[tokio::test(start_paused = true)]
async fn failures_open_the_circuit_and_later_calls_are_rejected_at_once() {
    for fault in [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::Unavailable,
        Fault::Timeout504,
        Fault::Reset,
        Fault::NonJson(StatusCode::BAD_GATEWAY),
    ] {
        let (layer, events) = layer();
        let fake = fake();
        fake.inject_times(fault.clone(), 100);
        calls(&layer, &fake, 5).await;
        assert_eq!(state(&layer), BreakerState::Open, "{fault:?}");
        let answer = call(&layer, &fake).await.expect("a rejection");
        assert_eq!((answer.status, fake.log_len()), (529, 5), "{fault:?}");
        let [opened, refused] = events.lines().try_into().expect("two events");
        assert!(opened.starts_with("opened messages/claude-sonnet-5-5 "));
        assert_eq!(refused, "refused messages/claude-sonnet-5-5 overloaded");
    }
}

#[tokio::test(start_paused = true)]
async fn rejection_names_layer_reason_and_retry_after() {
    let (layer, _) = layer();
    let fake = fake();
    fake.inject_times(Fault::Overloaded, 5);
    calls(&layer, &fake, 5).await;
    let remains = look(&layer, SONNET).retry_after.expect("open");
    let answer = call(&layer, &fake).await.expect("a rejection");
    let refused = answer.rejected().expect("tagged");
    let because = Kind::Overloaded;
    assert_eq!(refused.reason, RejectReason::CircuitOpen { because });
    assert_eq!(refused.retry_after, Some(remains));
    let class = Class::new(because).with_retry_after(Some(remains));
    assert_eq!(answer.class(), class.into_local());
    assert_eq!(answer.headers[REJECTED_BY], "circuit-breaker");
    let seconds = remains.as_nanos().div_ceil(SECOND.as_nanos());
    assert_eq!(answer.headers["retry-after"], seconds.to_string().as_str());
    assert!((24..=36).contains(&seconds), "{seconds}");
    assert!(answer.contains("overloaded_error"));
}

#[tokio::test(start_paused = true)]
async fn response_that_is_no_server_failure_opens_no_circuit() {
    let wait = Fault::RateLimited {
        retry_after: SECOND,
    };
    for fault in [
        wait,
        Fault::RateLimitedBare,
        Fault::Ramp {
            retry_after: SECOND,
        },
        Fault::Refusal { after_tokens: 1 },
        Fault::NonJson(StatusCode::BAD_REQUEST),
        Fault::NonJson(StatusCode::FORBIDDEN),
        Fault::NonJson(StatusCode::NOT_FOUND),
        Fault::NonJson(StatusCode::CONFLICT),
    ] {
        let (layer, events) = layer();
        let fake = fake();
        fake.inject_times(fault.clone(), 100);
        calls(&layer, &fake, 20).await;
        assert_eq!(state(&layer), BreakerState::Closed, "{fault:?}");
        assert_eq!(fake.log_len(), 20, "{fault:?}");
        assert_eq!(events.lines(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn success_between_failures_resets_the_count() {
    let (layer, _) = layer();
    let fake = fake();
    for _ in 0..5 {
        fake.inject_times(Fault::Overloaded, 4);
        calls(&layer, &fake, 5).await;
    }
    assert_eq!(state(&layer), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn rejection_by_an_inner_layer_is_not_counted() {
    let (layer, _) = layer();
    let reason = RejectReason::DeadlineWouldPass {
        estimated: SECOND,
        remaining: Duration::ZERO,
    };
    let refusal = tower_claude_core::Rejection::new("inner", reason);
    let script = Script::always(Reply::refusal(refusal));
    // No classifier overrules it.
    for layer in [
        layer.clone(),
        layer.with_classifier(ClaudeClassify::default()),
    ] {
        let service = layer.layer(script.clone());
        for _ in 0..20 {
            send(&service, request(SONNET, false)).await.expect("it");
        }
        assert_eq!(look(&layer, SONNET).failures, 0);
    }
    assert_eq!(script.calls(), 40);
}

#[tokio::test(start_paused = true)]
async fn class_of_an_inner_layer_stands_without_a_classifier() {
    let overloaded = Class::new(Kind::Overloaded);
    let script = Script::always(Reply::message().extension(overloaded));
    let (reusing, _) = layer();
    let asking = layer().0.with_classifier(ClaudeClassify::default());
    for (layer, failures) in [(reusing, 1), (asking, 0)] {
        let _ = send(&layer.layer(script.clone()), request(SONNET, false)).await;
        assert_eq!(look(&layer, SONNET).failures, failures);
    }
}

#[tokio::test(start_paused = true)]
async fn class_is_left_in_the_response() {
    let (layer, _) = layer();
    let script = Script::always(Reply::claude_error(429, "rate_limit_error"));
    let answer = send(&layer.layer(script), request(SONNET, false)).await;
    let class = answer.expect("it").class();
    assert_eq!((class.kind, class.local), (Kind::RateLimited, false));
}

/// A call does not wait for the readiness of the inner service if it will be rejected.
#[tokio::test(start_paused = true)]
async fn open_circuit_rejects_before_the_inner_service_is_ready() {
    let (layer, _) = layer();
    let never = Script::always(Reply::message()).readiness(Readiness::Never);
    let service = layer.layer(never);
    let at_once = async || {
        let call = send(&service, request(SONNET, false));
        let answer = tokio::time::timeout(SECOND, call).await;
        answer.expect("no wait").expect("a rejection")
    };
    layer.handle().force_open(&scope(SONNET));
    let refused = at_once().await;
    assert_eq!((refused.status, refused.is_rejected()), (529, true));
    layer.handle().resume_automatic(&scope(SONNET));
    let credential = Scope::credential_of(&request(SONNET, false));
    layer.handle().force_open(&Scope::of_credential(credential));
    let refused = at_once().await;
    assert_eq!((refused.status, refused.is_rejected()), (529, true));
}

#[tokio::test(start_paused = true)]
async fn default_circuit_is_open_for_ten_seconds_and_ramps_for_twenty() {
    let (layer, fake) = (CircuitBreakerLayer::new(), fake());
    fake.inject_times(Fault::Overloaded, 6);
    calls(&layer, &fake, 5).await;
    for seconds in [10, 20] {
        let remains = look(&layer, SONNET).retry_after.expect("open");
        assert!((seconds * 8..=seconds * 12).contains(&(remains.as_millis() as u64 / 100)));
        sleep(remains).await;
        calls(&layer, &fake, 1).await;
    }
    calls(&layer, &fake, 1).await;
    assert_eq!(state(&layer), BreakerState::Ramping);
    sleep(19 * SECOND).await;
    assert_eq!(state(&layer), BreakerState::Ramping);
    sleep(SECOND).await;
    assert_eq!(state(&layer), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn dropped_call_is_not_counted_but_a_timeout_is() {
    let (layer, _) = layer();
    let fake = fake();
    fake.inject_times(Fault::SlowHead(3_000 * SECOND), 100);
    for _ in 0..10 {
        let given_up = tokio::time::timeout(SECOND, call(&layer, &fake)).await;
        assert!(given_up.is_err());
    }
    assert_eq!(
        look(&layer, SONNET).failures,
        0,
        "callers who lost interest"
    );

    // One attempt without an answer, and its repetition.
    let timeouts = Timeouts::new().with_head(Some(10 * SECOND));
    let retry = RetryLayer::new().with_timeouts(timeouts);
    let service = retry.layer(layer.layer(fake.clone()));
    let answer = send(&service, request(SONNET, false)).await;
    assert_eq!(answer.expect("a rejection").status, 504);
    assert_eq!(look(&layer, SONNET).failures, 2, "both attempts");

    // A caller's deadline is not the server's fault.
    let mut hurried = request(SONNET, false);
    let deadline = tokio::time::Instant::now() + SECOND;
    hurried.extensions_mut().insert(Deadline(deadline));
    assert_eq!(send(&service, hurried).await.expect("it").status, 504);
    assert_eq!(look(&layer, SONNET).failures, 2);
}

#[tokio::test(start_paused = true)]
async fn slow_calls_with_a_slow_call_rate_open_the_circuit() {
    let rate = SlowCallRate::new(5 * SECOND).with_share(5.try_into().expect("not 0"), 0.8);
    let config = BreakerConfig::new().with_slow_calls(Some(rate));
    let layer = CircuitBreakerLayer::new().with_config(config);
    let fake = fake();
    fake.inject_times(Fault::SlowHead(5 * SECOND), 100);
    calls(&layer, &fake, 5).await;
    assert_eq!(state(&layer), BreakerState::Open);

    let layer = CircuitBreakerLayer::new().with_config(config);
    fake.clear_injected();
    fake.inject_times(Fault::SlowHead(Duration::from_millis(1)), 100);
    calls(&layer, &fake, 20).await;
    assert_eq!(state(&layer), BreakerState::Closed);
}

/// A service that becomes ready at this instant. The sleep wakes the waiting call.
#[derive(Clone)]
struct ReadyAt(Instant, FakeClaude);

impl Service<Request<RequestBody>> for ReadyAt {
    type Response = <FakeClaude as Service<Request<RequestBody>>>::Response;
    type Error = <FakeClaude as Service<Request<RequestBody>>>::Error;
    type Future = <FakeClaude as Service<Request<RequestBody>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if Instant::now() >= self.0 {
            return Poll::Ready(Ok(()));
        }
        let (until, waker) = (self.0, cx.waker().clone());
        tokio::spawn(async move {
            sleep_until(until).await;
            waker.wake();
        });
        Poll::Pending
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        self.1.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_for_readiness_is_rejected_if_the_circuit_opens() {
    let (layer, events) = layer();
    let fake = fake();
    let service = layer.layer(ReadyAt(Instant::now() + 2 * SECOND, fake.clone()));
    let open = async {
        sleep(SECOND).await;
        assert_eq!(state(&layer), BreakerState::Closed);
        layer.handle().force_open(&scope(SONNET));
    };
    let (answer, ()) = tokio::join!(send(&service, request(SONNET, false)), open);
    let answer = answer.expect("a rejection");
    assert_eq!((answer.status, answer.is_rejected()), (529, true));
    assert_eq!((fake.log_len(), events.lines().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_in_an_inner_layer_is_rejected_if_the_circuit_opens() {
    let (layer, events) = layer();
    let fake = fake();
    let waiting = tower::service_fn(|request: Request<RequestBody>| {
        let (call, fake) = (Call::of(&request).expect("a call").clone(), fake.clone());
        call.set_held_back(true);
        async move {
            sleep(2 * SECOND).await;
            call.set_held_back(false);
            fake.oneshot(request).await
        }
    });
    let service = layer.layer(waiting);
    let open = async {
        sleep(SECOND).await;
        layer.handle().force_open(&scope(SONNET));
    };
    let (answer, ()) = tokio::join!(send(&service, request(SONNET, false)), open);
    let answer = answer.expect("a rejection");
    assert_eq!((answer.status, answer.is_rejected()), (529, true));
    assert_eq!((fake.log_len(), events.lines().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn timeout_before_the_inner_service_is_ready_is_not_counted() {
    let (layer, _) = layer();
    let never = Script::always(Reply::message()).readiness(Readiness::Never);
    let timeouts = Timeouts::new().with_head(Some(10 * SECOND));
    let retry = RetryLayer::new().with_timeouts(timeouts);
    let service = retry.layer(layer.layer(never));
    let answer = send(&service, request(SONNET, false)).await;
    assert_eq!(answer.expect("a rejection").status, 504);
    assert_eq!(look(&layer, SONNET).failures, 0);
}

/// A call under way when others open the circuit does not wait for an attempt that is rejected.
#[tokio::test(start_paused = true)]
async fn retry_does_not_sleep_into_an_open_circuit() {
    for one_driver in [true, false] {
        let (layer, _) = layer();
        let fake = fake();
        fake.inject_times(Fault::Overloaded, 5);
        let retry = RetryLayer::new();
        let start = Instant::now();
        calls(&layer, &fake, 4).await;
        let answer = if one_driver {
            let classifier = ClaudeClassify::default();
            let driver = DriverLayer::new(retry.policy(), layer.policy(), classifier);
            send(&driver.layer(fake.clone()), request(SONNET, false)).await
        } else {
            send(
                &retry.layer(layer.layer(fake.clone())),
                request(SONNET, false),
            )
            .await
        };
        let answer = answer.expect("a response");
        assert_eq!((answer.status, answer.is_rejected()), (529, false));
        assert_eq!((fake.log_len(), start.elapsed()), (5, Duration::ZERO));
        assert_eq!(state(&layer), BreakerState::Open);
    }
}

/// A burst of 100 calls. Some fail when all are under way, or every tenth while it is sent. The
/// others succeed after a second.
#[tokio::test(start_paused = true)]
async fn burst_with_quick_failures_and_slow_successes_opens_nothing() {
    for (failures, every, delay) in [(1, 1, 5), (5, 1, 5), (10, 1, 5), (10, 10, 0)] {
        let (layer, events) = layer();
        let sent = AtomicU64::new(0);
        let service = layer.layer(tower::service_fn(|_| {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            let fails = number.is_multiple_of(every) && number / every < failures;
            async move {
                let wait = if fails { delay } else { 1000 };
                if wait > 0 {
                    sleep(Duration::from_millis(wait)).await;
                }
                let status = if fails { 529 } else { 200 };
                let answer = http::Response::builder().status(status);
                let message = r#"{"type":"message","content":[],"stop_reason":"end_turn"}"#;
                let answer = answer.body(FrameBody::full(message));
                Ok::<_, std::convert::Infallible>(answer.expect("valid"))
            }
        }));
        let burst = (0..100).map(|_| send(&service, request(SONNET, false)));
        let answers = futures_util::future::join_all(burst).await;
        assert!(answers.iter().all(|answer| {
            let answer = answer.as_ref().expect("a response");
            !answer.is_rejected()
        }));
        assert!(
            events.lines().is_empty(),
            "{failures}: {:?}",
            events.lines()
        );
    }
}

/// Calls one after the other, and pairs of calls.
#[tokio::test(start_paused = true)]
async fn model_that_fails_for_good_opens_within_ten_calls() {
    for fault in [Fault::Overloaded, Fault::ServerError, Fault::Reset] {
        for at_once in [1, 2] {
            let (layer, _) = layer();
            let fake = fake();
            fake.inject_times(fault.clone(), 1000);
            for _ in 0..10 / at_once {
                let wave = (0..at_once).map(|_| call(&layer, &fake));
                futures_util::future::join_all(wave).await;
            }
            assert_eq!(state(&layer), BreakerState::Open, "{fault:?} {at_once}");
        }
    }
}

/// Returns the rest of the cool-down after five failures.
async fn cool_down(layer: CircuitBreakerLayer, fault: Fault) -> Duration {
    let fake = fake();
    fake.inject_times(fault, 5);
    calls(&layer, &fake, 5).await;
    let circuits = layer.handle().snapshot().circuits;
    let open = circuits.iter().filter_map(|open| open.breaker.retry_after);
    open.max().expect("an open circuit")
}

#[tokio::test(start_paused = true)]
async fn changed_setting_leaves_the_others_as_recommended() {
    let new = CircuitBreakerLayer::new;
    let minute = 60 * SECOND;
    for layer in [
        new(),
        new().with_config(BreakerConfig::new()),
        new().with_config(BreakerConfig::new().with_failures(5.try_into().expect("it"), minute)),
        new().with_config(BreakerConfig::new().with_ramp(None)),
    ] {
        let cool_down = cool_down(layer, Fault::Overloaded).await;
        assert!(
            (8 * SECOND..=12 * SECOND).contains(&cool_down),
            "{cool_down:?}"
        );
    }
    let unauthorized = || Fault::NonJson(StatusCode::UNAUTHORIZED);
    for layer in [
        new(),
        new().with_credential_config(BreakerConfig::for_credentials()),
        new().with_credential_config(BreakerConfig::for_credentials().with_attempt_timeout(minute)),
    ] {
        let cool_down = cool_down(layer, unauthorized()).await;
        assert!(
            (24 * SECOND..=36 * SECOND).contains(&cool_down),
            "{cool_down:?}"
        );
    }
}
