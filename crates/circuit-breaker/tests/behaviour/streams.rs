//! Tests of streams.

use std::time::Duration;

use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_claude_circuit_breaker::{BreakerState, CircuitBreakerLayer};
use tower_claude_core::{Call, Deadline};
use tower_claude_fake_claude::Fault;
use tower_claude_retry::RetryLayer;
use tower_claude_tests::{Piece, Reply, Script, read};

use crate::common::{SECOND, SONNET, calls, fake, layer, look, request, send, state};

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n";
const CONTENT: &str =
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0}\n\n";
const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
const ERROR: &str =
    "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";

async fn half_open(layer: &CircuitBreakerLayer) {
    let fake = fake();
    fake.inject_times(Fault::Overloaded, 5);
    calls(layer, &fake, 5).await;
    sleep(36 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn stream_that_fails_before_content_is_a_failure() {
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

/// The content is a success, which resets the count. The failure is then the first of the next row.
#[tokio::test(start_paused = true)]
async fn stream_that_fails_after_content_counts_as_a_failure() {
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
async fn concurrent_streams_that_break_together_count_as_one_failure() {
    let (layer, events) = layer();
    let fake = fake();
    fake.inject_times(Fault::Cut { after_tokens: 3 }, 5);
    let service = layer.layer(fake.clone());
    let calls = (0..5).map(|_| send(&service, request(SONNET, true)));
    futures_util::future::join_all(calls).await;
    assert_eq!(look(&layer, SONNET).failures, 1);
    assert!(events.lines().is_empty());
}

/// A compressed stream, or the stream of another API, has no recognisable first content.
#[tokio::test(start_paused = true)]
async fn unreadable_stream_succeeds_at_its_head_or_first_event() {
    let (layer, _) = layer();
    let compressed = Reply::stream(["..."]).header(CONTENT_ENCODING, "gzip");
    let foreign = Reply::stream(["data: {\"choices\":[]}\n\n"]);
    let mut answers = Vec::new();
    for (reply, reads, state) in [
        (compressed, false, BreakerState::HalfOpen),
        (foreign, true, BreakerState::Closed),
    ] {
        if answers.is_empty() {
            half_open(&layer).await;
        }
        let service = layer.layer(Script::always(reply.piece(Piece::Stall)));
        let mut answer = service.oneshot(request(SONNET, true)).await.expect("it");
        if reads {
            answer.body_mut().frame().await.expect("one").expect("data");
        }
        answers.push(answer);
        assert_eq!(look(&layer, SONNET).state, state);
        assert_eq!(look(&layer, SONNET).probes, 0);
    }
}

/// A timer has ended another attempt of the same call, which a foreign layer has sent twice.
#[tokio::test(start_paused = true)]
async fn ended_stream_is_not_counted_again_by_a_timer() {
    let fine = [START, CONTENT, STOP].concat();
    let broken = [START, CONTENT, ERROR].concat();
    for (stream, failures) in [(fine, 0), (broken, 1)] {
        let (layer, _) = layer();
        let service = layer.layer(Script::always(Reply::stream([stream])));
        let mut request = request(SONNET, true);
        let context = Call::get_or_insert(request.extensions_mut(), Instant::now());
        let answer = service.oneshot(request).await.expect("it");
        context.time_out_attempt();
        read(answer.into_body()).await;
        assert_eq!(look(&layer, SONNET).failures, failures);
    }
}

/// The retry layer ends the stream. A caller's deadline is no failure of the server.
#[tokio::test(start_paused = true)]
async fn silent_stream_after_content_counts_as_a_failure() {
    let (layer, events) = layer();
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
    // All five have been silent for the same time.
    streams(None).await;
    assert_eq!(look(&layer, SONNET).failures, 1);
    assert!(events.lines().is_empty());
}
