//! The layer over the fake API, and prompts.

use std::time::Duration;

use serde_json::{Value, json};
use tower::Layer;
use tower_claude_core::RequestBody;
use tower_claude_core::event::Event;
use tower_claude_fake_claude::{FakeClaude, FakeError, GroupLimits};
use tower_claude_prompt_cache::PromptCacheLayer;
use tower_claude_tests::{BASE, EventLog, Received, post, send};

pub(crate) use tower_claude_tests::{SECOND, SONNET};

pub(crate) type Answer = Received<FakeError>;

pub(crate) fn fake() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .time_to_first_token(Duration::from_millis(800))
        .tokens_per_second(100.0)
        .output_tokens(20)
        .keep_requests(1_000)
        .build()
}

/// Returns a text of about this many tokens, which differs with the seed from its first word on.
pub(crate) fn text(seed: usize, tokens: usize) -> String {
    let mut text = format!("Text {seed}.");
    while text.len() < tokens * 3 {
        text.push_str(&format!(" Line {} of {seed}.", text.len()));
    }
    text
}

/// A prompt with a system text, and messages that alternate between user and assistant.
pub(crate) fn prompt(system: &str, messages: &[String]) -> Value {
    let messages = messages.iter().enumerate().map(|(at, text)| {
        let role = if at % 2 == 0 { "user" } else { "assistant" };
        json!({"role": role, "content": text})
    });
    json!({
        "model": SONNET, "max_tokens": 64, "stream": true, "system": system,
        "messages": messages.collect::<Vec<_>>(),
    })
}

/// A question about a document.
pub(crate) fn question(document: &str, question: usize) -> Value {
    json!({
        "model": SONNET, "max_tokens": 64, "stream": true,
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": document},
            {"type": "text", "text": text(1_000 + question, 20)},
        ]}],
    })
}

/// Sends a prompt, and reads the response to its end.
pub(crate) async fn ask(layer: &PromptCacheLayer, fake: &FakeClaude, prompt: &Value) -> Answer {
    let request = post::<RequestBody>(BASE, prompt.to_string());
    let answer = send(&layer.layer(fake.clone()), request).await;
    answer.expect("the fake answers")
}

/// Returns the last body that the fake has received.
pub(crate) fn last_body(fake: &FakeClaude) -> String {
    fake.with_log(|log| {
        let request = log.last().and_then(|attempt| attempt.request.as_ref());
        let body = &request.expect("a kept request").body;
        String::from_utf8(body.to_vec()).expect("JSON")
    })
}

/// Returns the number of breakpoints in a body.
pub(crate) fn breakpoints(body: &str) -> usize {
    body.matches("cache_control").count()
}

/// Holds conversations of this many turns, with 20 s between the turns.
pub(crate) async fn converse(
    layer: &PromptCacheLayer,
    fake: &FakeClaude,
    conversations: std::ops::Range<usize>,
    turns: usize,
) {
    let system = text(0, 2_000);
    for seed in conversations {
        let mut messages = Vec::new();
        for turn in 0..turns {
            messages.push(text(100 * seed + turn + 1, 300));
            assert_eq!(
                ask(layer, fake, &prompt(&system, &messages)).await.status,
                200
            );
            messages.push(text(50_000 + 100 * seed + turn, 100));
            tokio::time::sleep(20 * SECOND).await;
        }
    }
}

/// Returns a layer and the lines of its events.
pub(crate) fn observed() -> (PromptCacheLayer, EventLog) {
    let events = EventLog::new(|event| match event {
        Event::PromptCache { miss, block, .. } => {
            let miss = miss.unwrap_or("hit");
            Some(match block {
                Some(block) => format!("{miss} {block}"),
                None => miss.to_owned(),
            })
        }
        Event::PromptCacheOff { boundary, .. } => Some(format!("off {boundary}")),
        _ => None,
    });
    let layer = PromptCacheLayer::new().with_observer(events.clone());
    (layer, events)
}
