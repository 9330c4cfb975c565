//! Callers that leave, at any point.

use std::{num::NonZeroU64, pin::pin, time::Duration};

use http_body_util::BodyExt;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::ServiceExt;
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident};
use tower_claude_limiter::Limits;
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;

use crate::common::{HOUR, SECOND, SONNET, Stack, at_once, quiet, request, rpm, send, sized};

#[tokio::test(start_paused = true)]
async fn calls_dropped_at_random_points_leave_nothing() {
    let trouble = |fault, share| Incident::new(Duration::ZERO, HOUR, fault).with_probability(share);
    let retry_after = SECOND;
    let fake = FakeClaude::builder()
        .limits(
            GroupLimits::new()
                .with_requests_per_minute(1_200)
                .with_input_tokens_per_minute(200_000)
                .with_concurrency(200),
        )
        .time_to_first_token(SECOND)
        .tokens_per_second(20.0)
        .incident(trouble(Fault::Overloaded, 0.1))
        .incident(trouble(Fault::RateLimited { retry_after }, 0.02))
        .incident(trouble(Fault::Reset, 0.05))
        .incident(trouble(Fault::ErrorBeforeContent, 0.05))
        .incident(trouble(Fault::Cut { after_tokens: 3 }, 0.05))
        .incident(trouble(Fault::Truncated { after_tokens: 9 }, 0.05))
        .build();
    let limits = rpm(1_200)
        .with_input_tokens_per_minute(NonZeroU64::new(200_000).expect("a limit"))
        .with_burst(10 * SECOND);
    let bucket = TokenBucketLayer::new(limits).with_max_wait(HOUR);
    let stack = Stack::with(fake.clone(), RetryLayer::new(), bucket);
    let mut rng = fastrand_like(0x5eed);
    let mut tasks = JoinSet::new();
    for index in 0..2_000_u64 {
        let service = stack.service.clone();
        let patience = Duration::from_millis(rng() % 120_000);
        let frames = rng() % 20;
        tasks.spawn(async move {
            sleep(Duration::from_millis(index * 7)).await;
            let call = async {
                let Ok(response) = service.oneshot(sized(index % 2 == 0, 150)).await else {
                    return;
                };
                let mut body = response.into_body();
                for _ in 0..frames {
                    if body.frame().await.is_none() {
                        break;
                    }
                }
            };
            let _ = timeout(patience, call).await;
        });
    }
    tasks.join_all().await;
    stack.assert_idle("two thousand callers, many of whom left");
    assert_eq!(fake.in_flight(), 0);
    let log = fake.log();
    assert!(log.iter().any(|a| a.client_gone), "some left");
    assert!(log.iter().any(|a| a.completed), "some stayed");
}

/// A small generator, so that a failure can be repeated.
fn fastrand_like(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

/// Polls a call so many times, each time that it is woken, then drops it.
#[tokio::test(start_paused = true)]
async fn call_dropped_after_any_poll_leaves_nothing() {
    for stream in [false, true] {
        for polls in 0..60 {
            let fake = FakeClaude::builder()
                .limits(GroupLimits::unlimited())
                .time_to_first_token(SECOND)
                .build();
            let stack = Stack::new(fake.clone(), at_once(1));
            fake.inject(Fault::Overloaded);
            fake.inject(Fault::RateLimited {
                retry_after: SECOND,
            });
            fake.inject(Fault::ErrorBeforeContent);
            let ended = {
                let mut call = pin!(async {
                    let response = stack
                        .service
                        .clone()
                        .oneshot(request(SONNET, stream))
                        .await?;
                    response.into_body().collect().await
                });
                let mut left = polls;
                std::future::poll_fn(|cx| {
                    if left == 0 {
                        return std::task::Poll::Ready(false);
                    }
                    left -= 1;
                    call.as_mut().poll(cx).map(|_| true)
                })
                .await
            };
            stack.assert_idle(&format!("{polls} polls, ended: {ended}"));
            assert_eq!(fake.in_flight(), 0, "{polls} polls");
            // The next call is served.
            fake.clear_injected();
            let next = timeout(100 * SECOND, send(&stack.service, request(SONNET, stream))).await;
            assert!(
                next.expect("no wait")
                    .expect("an answer")
                    .is_complete(stream)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn body_dropped_mid_stream_frees_its_place() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .tokens_per_second(1.0)
        .output_tokens(100)
        .build();
    let stack = Stack::new(fake.clone(), at_once(1));
    let response = stack
        .service
        .clone()
        .oneshot(request(SONNET, true))
        .await
        .expect("an answer");
    let waiting = tokio::spawn({
        let service = stack.service.clone();
        async move { send(&service, request(SONNET, true)).await }
    });
    let mut body = response.into_body();
    for _ in 0..5 {
        body.frame().await.expect("a frame").expect("no error");
    }
    assert_eq!(fake.in_flight(), 1, "one at once");
    drop(body);
    let seen = waiting.await.expect("no panic").expect("an answer");
    assert!(seen.is_complete(true));
    assert!(fake.log()[0].client_gone);
    assert_eq!(fake.in_flight(), 0);
    stack.assert_idle("a body dropped mid-stream");
}

#[tokio::test(start_paused = true)]
async fn unread_body_dropped_frees_its_place() {
    for stream in [false, true] {
        let fake = quiet();
        let stack = Stack::new(fake.clone(), at_once(1));
        for _ in 0..3 {
            let response = stack.service.clone().oneshot(request(SONNET, stream)).await;
            drop(response.expect("an answer"));
        }
        assert_eq!((fake.log_len(), fake.in_flight()), (3, 0));
        stack.assert_idle("unread bodies");
    }
}

/// A retry that was never sent refunds its tokens.
#[tokio::test(start_paused = true)]
async fn call_dropped_between_attempts_costs_no_retry_budget() {
    let fake = quiet();
    let stack = Stack::new(fake.clone(), Limits::new());
    let before = stack.retry.snapshot().budget_tokens;
    for _ in 0..20 {
        fake.inject(Fault::Overloaded);
        let call = send(&stack.service, request(SONNET, false));
        assert!(timeout(SECOND / 2, call).await.is_err(), "it waits");
    }
    let after = stack.retry.snapshot().budget_tokens;
    assert!(after >= before, "{before} then {after}");
    assert_eq!(fake.log_len(), 20);
    stack.assert_idle("callers that left between attempts");
}
