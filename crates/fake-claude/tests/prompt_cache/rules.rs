//! Markers that the API rejects.

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_claude_wire::ApiError;

use crate::common::{fake, full, messages};

/// Returns the error message, which is empty for a success.
async fn rejection(betas: &str, body: &Value) -> String {
    let request = messages().header("anthropic-beta", betas);
    let request = request.body(full(body.to_string())).unwrap();
    let response = fake().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let message = ApiError::parse(&bytes).map_or(String::new(), |error| error.message);
    assert_eq!(status, if message.is_empty() { 200 } else { 400 }, "{body}");
    message
}

fn body(system: &Value, blocks: &Value) -> Value {
    json!({
        "model": "claude-opus-5-5",
        "max_tokens": 100,
        "system": system,
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": "Go"},
        ],
    })
}

fn text(ttl: &str) -> Value {
    json!({"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": ttl}})
}

#[tokio::test(start_paused = true)]
async fn more_than_four_markers_are_rejected() {
    let short = || text("5m");
    let five = json!([short(), short(), short(), short(), short()]);
    let four = json!([short(), short(), short(), short()]);
    let most = "A maximum of 4 blocks with cache_control may be provided. Found 5.";
    assert_eq!(rejection("", &body(&json!("s"), &five)).await, most);
    assert_eq!(rejection("", &body(&json!("s"), &four)).await, "");
    assert_eq!(rejection("", &body(&json!([short()]), &four)).await, most);
    // The automatic marker takes one of the four, unless the last block has the same.
    let mut automatic = body(&json!("s"), &four);
    automatic["cache_control"] = json!({"type": "ephemeral"});
    assert_eq!(rejection("", &automatic).await, most);
    automatic["messages"].as_array_mut().unwrap().pop();
    automatic["messages"][1]["role"] = "user".into();
    assert_eq!(rejection("", &automatic).await, "");
    automatic["cache_control"]["ttl"] = "1h".into();
    assert_eq!(
        rejection("", &automatic).await,
        "cache_control.ttl: the last block has a cache_control with another ttl"
    );
    // A marker in the content of a result counts too.
    let result = json!([{"type": "tool_result", "tool_use_id": "t", "content": four}, short()]);
    assert_eq!(rejection("", &body(&json!("s"), &result)).await, most);
}

#[tokio::test(start_paused = true)]
async fn hour_after_five_minutes_is_rejected() {
    let rest = "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. \
                Note that blocks are processed in the following order: `tools`, `system`, `messages`.";
    let (short, hour) = (text("5m"), text("1h"));
    let bodies = [
        (body(&json!([hour]), &json!([short])), String::new()),
        (body(&json!([hour]), &json!([hour, short])), String::new()),
        (
            body(&json!([short]), &json!([hour])),
            format!("messages.1.content.0.cache_control.ttl: {rest}"),
        ),
        (
            body(&json!([short, hour]), &json!("a")),
            format!("system.1.cache_control.ttl: {rest}"),
        ),
        (
            body(
                &json!("s"),
                &json!([short, {"type": "tool_result", "tool_use_id": "t", "content": [hour]}]),
            ),
            format!("messages.1.content.1.content.0.cache_control.ttl: {rest}"),
        ),
    ];
    for (body, message) in bodies {
        assert_eq!(rejection("", &body).await, message, "{body}");
    }
    // Tools come before the system prompt, wherever they stand in the body.
    let mut tools = body(&json!([hour]), &json!("a"));
    tools["tools"] =
        json!([{"name": "a", "input_schema": {}, "cache_control": {"type": "ephemeral"}}]);
    let message = format!("system.0.cache_control.ttl: {rest}");
    assert_eq!(rejection("", &tools).await, message);
    let mut automatic = body(&json!([short]), &json!("a"));
    automatic["cache_control"] = json!({"type": "ephemeral", "ttl": "1h"});
    let message = format!("cache_control.ttl: {rest}");
    assert_eq!(rejection("", &automatic).await, message);
}

#[tokio::test(start_paused = true)]
async fn block_that_takes_no_marker_is_rejected_with_its_path() {
    let marked = |block: Value| {
        let mut block = block;
        block["cache_control"] = json!({"type": "ephemeral"});
        block
    };
    let empty = marked(json!({"type": "text", "text": ""}));
    let blank = marked(json!({"type": "text", "text": " \n"}));
    let thinking = marked(json!({"type": "thinking", "thinking": "a", "signature": "s"}));
    let redacted = marked(json!({"type": "redacted_thinking", "data": "a"}));
    let by_code = json!({"type": "tool_use", "id": "t", "name": "a", "input": {},
        "caller": {"type": "code_execution_20250825"}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": "ok"});
    let cited = json!({"type": "text", "text": "a", "citations": [marked(json!({"type": "char_location"}))]});
    let first = json!({"type": "text", "text": "a"});
    for (blocks, message) in [
        (
            json!([first, thinking]),
            "messages.1.content.1.thinking.cache_control: Extra inputs are not permitted",
        ),
        (
            json!([redacted]),
            "messages.1.content.0.redacted_thinking.cache_control: Extra inputs are not permitted",
        ),
        (
            json!([blank]),
            "messages.1.content.0.text: cache_control cannot be set for empty text blocks",
        ),
        (
            json!([empty]),
            "messages.1.content.0.text: cache_control cannot be set for empty text blocks",
        ),
        (
            json!([cited]),
            "messages.1.content.0.text.citations.0.cache_control: Extra inputs are not permitted",
        ),
        (
            json!([marked(by_code.clone())]),
            "messages.1.content.0.tool_use: cache_control cannot be set for blocks of calls from code execution",
        ),
        (
            json!([by_code, marked(result.clone())]),
            "messages.1.content.1.tool_result: cache_control cannot be set for blocks of calls from code execution",
        ),
        (json!([marked(result)]), ""),
    ] {
        let body = body(&json!("s"), &blocks);
        assert_eq!(rejection("", &body).await, message);
    }
    let system = body(&json!([first, empty]), &json!("a"));
    assert_eq!(
        rejection("", &system).await,
        "system.1: cache_control cannot be set for empty text blocks"
    );
    let mut deferred = body(&json!("s"), &json!("a"));
    deferred["tools"] = json!([marked(
        json!({"name": "look", "input_schema": {}, "defer_loading": true})
    )]);
    assert_eq!(
        rejection("", &deferred).await,
        "Tool 'look' cannot have both defer_loading=true and cache_control set. Tools with defer_loading cannot use prompt caching."
    );
    let mut scoped = body(&json!("s"), &json!("a"));
    scoped["messages"][2] = json!({"role": "user", "content": "Go"});
    let reminder =
        json!({"role": "system", "clear_at": "next_user_message", "content": [marked(first)]});
    scoped["messages"].as_array_mut().unwrap().push(reminder);
    assert_eq!(
        rejection("", &scoped).await,
        "messages.3.content.0: cache_control cannot be set in a message with clear_at"
    );
}

#[tokio::test(start_paused = true)]
async fn malformed_marker_is_rejected() {
    let scope = json!({"type": "ephemeral", "scope": "global"});
    for (betas, marker, message) in [
        ("", json!(1), ": Input should be an object"),
        ("", json!({}), ".type: Field required"),
        (
            "",
            json!({"type": "lasting"}),
            ": Input tag \"lasting\" found using 'type' does not match any of the expected tags: 'ephemeral'",
        ),
        (
            "",
            json!({"type": "ephemeral", "ttl": "2h"}),
            ".ephemeral.ttl: Input should be '5m' or '1h'",
        ),
        (
            "",
            scope.clone(),
            ".ephemeral.scope: Extra inputs are not permitted",
        ),
        ("prompt-caching-scope-2026-01-05", scope, ""),
        ("", json!({"type": "ephemeral", "ttl": null}), ""),
        ("", Value::Null, ""),
    ] {
        let block = json!({"type": "text", "text": "a", "cache_control": marker});
        let said = rejection(betas, &body(&json!("s"), &json!([block]))).await;
        let expected = match message {
            "" => String::new(),
            message => format!("messages.1.content.0.cache_control{message}"),
        };
        assert_eq!(said, expected);
        let mut automatic = body(&json!("s"), &json!("a"));
        automatic["cache_control"] = marker;
        let said = rejection(betas, &automatic).await;
        let expected = match message {
            "" => String::new(),
            message => format!("cache_control{message}"),
        };
        assert_eq!(said, expected);
    }
}
