//! Amazon Bedrock's endpoints of the Claude API.

use serde_json::{Value, json};
use tower_claude_fake_claude::{FakeClaude, FakeCloud, Fault};

use crate::{Answer, MESSAGES, bedrock, merged, post, post_messages, send, with_header};

fn body(more: &Value) -> Value {
    let base = json!({
        "model": "anthropic.claude-opus-5-5",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Hi"}],
    });
    merged(base, more)
}

fn mantle() -> FakeClaude {
    let cloud = FakeCloud::bedrock_messages("us-east-1");
    FakeClaude::builder().cloud(cloud).build()
}

async fn ask(fake: &FakeClaude, more: Value) -> Answer {
    send(fake, post_messages(MESSAGES, &body(&more))).await
}

fn assert_error(answer: &Answer, status: u16, kind: &str, part: &str) {
    assert_eq!(answer.status, status, "{:?}", answer.body);
    let json = answer.json();
    assert_eq!(
        (&json["type"], &json["error"]["type"]),
        (&json!("error"), &json!(kind))
    );
    assert!(
        answer.message().contains(part),
        "{part}: {}",
        answer.message()
    );
    assert!(!answer.has_rate_headers());
}

#[tokio::test(start_paused = true)]
async fn message_and_stream_are_those_of_the_claude_api() {
    for fake in [mantle(), bedrock()] {
        let answer = ask(&fake, json!({})).await;
        assert_eq!(answer.json()["model"], "claude-opus-5-5");
        assert!(!answer.has_rate_headers());
        let answer = ask(&fake, json!({"stream": true})).await;
        assert!(
            answer
                .header("content-type")
                .starts_with("text/event-stream")
        );
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(text.ends_with("data: {\"type\":\"message_stop\"}\n\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_are_counted() {
    let request = post_messages("/anthropic/v1/messages/count_tokens", &body(&json!({})));
    let answer = send(&mantle(), request).await;
    assert!(answer.json()["input_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test(start_paused = true)]
async fn id_of_another_form_is_not_found() {
    for id in [
        "us.anthropic.claude-opus-5-5",
        "claude-opus-5-5",
        "anthropic.claude-opus-9-9",
    ] {
        let answer = ask(&mantle(), json!({"model": id})).await;
        assert_error(&answer, 404, "not_found_error", &format!("model: {id}"));
    }
    let answer = send(&mantle(), post_messages(MESSAGES, &json!({}))).await;
    assert_error(
        &answer,
        400,
        "invalid_request_error",
        "model: Field required",
    );
}

#[tokio::test(start_paused = true)]
async fn version_in_the_header_is_required_and_depends_on_the_generation() {
    let answer = send(&mantle(), post(MESSAGES, &body(&json!({})))).await;
    assert_error(
        &answer,
        400,
        "invalid_request_error",
        "anthropic-version: header is required",
    );
    for (model, status) in [
        ("anthropic.claude-opus-5-5", 200),
        ("anthropic.claude-sonnet-4-6", 400),
    ] {
        let request = post_messages(MESSAGES, &body(&json!({"model": model})));
        let request = with_header(request, "anthropic-version", "2026-10-21");
        assert_eq!(send(&mantle(), request).await.status, status, "{model}");
    }
}

#[tokio::test(start_paused = true)]
async fn beta_and_feature_that_the_platform_lacks_are_rejected() {
    let request = post_messages(MESSAGES, &body(&json!({})));
    let request = with_header(
        request,
        "anthropic-beta",
        "skills-2025-10-02,effort-2025-11-24, mcp-client-2025-11-20",
    );
    let text = "Unexpected value(s) `skills-2025-10-02`, `mcp-client-2025-11-20` for the `anthropic-beta` header.";
    assert_error(
        &send(&mantle(), request).await,
        400,
        "invalid_request_error",
        text,
    );
    let request = post_messages(MESSAGES, &body(&json!({})));
    let request = with_header(request, "anthropic-beta", "interleaved-thinking-2025-05-14");
    assert_eq!(send(&mantle(), request).await.status, 200);
    let search = json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]});
    let answer = ask(&mantle(), search).await;
    assert_error(&answer, 400, "invalid_request_error", "tools.0: Input tag");
    let search = json!({"tools": [{"type": "tool_search_tool_regex_20251119", "name": "s"}]});
    assert_eq!(ask(&mantle(), search).await.status, 200);
    // These are in the body of this platform only.
    assert_eq!(
        ask(&mantle(), json!({"user_profile_id": "u"})).await.status,
        200
    );
    let answer = ask(&mantle(), json!({"anthropic_version": "2026-10-21"})).await;
    assert_error(
        &answer,
        400,
        "invalid_request_error",
        "anthropic_version: Extra inputs",
    );
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_the_platform_lacks_is_not_found() {
    for path in [
        "/anthropic/v1/messages/batches",
        "/anthropic/v1/models",
        "/v1/messages",
        "/model/us.anthropic.claude-opus-5-5/invoke",
    ] {
        let answer = send(&mantle(), post_messages(path, &body(&json!({})))).await;
        assert_error(&answer, 404, "not_found_error", "could not be found");
    }
}

#[tokio::test(start_paused = true)]
async fn fault_is_an_error_of_the_claude_api() {
    let fake = mantle();
    for (fault, status, kind) in [
        (Fault::Overloaded, 529, "overloaded_error"),
        (Fault::RateLimitedBare, 429, "rate_limit_error"),
        (Fault::ServerError, 500, "api_error"),
    ] {
        fake.inject(fault);
        let answer = ask(&fake, json!({})).await;
        assert_error(&answer, status, kind, "");
        assert!(
            answer.json()["request_id"]
                .as_str()
                .unwrap()
                .starts_with("req_")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn key_is_accepted_in_either_header() {
    let cloud = FakeCloud::bedrock_messages("us-east-1").bearer("key");
    let fake = FakeClaude::builder().cloud(cloud).build();
    let request = || http::Request::post(MESSAGES).header("anthropic-version", "2023-06-01");
    let full = || http_body_util::Full::new(body(&json!({})).to_string().into());
    for (name, value, status) in [
        ("x-api-key", "key", 200),
        ("authorization", "Bearer key", 200),
        ("x-api-key", "other", 403),
        ("authorization", "Bearer other", 403),
        ("authorization", "Basic key", 403),
    ] {
        let request = request().header(name, value).body(full()).unwrap();
        assert_eq!(send(&fake, request).await.status, status, "{name}: {value}");
    }
    let answer = send(&fake, request().body(full()).unwrap()).await;
    assert_error(
        &answer,
        403,
        "permission_error",
        "Missing Authentication Token",
    );
}
