//! Tests of probes.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use http::Response;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_claude_circuit_breaker::{BreakerConfig, BreakerState, CircuitBreakerLayer};
use tower_claude_core::toolkit::BufferRequest;
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_tests::{EventLog, FrameBody, read};

use crate::common::{SECOND, SONNET, call, calls, fake, layer, look, request, state};

async fn opened() -> (CircuitBreakerLayer, EventLog, FakeClaude) {
    let (layer, events) = layer();
    let fake = fake();
    fake.inject_times(Fault::Overloaded, 5);
    calls(&layer, &fake, 5).await;
    (layer, events, fake)
}

async fn half_open() -> (CircuitBreakerLayer, EventLog, FakeClaude) {
    let (layer, events, fake) = opened().await;
    sleep(36 * SECOND).await;
    (layer, events, fake)
}

#[tokio::test(start_paused = true)]
async fn two_successful_probes_close_the_circuit() {
    let (layer, events, fake) = half_open().await;
    calls(&layer, &fake, 3).await;
    assert_eq!(state(&layer), BreakerState::Closed);
    let scope = "messages/claude-sonnet-5-5";
    let expected = [
        format!("opened {scope} overloaded 1"),
        format!("probe {scope}"),
        format!("probe {scope}"),
        format!("closed {scope}"),
    ];
    assert_eq!(events.lines(), expected);
    let told = layer.handle().snapshot();
    assert_eq!(
        (told.opened, told.probes, told.closed, told.refused),
        (1, 2, 1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn concurrent_calls_on_a_half_open_circuit_send_a_single_probe() {
    let (layer, _, fake) = half_open().await;
    let before = fake.log_len();
    fake.inject_times(Fault::SlowHead(SECOND), 50);
    let answers = join_all((0..50).map(|_| call(&layer, &fake))).await;
    let sent = answers
        .into_iter()
        .flatten()
        .filter(|answer| !answer.is_rejected());
    assert_eq!((sent.count(), fake.log_len() - before), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn probe_with_429_opens_the_circuit_for_its_retry_after() {
    let (layer, _, fake) = half_open().await;
    fake.inject(Fault::RateLimited {
        retry_after: 100 * SECOND,
    });
    calls(&layer, &fake, 1).await;
    let seen = look(&layer, SONNET);
    assert_eq!((seen.state, seen.opens), (BreakerState::Open, 2));
    assert!(seen.retry_after >= Some(100 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn probe_with_another_4xx_succeeds() {
    let (layer, _, fake) = half_open().await;
    fake.inject_times(Fault::NonJson(http::StatusCode::BAD_REQUEST), 2);
    calls(&layer, &fake, 2).await;
    assert_eq!(state(&layer), BreakerState::Closed);
}

/// The probes stream for ten minutes.
#[tokio::test(start_paused = true)]
async fn long_stream_succeeds_with_its_first_content() {
    let (layer, _, _) = opened().await;
    sleep(36 * SECOND).await;
    let slow = FakeClaude::builder()
        .limits(tower_claude_fake_claude::GroupLimits::unlimited())
        .tokens_per_second(1.0)
        .output_tokens(600)
        .build();
    let service = layer.layer(slow.clone());
    let mut streams = Vec::new();
    for _ in 0..2 {
        let response = service.clone().oneshot(request(SONNET, true)).await;
        let mut body = response.expect("an answer").into_body();
        while look(&layer, SONNET).probes > 0 {
            let frame = http_body_util::BodyExt::frame(&mut body).await;
            frame.expect("a frame").expect("no error");
        }
        streams.push(body);
    }
    assert_eq!(state(&layer), BreakerState::Closed);
    assert!(slow.elapsed() < 60 * SECOND, "{:?}", slow.elapsed());
    for body in streams {
        read(body).await;
    }
    assert_eq!(look(&layer, SONNET).failures, 0);
}

/// Returns a JSON response in one frame.
fn whole(text: &'static str) -> Response<FrameBody> {
    let response = Response::builder().header("content-type", "application/json");
    response.body(FrameBody::full(text)).expect("a response")
}

#[tokio::test(start_paused = true)]
async fn whole_response_ends_its_probe_before_it_is_read() {
    let (layer, _, _) = half_open().await;
    let text = r#"{"type":"message","role":"assistant","content":[]}"#;
    let inner = tower::service_fn(|_| async { Ok::<_, Infallible>(whole(text)) });
    for _ in 0..2 {
        let call = layer.layer(inner).oneshot(request(SONNET, false));
        drop(call.await.expect("infallible"));
    }
    assert_eq!(state(&layer), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn whole_error_under_status_200_fails_its_probe_and_is_passed_on() {
    let (layer, _, _) = half_open().await;
    let text = r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#;
    let inner = tower::service_fn(|_| async { Ok::<_, Infallible>(whole(text)) });
    let call = layer.layer(inner).oneshot(request(SONNET, false));
    let response = call.await.expect("infallible");
    assert_eq!(response.status(), 200);
    let seen = look(&layer, SONNET);
    assert_eq!((seen.state, seen.opens), (BreakerState::Open, 2));
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    assert_eq!(body.expect("a body").to_bytes(), text);
}

#[tokio::test(start_paused = true)]
async fn dropped_probe_frees_its_place_before_and_after_the_head() {
    let (layer, _, fake) = half_open().await;
    fake.inject(Fault::SlowHead(100 * SECOND));
    let gone = tokio::time::timeout(SECOND, call(&layer, &fake)).await;
    assert!(gone.is_err());
    assert_eq!(look(&layer, SONNET).probes, 0);
    let service = layer.layer(fake.clone());
    let response = service.oneshot(request(SONNET, true)).await.expect("it");
    assert_eq!(look(&layer, SONNET).probes, 1, "no content yet");
    drop(response);
    assert_eq!(look(&layer, SONNET).probes, 0);
    assert_eq!(state(&layer), BreakerState::HalfOpen);
}

/// No other probe is sent beside it.
#[tokio::test(start_paused = true)]
async fn dropped_probe_keeps_its_place_until_the_inner_call_is_gone() {
    struct Leaving(CircuitBreakerLayer, Arc<AtomicUsize>);
    impl Drop for Leaving {
        fn drop(&mut self) {
            let probes = look(&self.0, SONNET).probes;
            self.1.store(probes, Ordering::Relaxed);
        }
    }
    let (layer, _, _) = half_open().await;
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let inner = tower::service_fn(|_| {
        let leaving = Leaving(layer.clone(), left.clone());
        async move {
            let _leaving = leaving;
            pending::<Result<Response<FrameBody>, Infallible>>().await
        }
    });
    let call = layer.layer(inner).oneshot(request(SONNET, false));
    assert!(tokio::time::timeout(SECOND, call).await.is_err());
    assert_eq!(left.load(Ordering::Relaxed), 1);
    assert_eq!(look(&layer, SONNET).probes, 0);
}

#[tokio::test(start_paused = true)]
async fn probe_without_a_response_fails_after_its_lease() {
    let config = BreakerConfig::new()
        .with_cool_down(30 * SECOND, 300 * SECOND)
        .with_ramp(None)
        .with_attempt_timeout(60 * SECOND);
    let layer = CircuitBreakerLayer::new().with_config(config);
    let fake = fake();
    fake.inject_times(Fault::Overloaded, 5);
    calls(&layer, &fake, 5).await;
    sleep(36 * SECOND).await;
    fake.inject(Fault::SlowHead(100_000 * SECOND));
    let hung = tokio::spawn({
        let (layer, fake) = (layer.clone(), fake.clone());
        async move { call(&layer, &fake).await }
    });
    sleep(60 * SECOND).await;
    let answer = call(&layer, &fake).await.expect("a rejection");
    assert!(answer.is_rejected());
    assert_eq!(look(&layer, SONNET).opens, 1);
    sleep(SECOND).await;
    assert!(
        call(&layer, &fake)
            .await
            .expect("a rejection")
            .is_rejected()
    );
    assert_eq!(look(&layer, SONNET).opens, 2, "it has failed");
    sleep(72 * SECOND).await;
    calls(&layer, &fake, 2).await;
    assert_eq!(state(&layer), BreakerState::Closed);
    hung.abort();
}

#[tokio::test(start_paused = true)]
async fn response_of_an_older_generation_is_ignored() {
    let (layer, _) = layer();
    let fake = fake();
    fake.inject_times(Fault::SlowHead(50 * SECOND), 20);
    let late = join_all((0..20).map(|_| call(&layer, &fake)));
    let rest = async {
        sleep(SECOND).await;
        fake.clear_injected();
        fake.inject_times(Fault::Overloaded, 5);
        calls(&layer, &fake, 5).await;
        sleep(36 * SECOND).await;
        assert_eq!(state(&layer), BreakerState::HalfOpen);
        sleep(30 * SECOND).await;
        let seen = look(&layer, SONNET);
        assert_eq!((seen.state, seen.successes), (BreakerState::HalfOpen, 0));
    };
    let (answers, ()) = tokio::join!(late, rest);
    assert!(
        answers
            .into_iter()
            .flatten()
            .all(|answer| answer.status == 200)
    );
}

/// A foreign layer may drop a call that it has made and not polled.
#[tokio::test(start_paused = true)]
async fn probe_that_is_never_polled_frees_its_place() {
    let (layer, _, fake) = half_open().await;
    let unpolled = tower::service_fn(|request| {
        drop(tower::Service::call(
            &mut layer.layer(fake.clone()),
            request,
        ));
        std::future::ready(Ok::<_, Infallible>(()))
    });
    for _ in 0..3 {
        let call = BufferRequest::new(unpolled).oneshot(request(SONNET, false));
        call.await.expect("infallible");
        assert_eq!(layer.handle().snapshot().refused, 0);
    }
    assert_eq!(layer.handle().snapshot().probes, 3);
    calls(&layer, &fake, 2).await;
    assert_eq!(state(&layer), BreakerState::Closed);
}
