//! Thinking that is bound to an account.

use serde_json::{Value, json};
use tower_claude_fake_claude::{FakeClaude, FakeClaudeBuilder, FakeCloud, Reply};

use crate::{INVOKE, STREAM, frames::Frame, invoke_body, post, send};

const SONNET: &str = "/model/us.anthropic.claude-sonnet-5-5/invoke";

fn account(name: &str) -> FakeClaudeBuilder {
    let cloud = FakeCloud::bedrock("us-east-1").account(name);
    FakeClaude::builder().cloud(cloud)
}

/// Returns the thinking that a model makes in an account.
async fn made(fake: &FakeClaude, path: &str) -> Value {
    fake.reply(Reply::new().with_thinking("Let me see.").with_text("Hm."));
    let answer = send(fake, post(path, &invoke_body(&json!({})))).await;
    answer.json()["content"][0].clone()
}

fn conversation(thinking: &Value, more: &Value) -> Value {
    let turns = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [thinking, {"type": "text", "text": "Hm."}]},
        {"role": "user", "content": "Go on"},
    ]);
    crate::merged(invoke_body(&json!({"messages": turns})), more)
}

#[tokio::test(start_paused = true)]
async fn thinking_of_another_account_is_dropped_and_not_billed() {
    let (one, other) = (account("one").build(), account("other").build());
    let thinking = made(&one, SONNET).await;
    assert!(thinking["signature"].is_string());
    let body = conversation(&thinking, &json!({}));
    assert_eq!(send(&one, post(SONNET, &body)).await.status, 200);
    let answer = send(&other, post(SONNET, &body)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.json().get("input_transformations").is_none());
    let (kept, dropped) = (&one.log()[1], &other.log()[0]);
    assert_eq!((kept.dropped_thinking, dropped.dropped_thinking), (0, 1));
    assert!(kept.charged_input > dropped.charged_input + 20);
}

#[tokio::test(start_paused = true)]
async fn dropped_thinking_is_reported_with_its_beta() {
    let thinking = made(&account("one").build(), SONNET).await;
    let more = json!({"anthropic_beta": ["thinking-binding-controls-2026-08-01"]});
    let body = conversation(&thinking, &more);
    let reported = json!([{
        "type": "thinking_dropped",
        "path": "messages.1.content.0",
        "reason": "organization_binding_mismatch",
    }]);
    let other = account("other").build();
    let answer = send(&other, post(SONNET, &body)).await;
    assert_eq!(answer.json()["input_transformations"], reported);
    let stream = SONNET.replace("invoke", "invoke-with-response-stream");
    let answer = send(&other, post(&stream, &body)).await;
    let start = Frame::all(&answer.body).0[0].event();
    assert_eq!(start["message"]["input_transformations"], reported);
    let answer = send(&account("one").build(), post(SONNET, &body)).await;
    assert_eq!(answer.json()["input_transformations"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn thinking_of_another_account_is_rejected_where_it_is_set() {
    let thinking = made(&account("one").build(), SONNET).await;
    let body = conversation(&thinking, &json!({}));
    let other = account("other").reject_foreign_thinking(true).build();
    let answer = send(&other, post(SONNET, &body)).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.message(),
        "messages.1.content.0: Invalid `signature` in `thinking` block"
    );
    let one = account("one").reject_foreign_thinking(true).build();
    assert_eq!(send(&one, post(SONNET, &body)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn thinking_of_an_unbound_model_or_without_our_signature_is_kept() {
    let other = account("other").reject_foreign_thinking(true).build();
    let opus = made(&account("one").build(), INVOKE).await;
    for signature in [
        opus["signature"].clone(),
        json!("c2ln"),
        json!("not base64!"),
        json!(1),
    ] {
        let thinking = json!({"type": "thinking", "thinking": "Hm.", "signature": signature});
        let body = conversation(&thinking, &json!({}));
        assert_eq!(
            send(&other, post(SONNET, &body)).await.status,
            200,
            "{signature}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn thinking_moves_between_the_claude_api_and_no_cloud() {
    let api = FakeClaude::default();
    api.reply(Reply::new().with_thinking("Let me see.").with_text("Hm."));
    let ask = |body: &Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().remove("anthropic_version");
        body["model"] = json!("claude-sonnet-5-5");
        crate::post_messages("/v1/messages", &body)
    };
    let answer = send(&api, ask(&invoke_body(&json!({})))).await;
    let body = conversation(&answer.json()["content"][0], &json!({}));
    assert_eq!(send(&api, ask(&body)).await.status, 200);
    assert_eq!(api.log()[1].dropped_thinking, 0);
    let cloud = account("one").build();
    assert_eq!(send(&cloud, post(SONNET, &body)).await.status, 200);
    assert_eq!(cloud.log()[0].dropped_thinking, 1);
}

#[tokio::test(start_paused = true)]
async fn signature_is_a_delta_of_the_stream() {
    let fake = account("one").build();
    fake.reply(Reply::new().with_thinking("Let me see."));
    let answer = send(&fake, post(STREAM, &invoke_body(&json!({})))).await;
    let (frames, _) = Frame::all(&answer.body);
    let events: Vec<Value> = frames.iter().map(Frame::event).collect();
    assert_eq!(events[1]["content_block"]["signature"], "");
    let deltas = events
        .iter()
        .filter(|event| event["delta"]["type"] == "signature_delta");
    assert_eq!(deltas.count(), 1);
}
