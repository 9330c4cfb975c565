//! The prompt cache of the API, marked where it pays: the money that three loads cost with it and
//! without it.
//!
//! `cargo run --example prompt_cache`
#![forbid(unsafe_code)]

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};
use tower_claude::{
    PromptCacheLayer, RequestBody, prompt_cache::CacheUsage, recommended, wire::ModelCatalog,
};
use tower_claude_fake_claude::{FakeClaude, GroupLimits};
use tower_claude_reqwest::HttpService;

type Error = Box<dyn std::error::Error + Send + Sync>;

const MODEL: &str = "claude-sonnet-5-5";

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!(
        "load                                    input tokens   read  written   saved of input"
    );
    let conversations =
        (0..4).flat_map(|seed| (1..9).map(move |turns| vec![conversation(seed, turns)]));
    run("4 conversations of 8 turns", conversations).await?;
    let fan_outs =
        (0..4).map(|document| (0..16).map(|number| question(document, number)).collect());
    run("4 documents, 16 questions at once each", fan_outs).await?;
    let single = (0..24).map(|number| vec![question(100 + number, 0)]);
    run("24 documents, 1 question each", single).await?;
    Ok(())
}

/// Sends these prompts through the recommended stack, each group at once, and prints the savings.
async fn run(name: &str, groups: impl Iterator<Item = Vec<Value>>) -> Result<(), Error> {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .time_to_first_token(Duration::from_millis(30))
        .build();
    let server = fake.serve().await?;
    let layer = PromptCacheLayer::new();
    let claude = recommended().with_prompt_cache_layer(layer.clone());
    let claude = claude.layer(HttpService::new(reqwest::Client::new()));
    for group in groups {
        let calls = group.into_iter().map(|prompt| {
            let (claude, url) = (claude.clone(), format!("{}/v1/messages", server.url()));
            async move {
                let request = Request::post(url)
                    .header("x-api-key", "any")
                    .header("anthropic-version", "2023-06-01")
                    .body(RequestBody::from(Bytes::from(prompt.to_string())))?;
                let response = claude.oneshot(request).await?;
                assert_eq!(response.status(), 200);
                response.into_body().collect().await?;
                Ok::<(), Error>(())
            }
        });
        join_all(calls)
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
    }
    let snapshot = layer.handle().snapshot();
    let (read, written) = fake.with_log(|log| {
        let read: u64 = log.iter().map(|attempt| attempt.cache_read).sum();
        let written: u64 = log.iter().map(|attempt| attempt.cache_creation).sum();
        (read, written)
    });
    let charged: u64 = fake.with_log(|log| log.iter().map(|attempt| attempt.charged_input).sum());
    let input = charged + read;
    let price = ModelCatalog::builtin()
        .lookup(MODEL)
        .about
        .prices
        .as_ref()
        .map(|it| it.base.input);
    let uncached = price.unwrap_or(0) as f64 * input as f64 / 1e9;
    let saved = snapshot.saved.dollars();
    println!(
        "{name:38} {input:13} {read:6} {written:8}   ${saved:.3} of ${uncached:.3} ({:.0} %)",
        100.0 * saved / uncached,
    );
    let CacheUsage { read: seen, .. } = snapshot.usage;
    assert_eq!(seen, read, "the layer has seen what the API has read");
    Ok(())
}

/// Returns the prompt of a turn of a conversation with a common system prompt.
fn conversation(seed: usize, turns: usize) -> Value {
    let messages = (0..2 * turns - 1).map(|at| {
        let role = if at % 2 == 0 { "user" } else { "assistant" };
        json!({"role": role, "content": text(&format!("turn {at} of {seed}"), 40)})
    });
    json!({
        "model": MODEL, "max_tokens": 64, "stream": true,
        "system": text("rule", 400), "messages": messages.collect::<Vec<_>>(),
    })
}

/// Returns a question about a document.
fn question(document: usize, number: usize) -> Value {
    json!({
        "model": MODEL, "max_tokens": 64, "stream": true,
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": text(&format!("document {document}"), 400)},
            {"type": "text", "text": format!("Question {number}?")},
        ]}],
    })
}

fn text(of: &str, lines: usize) -> String {
    (0..lines)
        .map(|line| format!("Line {line} of {of}. "))
        .collect()
}
