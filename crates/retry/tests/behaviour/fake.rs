//! Faults of the fake API, which counts the attempts itself.

use std::time::Duration;

use http::Request;
use tower::{Layer, ServiceExt};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_tests::read;

use crate::api::layer;

fn message(stream: bool) -> Request<RequestBody> {
    let body = format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":64,"stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    );
    Request::post("https://api.anthropic.com/v1/messages")
        .header("x-api-key", "sk-test")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(RequestBody::from(body))
        .expect("a request")
}

/// Returns the status, the body, true if the body broke, and the number of attempts.
async fn one(fault: Fault, stream: bool) -> (u16, String, bool, usize) {
    let fake = FakeClaude::builder().build();
    fake.inject(fault);
    let (layer, _) = layer();
    let response = layer.layer(fake.clone()).oneshot(message(stream)).await;
    let (head, body) = response.expect("a response").into_parts();
    let (body, _, error) = read(body).await;
    let text = String::from_utf8(body.to_vec()).expect("text");
    (head.status.as_u16(), text, error.is_some(), fake.log_len())
}

#[tokio::test(start_paused = true)]
async fn transient_fault_is_retried() {
    let second = Duration::from_secs(1);
    let faults = [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::Unavailable,
        Fault::Timeout504,
        Fault::RateLimited {
            retry_after: second,
        },
        Fault::RateLimitedBare,
        Fault::Ramp {
            retry_after: second,
        },
        Fault::Reset,
        Fault::ErrorBeforeContent,
        Fault::SlowHead(700 * second),
    ];
    for fault in faults {
        for stream in [false, true] {
            let (status, text, broken, attempts) = one(fault.clone(), stream).await;
            assert_eq!(
                (status, broken, attempts),
                (200, false, 2),
                "{fault:?} {stream}"
            );
            let end = if stream { "message_stop" } else { "end_turn" };
            assert!(text.contains(end), "{fault:?} {stream}: {text}");
        }
    }
    let (status, text, broken, attempts) = one(Fault::TruncatedBeforeContent, true).await;
    assert_eq!((status, broken, attempts), (200, false, 2));
    assert!(text.contains("message_stop"));
}

#[tokio::test(start_paused = true)]
async fn spend_limit_is_sent_once() {
    for (fault, expected) in [(Fault::SpendCap, 429), (Fault::OwnSpendLimit, 400)] {
        let (status, _, _, attempts) = one(fault, false).await;
        assert_eq!((status, attempts), (expected, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn fault_after_content_is_not_retried() {
    for fault in [
        Fault::ErrorMidStream { after_tokens: 3 },
        Fault::Truncated { after_tokens: 3 },
        Fault::Cut { after_tokens: 3 },
    ] {
        let (status, text, _, attempts) = one(fault.clone(), true).await;
        assert_eq!((status, attempts), (200, 1), "{fault:?}");
        assert!(text.contains("content_block_start") && !text.contains("message_stop"));
    }
}
