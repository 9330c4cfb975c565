//! The recommended stack with the prompt cache.

use std::time::Duration;

use serde_json::json;
use tokio::{task::JoinSet, time::Instant};
use tower::{Layer, ServiceExt};
use tower_claude::{Limits, PromptCacheLayer, Recommended, RequestBody, recommended};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_tests::{BASE, SONNET, post, send};

/// A server that admits 60,000 input tokens a minute.
fn server() -> FakeClaude {
    let limits = GroupLimits::new()
        .with_requests_per_minute(10_000)
        .with_input_tokens_per_minute(60_000)
        .with_output_tokens_per_minute(1_000_000);
    FakeClaude::builder()
        .limits(limits)
        .time_to_first_token(Duration::from_millis(700))
        .output_tokens(20)
        .build()
}

fn stack() -> Recommended {
    recommended().with_limits(
        Limits::new()
            .with_requests_per_minute(10_000.try_into().expect("not zero"))
            .with_input_tokens_per_minute(60_000.try_into().expect("not zero"))
            .with_output_tokens_per_minute(1_000_000.try_into().expect("not zero")),
    )
}

fn question(document: usize, number: usize) -> RequestBody {
    let line = format!("Line of document {document}. ");
    let body = json!({
        "model": SONNET, "max_tokens": 64, "stream": true,
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": line.repeat(2_400)},
            {"type": "text", "text": format!("Question {number}?")},
        ]}],
    });
    body.to_string().into()
}

/// Asks 24 questions about a document at once. Returns the time that all took, and the number of
/// those that were answered.
async fn fan_out(stack: &Recommended, server: &FakeClaude, document: usize) -> (Duration, usize) {
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0..24 {
        let service = stack.layer(server.clone());
        calls.spawn(async move {
            let request = post::<RequestBody>(BASE, question(document, number));
            send(&service, request).await.expect("an answer").status
        });
    }
    let mut answered = 0;
    while let Some(status) = calls.join_next().await {
        answered += usize::from(status.expect("no panic") == 200);
    }
    (begun.elapsed(), answered)
}

#[tokio::test(start_paused = true)]
async fn fan_out_takes_its_document_from_the_limit_once() {
    let stack = stack().with_prompt_cache();
    let server = server();
    fan_out(&stack, &server, 1).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let before = server.log_len();
    let (time, answered) = fan_out(&stack, &server, 2).await;
    assert_eq!(answered, 24);
    let charged: u64 = server.with_log(|log| log[before..].iter().map(|it| it.charged_input).sum());
    assert!(charged < 40_000, "{charged}");
    assert!(time < Duration::from_secs(10), "{time:?}");
    let handle = stack.prompt_cache().expect("switched on").handle();
    assert!(!handle.snapshot().saved.is_negative());
}

#[tokio::test(start_paused = true)]
async fn without_the_layer_the_same_fan_out_exceeds_the_limit() {
    let (stack, server) = (stack(), server());
    fan_out(&stack, &server, 1).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let (_, answered) = fan_out(&stack, &server, 2).await;
    assert!(answered < 12, "{answered}");
}

#[tokio::test(start_paused = true)]
async fn retried_attempt_is_marked_again() {
    let layer = PromptCacheLayer::new();
    let stack = recommended().with_prompt_cache_layer(layer.clone());
    let server = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build();
    for number in 0..6 {
        if number > 3 {
            server.inject(Fault::Overloaded);
        }
        let request = post::<RequestBody>(BASE, question(1, number));
        let response = stack
            .layer(server.clone())
            .oneshot(request)
            .await
            .expect("an answer");
        tower_claude_tests::read(response.into_body()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    server.with_log(|log| {
        let last = &log[log.len() - 2..];
        assert_eq!((last[0].status, last[1].status), (529, 200));
        assert!(last[1].cache_read > 5_000, "{}", last[1].cache_read);
    });
    assert!(layer.handle().snapshot().usage.read > 0);
}
