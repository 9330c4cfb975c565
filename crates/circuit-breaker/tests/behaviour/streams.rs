//! Streams fail in their own ways.

use tower::Layer;
use tower_claude_core::breaker::BreakerState;
use tower_claude_fake_claude::Fault;

use crate::common::{SONNET, fake, layer, look, request, send, state};

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
