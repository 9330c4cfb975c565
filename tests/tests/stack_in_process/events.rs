//! The events of the stack, and their order.

use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_limiter::Limits;

use crate::common::{SECOND, SONNET, Stack, quiet, request, rpm, send, silent};

async fn events(fault: Option<Fault>, stream: bool) -> Vec<String> {
    let fake = quiet();
    let stack = Stack::new(fake.clone(), Limits::new());
    if let Some(fault) = fault {
        fake.inject(fault);
    }
    send(&stack.service, request(SONNET, stream))
        .await
        .expect("an answer");
    stack.events.lines()
}

const ADMITTED: &str = "token-bucket admitted";
const HEADROOM: &str = "header-budget headroom";

#[tokio::test(start_paused = true)]
async fn response_emits_admitted_and_headroom() {
    for stream in [false, true] {
        assert_eq!(events(None, stream).await, [ADMITTED, HEADROOM]);
    }
}

#[tokio::test(start_paused = true)]
async fn retried_call_emits_the_events_of_both_attempts() {
    for stream in [false, true] {
        assert_eq!(
            events(Some(Fault::Overloaded), stream).await,
            [
                ADMITTED,
                HEADROOM,
                "retry retry overloaded",
                ADMITTED,
                HEADROOM
            ],
        );
        assert_eq!(
            events(Some(Fault::Reset), stream).await,
            [ADMITTED, "retry retry transport", ADMITTED, HEADROOM],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limit_emits_one_pause() {
    let fault = Fault::RateLimited {
        retry_after: SECOND,
    };
    let lines = events(Some(fault), false).await;
    let pauses = lines.iter().filter(|line| line.ends_with("paused")).count();
    assert_eq!(pauses, 1, "{lines:?}");
    let place = |what: &str| lines.iter().position(|line| line == what);
    assert!(
        place("header-budget paused") < place("retry retry rate_limited"),
        "{lines:?}"
    );
    assert_eq!(lines.last().map(String::as_str), Some(HEADROOM));
}

#[tokio::test(start_paused = true)]
async fn exhausted_call_emits_gave_up() {
    let fake = silent();
    let stack = Stack::new(fake.clone(), Limits::new());
    fake.inject(Fault::SpendCap);
    send(&stack.service, request(SONNET, false))
        .await
        .expect("an answer");
    let lines = stack.events.lines();
    assert_eq!(
        lines.last().map(String::as_str),
        Some("retry gave up: not_retryable")
    );
    fake.inject_times(Fault::Overloaded, 5);
    send(&stack.service, request(SONNET, false))
        .await
        .expect("an answer");
    let lines = stack.events.lines();
    assert_eq!(
        lines.last().map(String::as_str),
        Some("retry gave up: attempts")
    );
    assert_eq!(stack.events.count("retry retry overloaded"), 4);
    assert_eq!(stack.retry.snapshot().gave_up, 2);
}

#[tokio::test(start_paused = true)]
async fn stream_broken_after_content_emits_broken() {
    let after_tokens = 4;
    for (fault, how) in [
        (Fault::Cut { after_tokens }, "retry broken transport"),
        (Fault::Truncated { after_tokens }, "retry broken truncated"),
        (
            Fault::ErrorMidStream { after_tokens },
            "retry broken overloaded",
        ),
        (
            Fault::Stall {
                after_tokens,
                duration: 500 * SECOND,
            },
            "retry broken timeout",
        ),
    ] {
        assert_eq!(events(Some(fault), true).await, [ADMITTED, HEADROOM, how]);
    }
}

/// A local refusal is the news of the layer that refused, and of no other.
#[tokio::test(start_paused = true)]
async fn rejection_is_emitted_once() {
    let fake = silent();
    let bucket = tower_claude_token_bucket::TokenBucketLayer::new(rpm(1));
    let bucket = bucket.with_max_wait(SECOND);
    let stack = Stack::with(fake, tower_claude_retry::RetryLayer::new(), bucket);
    send(&stack.service, request(SONNET, false))
        .await
        .expect("an answer");
    let before = stack.events.lines().len();
    let seen = send(&stack.service, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(seen.status, 429);
    assert_eq!(stack.events.lines()[before..], ["token-bucket refused"]);
    assert_eq!(stack.retry.snapshot().gave_up, 0);
}

#[tokio::test(start_paused = true)]
async fn unauthorized_is_emitted_once() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .api_key("another")
        .build();
    let stack = Stack::new(fake, Limits::new());
    for _ in 0..3 {
        let seen = send(&stack.service, request(SONNET, true))
            .await
            .expect("an answer");
        assert_eq!(seen.status, 401);
    }
    assert_eq!(stack.events.count("header-budget unauthorized"), 1);
    stack.assert_idle("a wrong key");
}

/// Neither events nor debug output contain what the user sends.
#[tokio::test(start_paused = true)]
async fn events_and_debug_output_have_no_prompt_or_key() {
    let fake = quiet();
    let stack = Stack::new(fake.clone(), Limits::new());
    fake.inject(Fault::OwnSpendLimit);
    let request = crate::common::with(request(SONNET, false), "x-api-key", "key-of-the-vault");
    send(&stack.service, request).await.expect("an answer");
    let debug = format!("{:?} {:?} {:?}", stack.service, stack.limiter, stack.retry);
    for secret in ["key-of-the-vault", "\"Hi\""] {
        assert!(!debug.contains(secret), "{debug}");
        assert!(
            stack
                .events
                .lines()
                .iter()
                .all(|line| !line.contains(secret))
        );
    }
}
