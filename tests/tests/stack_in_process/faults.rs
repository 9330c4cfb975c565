//! Every fault the fake knows, as JSON and as a stream.

use std::time::Duration;

use http::StatusCode;
use tower_claude_core::Kind;
use tower_claude_fake_claude::{FakeError, Fault};
use tower_claude_limiter::Limits;

use crate::common::{Received, SECOND, SONNET, Stack, quiet, request, send, statuses};

/// The expected response.
#[derive(Clone, Copy, Debug)]
enum Sees {
    /// The whole answer.
    Whole,
    /// An error answer, with what it means.
    Rejected(u16, Kind),
    /// The beginning of a stream, then an `error` event of this type.
    ErrorEvent(&'static str),
    /// The beginning of a stream, and its end without `message_stop`.
    Beginning,
    /// The beginning of a stream, then a transport error.
    Cut,
}

/// Meets the fault once, and says what is wrong if anything is.
async fn meet(fault: Fault, stream: bool, attempts: usize, wait: Duration, sees: Sees) {
    let what = format!("{fault:?}, stream: {stream}");
    let fake = quiet();
    let stack = Stack::new(fake.clone(), Limits::new());
    fake.inject(fault);
    let seen = send(&stack.service, request(SONNET, stream))
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let right = match sees {
        Sees::Whole => seen.is_complete(stream),
        Sees::Rejected(status, kind) => seen.status == status && seen.kind() == Some(kind),
        Sees::ErrorEvent(kind) => {
            begun(&seen) && seen.contains("event: error") && seen.contains(kind)
        }
        Sees::Beginning => begun(&seen) && !seen.contains("message_stop") && seen.error.is_none(),
        Sees::Cut => begun(&seen) && seen.error == Some(FakeError::Cut),
    };
    assert!(right, "{what}: wanted {sees:?}, saw {seen:?}");
    let log = fake.log();
    assert_eq!(log.len(), attempts, "{what}: attempts {:?}", statuses(&log));
    for pair in log.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= wait, "{what}: again after {gap:?}");
    }
    assert_eq!(fake.in_flight(), 0, "{what}: in flight at the server");
    stack.assert_idle(&what);
}

fn begun(seen: &Received<FakeError>) -> bool {
    seen.status == 200 && seen.contains("content_block_start")
}

/// The same for JSON and streams.
async fn both(fault: Fault, attempts: usize, wait: Duration, sees: Sees) {
    meet(fault.clone(), false, attempts, wait, sees).await;
    meet(fault, true, attempts, wait, sees).await;
}

#[tokio::test(start_paused = true)]
async fn temporary_fault_is_retried() {
    for fault in [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::Unavailable,
        Fault::Timeout504,
        Fault::Reset,
        Fault::RateLimitedBare,
        Fault::ErrorBeforeContent,
        Fault::NonJson(StatusCode::BAD_GATEWAY),
        Fault::NonJson(StatusCode::TOO_MANY_REQUESTS),
    ] {
        both(fault, 2, SECOND, Sees::Whole).await;
    }
}

#[tokio::test(start_paused = true)]
async fn retry_waits_for_retry_after() {
    for seconds in [1, 7, 30] {
        let retry_after = Duration::from_secs(seconds);
        both(
            Fault::RateLimited { retry_after },
            2,
            retry_after,
            Sees::Whole,
        )
        .await;
        both(Fault::Ramp { retry_after }, 2, retry_after, Sees::Whole).await;
    }
}

#[tokio::test(start_paused = true)]
async fn permanent_error_is_returned_at_once() {
    both(
        Fault::SpendCap,
        1,
        SECOND,
        Sees::Rejected(429, Kind::SpendLimit),
    )
    .await;
    both(
        Fault::OwnSpendLimit,
        1,
        SECOND,
        Sees::Rejected(400, Kind::SpendLimit),
    )
    .await;
    both(
        Fault::NonJson(StatusCode::BAD_REQUEST),
        1,
        SECOND,
        Sees::Rejected(400, Kind::BadRequest),
    )
    .await;
    both(
        Fault::RateLimited {
            retry_after: 90 * SECOND,
        },
        1,
        SECOND,
        Sees::Rejected(429, Kind::RateLimited),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn slow_head_is_retried_after_the_head_timeout() {
    both(Fault::SlowHead(30 * SECOND), 1, SECOND, Sees::Whole).await;
    both(Fault::SlowHead(700 * SECOND), 2, 600 * SECOND, Sees::Whole).await;
}

#[tokio::test(start_paused = true)]
async fn stream_that_fails_after_content_is_forwarded_unchanged() {
    let after_tokens = 4;
    for (fault, sees) in [
        (
            Fault::ErrorMidStream { after_tokens },
            Sees::ErrorEvent("overloaded_error"),
        ),
        (Fault::Truncated { after_tokens }, Sees::Beginning),
        (Fault::Cut { after_tokens }, Sees::Cut),
        (
            Fault::Stall {
                after_tokens,
                duration: 200 * SECOND,
            },
            Sees::ErrorEvent("timeout_error"),
        ),
    ] {
        meet(fault, true, 1, SECOND, sees).await;
    }
}

#[tokio::test(start_paused = true)]
async fn stream_that_fails_before_content_is_retried() {
    meet(Fault::TruncatedBeforeContent, true, 2, SECOND, Sees::Whole).await;
}

#[tokio::test(start_paused = true)]
async fn broken_json_response_is_retried() {
    let after_tokens = 4;
    for fault in [
        Fault::ErrorMidStream { after_tokens },
        Fault::Cut { after_tokens },
        Fault::Truncated { after_tokens },
        Fault::Stall {
            after_tokens,
            duration: 200 * SECOND,
        },
    ] {
        meet(fault, false, 2, SECOND, Sees::Whole).await;
    }
}

#[tokio::test(start_paused = true)]
async fn short_silence_and_refusal_of_the_model_are_responses() {
    let after_tokens = 4;
    let duration = 60 * SECOND;
    both(
        Fault::Stall {
            after_tokens,
            duration,
        },
        1,
        SECOND,
        Sees::Whole,
    )
    .await;
    both(Fault::Refusal { after_tokens }, 1, SECOND, Sees::Whole).await;
}

#[tokio::test(start_paused = true)]
async fn lasting_error_is_returned_after_five_attempts() {
    for (fault, status) in [
        (Fault::Overloaded, 529),
        (
            Fault::RateLimited {
                retry_after: 2 * SECOND,
            },
            429,
        ),
        (Fault::RateLimitedBare, 429),
        (Fault::ServerError, 500),
    ] {
        let fake = quiet();
        let stack = Stack::new(fake.clone(), Limits::new());
        fake.inject_times(fault.clone(), 100);
        let seen = send(&stack.service, request(SONNET, true))
            .await
            .expect("an answer");
        assert_eq!(seen.status, status, "{fault:?}");
        assert!(
            seen.contains("request_id"),
            "the server's own words: {seen:?}"
        );
        assert_eq!(statuses(&fake.log()), [status; 5], "{fault:?}");
        stack.assert_idle("lasting trouble");
    }
}

#[tokio::test(start_paused = true)]
async fn lasting_transport_error_is_returned_unchanged() {
    let fake = quiet();
    let stack = Stack::new(fake.clone(), Limits::new());
    fake.inject_times(Fault::Reset, 100);
    let error = send(&stack.service, request(SONNET, false))
        .await
        .expect_err("nobody answers");
    assert_eq!(error, FakeError::Reset);
    assert_eq!(fake.log_len(), 5);
    let log = fake.log();
    for (pair, least) in log.windows(2).zip([1, 2, 4, 8]) {
        assert!(pair[1].at - pair[0].at >= least * SECOND, "{log:?}");
    }
    stack.assert_idle("resets");
}

#[tokio::test(start_paused = true)]
async fn retry_count_header_is_updated_only_if_present() {
    let fake = quiet();
    let stack = Stack::new(fake.clone(), Limits::new());
    fake.inject_times(Fault::Overloaded, 2);
    let counted = crate::common::with(request(SONNET, false), "x-stainless-retry-count", "0");
    send(&stack.service, counted).await.expect("an answer");
    let counts: Vec<_> = fake.log().iter().map(|a| a.retry_count).collect();
    assert_eq!(counts, [Some(0), Some(1), Some(2)]);
    fake.inject(Fault::Overloaded);
    send(&stack.service, request(SONNET, false))
        .await
        .expect("an answer");
    assert!(fake.log()[3..].iter().all(|a| a.retry_count.is_none()));
}
