//! Tests of dropped calls, which give back everything that the server cannot have counted.

mod common;

use std::{
    convert::Infallible,
    future::pending,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use common::{TestLayer, layer, left, message, only, stream, with};
use http::Request;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_core::{Call, RequestBody};
use tower_claude_fake_claude::{FakeBody, FakeClaude};
use tower_claude_limiter::{Limiter, Limits};
use tower_claude_tests::{Piece, Readiness, Reply, Script};
use tower_claude_token_bucket::TokenBucketLayer;

/// Polls once, outside of any task.
fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

const LIMITS: common::PerMinute = (1_000, 100_000, 50_000);
const FULL: [i64; 3] = [1_000, 100_000, 50_000];
const SENT: [i64; 3] = [999, 96_000, 50_000];

#[tokio::test(start_paused = true)]
async fn call_dropped_before_first_poll_charges_nothing() {
    let layer = layer(LIMITS);
    let service = layer.layer(FakeClaude::builder().build());
    drop(service.oneshot(message(4_000, 900)));
    let scopes = layer.limiter().snapshot();
    assert!(scopes.iter().all(|scope| scope.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn waiting_call_dropped_leaves_the_queue() {
    let layer = layer((1_000, 10_000, 50_000));
    let service = layer.layer(FakeClaude::builder().build());
    let first = service
        .clone()
        .oneshot(message(9_000, 10))
        .await
        .expect("an answer");
    let mut second = Box::pin(service.clone().oneshot(message(5_000, 10)));
    let mut third = Box::pin(service.clone().oneshot(message(500, 10)));
    assert!(poll_once(second.as_mut()).is_pending());
    assert!(poll_once(third.as_mut()).is_pending());
    assert_eq!(only(&layer.limiter()).queued, 2);
    let before = left(&layer.limiter());
    drop(second);
    // The next request is admitted without any time passing.
    let third = tokio::time::timeout(Duration::from_nanos(1), third);
    third.await.expect("woken").expect("an answer");
    assert_eq!(only(&layer.limiter()).queued, 0);
    let after = left(&layer.limiter());
    assert!(before[1] - after[1] <= 500, "the one that left has paid");
    drop(first);
    assert_eq!(only(&layer.limiter()).in_flight, 0);
}

/// A layer in between may drop a waiting attempt and send the call again.
#[tokio::test(start_paused = true)]
async fn dropped_waiting_attempt_does_not_hold_back_the_next() {
    let layer = TokenBucketLayer::new(Limits::new().with_concurrency(NonZeroU32::MIN));
    let service = layer.layer(FakeClaude::builder().build());
    let first = service.clone().oneshot(message(1, 1)).await;
    let mut request = message(1, 1);
    let context = Call::get_or_insert(request.extensions_mut(), Instant::now());
    let mut again = message(1, 1);
    again.extensions_mut().clone_from(request.extensions());
    let mut waiting = Box::pin(service.clone().oneshot(request));
    assert!(poll_once(waiting.as_mut()).is_pending());
    assert!(context.is_held_back());
    drop(waiting);
    drop(first);
    let answer = service.oneshot(again).await.expect("a head");
    assert!(!context.is_held_back(), "it was sent");
    drop(answer);
}

#[tokio::test(start_paused = true)]
async fn admitted_call_dropped_before_sending_is_refunded() {
    let layer = layer(LIMITS);
    let script = Script::always(Reply::message()).readiness(Readiness::Never);
    let mut call = Box::pin(layer.layer(script.clone()).oneshot(message(4_000, 900)));
    assert!(poll_once(call.as_mut()).is_pending());
    assert_eq!(only(&layer.limiter()).in_flight, 1);
    assert_eq!(left(&layer.limiter()), [999, 96_000, 49_100]);
    drop(call);
    assert_eq!(only(&layer.limiter()).in_flight, 0);
    assert_eq!(left(&layer.limiter()), FULL);
    assert_eq!(script.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn sent_call_dropped_keeps_request_and_input() {
    let layer = layer(LIMITS);
    let silent = service_fn(|_: Request<RequestBody>| {
        pending::<Result<http::Response<FakeBody>, Infallible>>()
    });
    let mut call = Box::pin(layer.layer(silent).oneshot(message(4_000, 900)));
    assert!(poll_once(call.as_mut()).is_pending());
    assert_eq!(left(&layer.limiter()), [999, 96_000, 49_100]);
    drop(call);
    assert_eq!(only(&layer.limiter()).in_flight, 0);
    assert_eq!(left(&layer.limiter()), SENT);
}

/// The inner future is dropped first, so that the concurrency limit is never exceeded.
#[tokio::test(start_paused = true)]
async fn reservation_outlives_the_inner_future() {
    struct Leaving(TestLayer, Arc<AtomicU64>);
    impl Drop for Leaving {
        fn drop(&mut self) {
            let in_flight = only(&self.0.limiter()).in_flight;
            self.1.store(in_flight, Ordering::Relaxed);
        }
    }
    let layer = layer(LIMITS);
    let left = Arc::new(AtomicU64::new(u64::MAX));
    let silent = service_fn(|_: Request<RequestBody>| {
        let leaving = Leaving(layer.clone(), left.clone());
        async move {
            let _leaving = leaving;
            pending::<Result<http::Response<FakeBody>, Infallible>>().await
        }
    });
    let mut call = Box::pin(layer.layer(silent).oneshot(message(4_000, 900)));
    assert!(poll_once(call.as_mut()).is_pending());
    drop(call);
    assert_eq!(left.load(Ordering::Relaxed), 1);
    assert_eq!(only(&layer.limiter()).in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn call_dropped_while_reading_an_error_body_settles() {
    let layer = layer(LIMITS);
    let reply = Reply::status(400).chunked().data("{").piece(Piece::Stall);
    let mut call = Box::pin(
        layer
            .layer(Script::always(reply))
            .oneshot(message(4_000, 900)),
    );
    assert!(poll_once(call.as_mut()).is_pending());
    assert_eq!(only(&layer.limiter()).in_flight, 1);
    drop(call);
    assert_eq!(only(&layer.limiter()).in_flight, 0);
    assert_eq!(left(&layer.limiter()), SENT);
}

#[tokio::test(start_paused = true)]
async fn unread_body_dropped_settles() {
    let layer = layer(LIMITS);
    let service = layer.layer(FakeClaude::builder().build());
    let response = service.oneshot(message(4_000, 900)).await.expect("a head");
    assert_eq!(only(&layer.limiter()).in_flight, 1);
    drop(response);
    assert_eq!(only(&layer.limiter()).in_flight, 0);
    assert_eq!(left(&layer.limiter()), SENT);
}

#[tokio::test(start_paused = true)]
async fn stream_dropped_midway_refunds_remaining_output() {
    let layer = layer(LIMITS);
    let fake = FakeClaude::builder().build();
    let service = layer.layer(fake.clone());
    let request = with(stream(3_000, 2_000), "x-planned-input", 4_000);
    let mut body = service.oneshot(request).await.expect("a head").into_body();
    // message_start, content_block_start, ping and 397 deltas of 4 tokens.
    for _ in 0..400 {
        body.frame().await.expect("a frame").expect("data");
    }
    drop(body);
    let scope = only(&layer.limiter());
    assert_eq!((scope.in_flight, scope.outstanding_output), (0, 0));
    let [requests, input, output] = left(&layer.limiter());
    assert_eq!((requests, input), (999, 97_000));
    let made = fake.with_log(|log| log[0].charged_output);
    assert_eq!(made, 397 * 4);
    let kept = 50_000 - output;
    assert!(kept > 0, "output that was made is not given back");
    assert!(kept < 2_000, "output that was not made is given back");
}

/// After a drop at any point the limiter is empty and still admits.
#[tokio::test(start_paused = true)]
async fn call_dropped_after_any_poll_leaves_nothing_in_flight() {
    let layer = layer(LIMITS);
    for polls in 0..40 {
        let reply = Reply::message().waits(3).slow_body();
        let script = Script::always(reply).readiness(Readiness::After(2));
        let mut call = Box::pin(layer.layer(script).oneshot(message(10, 10)));
        let mut body = None;
        for _ in 0..polls {
            match &mut body {
                None => {
                    if let Poll::Ready(response) = poll_once(call.as_mut()) {
                        body = Some(response.expect("a head").into_body());
                    }
                }
                Some(body) => {
                    let mut frame = body.frame();
                    let _ = poll_once(Pin::new(&mut frame));
                }
            }
        }
        drop(call);
        drop(body);
        for scope in layer.limiter().snapshot() {
            assert_eq!((scope.in_flight, scope.queued), (0, 0), "{polls} polls");
            assert_eq!(scope.outstanding_output, 0, "{polls} polls");
        }
    }
}
