//! Faults of the fake API, which counts the attempts itself.

use tower::Layer;
use tower_claude_fake_claude::{FakeClaude, FakeError, Fault};
use tower_claude_tests::{Received, SECOND, SONNET, request, send};

use crate::api::layer;

/// Sends one request in this fault. Returns the response and the number of attempts.
async fn one(fault: Fault, stream: bool) -> (Received<FakeError>, usize) {
    let fake = FakeClaude::builder().build();
    fake.inject(fault);
    let service = layer().0.layer(fake.clone());
    let call = send(&service, request(SONNET, stream));
    (call.await.expect("a response"), fake.log_len())
}

#[tokio::test(start_paused = true)]
async fn transient_fault_is_retried() {
    let faults = [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::Unavailable,
        Fault::Timeout504,
        Fault::RateLimited {
            retry_after: SECOND,
        },
        Fault::RateLimitedBare,
        Fault::Ramp {
            retry_after: SECOND,
        },
        Fault::Reset,
        Fault::ErrorBeforeContent,
        Fault::SlowHead(700 * SECOND),
    ];
    for fault in faults {
        for stream in [false, true] {
            let (response, attempts) = one(fault.clone(), stream).await;
            assert!(response.is_complete(stream), "{fault:?}: {response:?}");
            assert_eq!(attempts, 2, "{fault:?} {stream}");
        }
    }
    let (response, attempts) = one(Fault::TruncatedBeforeContent, true).await;
    assert!(response.is_complete(true) && attempts == 2, "{response:?}");
}

#[tokio::test(start_paused = true)]
async fn spend_limit_is_sent_once() {
    for (fault, expected) in [(Fault::SpendCap, 429), (Fault::OwnSpendLimit, 400)] {
        let (response, attempts) = one(fault, false).await;
        assert_eq!((response.status, attempts), (expected, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn fault_after_content_is_not_retried() {
    for fault in [
        Fault::ErrorMidStream { after_tokens: 3 },
        Fault::Truncated { after_tokens: 3 },
        Fault::Cut { after_tokens: 3 },
    ] {
        let (response, attempts) = one(fault.clone(), true).await;
        assert_eq!((response.status, attempts), (200, 1), "{fault:?}");
        assert!(response.contains("content_block_start") && !response.contains("message_stop"));
    }
}
