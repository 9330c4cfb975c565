//! Streams fail in their own ways.

use std::time::Duration;

use tokio::time::Instant;
use tower::Layer;
use tower_claude_core::{Deadline, breaker::BreakerState};
use tower_claude_fake_claude::Fault;
use tower_claude_retry::RetryLayer;

use crate::common::{SECOND, SONNET, fake, layer, look, request, send, state};

#[tokio::test(start_paused = true)]
async fn a_held_200_that_turns_into_an_error_is_a_failure() {
    for fault in [Fault::ErrorBeforeContent, Fault::TruncatedBeforeContent] {
        let (layer, _) = layer();
        let fake = fake();
        fake.inject_times(fault.clone(), 5);
        let service = layer.layer(fake.clone());
        for _ in 0..5 {
            let answer = send(&service, request(SONNET, true)).await;
            assert_eq!(answer.expect("an answer").status, 200);
        }
        assert_eq!(state(&layer), BreakerState::Open, "{fault:?}");
    }
}

/// Its content was the success that ended the row of failures; then it is the first of the next row.
#[tokio::test(start_paused = true)]
async fn a_break_after_content_is_a_failure_of_its_own() {
    for fault in [
        Fault::ErrorMidStream { after_tokens: 3 },
        Fault::Truncated { after_tokens: 3 },
        Fault::Cut { after_tokens: 3 },
    ] {
        let (layer, _) = layer();
        let fake = fake();
        fake.inject_times(fault.clone(), 10);
        let service = layer.layer(fake.clone());
        for _ in 0..10 {
            let answer = send(&service, request(SONNET, true)).await;
            assert_eq!(answer.expect("an answer").status, 200);
            assert_eq!(look(&layer, SONNET).failures, 1, "{fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_break_side_by_side_open_it() {
    let (layer, diary) = layer();
    let fake = fake();
    fake.inject_times(Fault::Cut { after_tokens: 3 }, 5);
    let service = layer.layer(fake.clone());
    let calls = (0..5).map(|_| send(&service, request(SONNET, true)));
    futures_util::future::join_all(calls).await;
    assert_eq!(state(&layer), BreakerState::Open);
    assert_eq!(
        diary.lines(),
        ["opened messages/claude-sonnet-5-5 transport 1"]
    );
}

/// The retry layer ends it then; a caller's deadline is not the server's fault.
#[tokio::test(start_paused = true)]
async fn a_stream_that_falls_silent_after_content_is_a_failure_of_its_own() {
    let (layer, diary) = layer();
    let fake = fake();
    let stall = Fault::Stall {
        after_tokens: 3,
        duration: 3_000 * SECOND,
    };
    fake.inject_times(stall, 5 + 5);
    let service = RetryLayer::new().layer(layer.layer(fake.clone()));
    let streams = |deadline: Option<Duration>| {
        let calls = (0..5).map(|_| {
            let mut request = request(SONNET, true);
            let deadline = deadline.map(|wait| Deadline(Instant::now() + wait));
            deadline.map(|deadline| request.extensions_mut().insert(deadline));
            send(&service, request)
        });
        futures_util::future::join_all(calls)
    };
    for answer in streams(Some(60 * SECOND)).await {
        let body = answer.expect("an answer").body;
        assert!(String::from_utf8_lossy(&body).contains("timeout_error"));
    }
    assert_eq!(look(&layer, SONNET).failures, 0);
    streams(None).await;
    assert_eq!(
        diary.lines(),
        ["opened messages/claude-sonnet-5-5 timeout 1"]
    );
}
