//! Scripted replies, faults with any response, kept requests and the control endpoints.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_claude_fake_claude::{FakeClaude, Fault, Reply};

fn message(stream: bool) -> Request<Full<Bytes>> {
    let body = json!({"model": "claude-sonnet-5-5", "max_tokens": 100, "stream": stream,
        "messages": [{"role": "user", "content": "Hi"}]});
    Request::post("/v1/messages?beta=true")
        .header("x-api-key", "secret")
        .header("anthropic-version", "2023-06-01")
        .body(Full::new(body.to_string().into()))
        .expect("a request")
}

async fn send(fake: &FakeClaude, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
    let response = fake.clone().oneshot(request).await.expect("a response");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a whole body");
    (status, body.to_bytes())
}

/// Puts the deltas of a stream together.
fn assemble(stream: &[u8]) -> (Vec<Value>, Value) {
    let text = std::str::from_utf8(stream).expect("UTF-8");
    let (mut blocks, mut input, mut stop_reason) = (Vec::new(), String::new(), Value::Null);
    for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let data: Value = serde_json::from_str(data).expect("JSON");
        match data["type"].as_str() {
            Some("content_block_start") => blocks.push(data["content_block"].clone()),
            Some("content_block_delta") => {
                let block = blocks.last_mut().expect("a block");
                if let Some(text) = data["delta"]["text"].as_str() {
                    block["text"] = format!("{}{text}", block["text"].as_str().unwrap()).into();
                }
                input += data["delta"]["partial_json"].as_str().unwrap_or_default();
            }
            Some("content_block_stop") if !input.is_empty() => {
                blocks.last_mut().expect("a block")["input"] =
                    serde_json::from_str(&std::mem::take(&mut input)).expect("JSON");
            }
            Some("message_delta") => stop_reason = data["delta"]["stop_reason"].clone(),
            _ => {}
        }
    }
    (blocks, stop_reason)
}

#[tokio::test(start_paused = true)]
async fn scripted_reply_as_stream_and_json_has_same_content() {
    let fake = FakeClaude::builder().tokens_per_second(50.0).build();
    let reply = Reply::text("Größe: let me look at the weather there, please wait.")
        .with_tool_use("weather", json!({"city": "Zürich", "days": [1, 2, 3]}))
        .with_block(json!({"type": "web_search_tool_result", "tool_use_id": "a", "content": []}))
        .with_tool_use("empty", json!({}));
    let mut contents = Vec::new();
    for stream in [false, true] {
        fake.reply(reply.clone());
        let (status, body) = send(&fake, message(stream)).await;
        assert_eq!(status, StatusCode::OK);
        contents.push(if stream {
            assemble(&body)
        } else {
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let content = body["content"].as_array().expect("blocks").clone();
            (content, body["stop_reason"].clone())
        });
    }
    assert_eq!(contents[0], contents[1]);
    assert_eq!(contents[0].1, "tool_use");
    let log = fake.log();
    assert!(log[0].charged_output > 10, "{}", log[0].charged_output);
    assert_eq!(log[0].charged_output, log[1].charged_output);
    assert!(log.iter().all(|attempt| attempt.completed));
}

#[tokio::test(start_paused = true)]
async fn empty_reply_is_message_without_content() {
    let fake = FakeClaude::default();
    for stream in [false, true] {
        fake.reply(Reply::new().with_stop_reason("refusal"));
        let (_, body) = send(&fake, message(stream)).await;
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains(r#""stop_reason":"refusal""#), "{text}");
        assert!(!text.contains("content_block"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn selected_reply_depends_on_request_and_queued_reply_comes_first() {
    let fake = FakeClaude::builder()
        .reply_with(|request| {
            let body: Value = serde_json::from_slice(&request.body).expect("JSON");
            Some(Reply::json(
                json!({"asked": body["messages"][0]["content"]}),
            ))
        })
        .build();
    fake.reply(Reply::text("first"));
    let (_, first) = send(&fake, message(false)).await;
    let (_, second) = send(&fake, message(false)).await;
    assert!(String::from_utf8_lossy(&first).contains("first"));
    assert!(String::from_utf8_lossy(&second).contains(r#"{\"asked\":\"Hi\"}"#));
}

#[tokio::test(start_paused = true)]
async fn fault_in_scripted_reply_breaks_it_off() {
    let fake = FakeClaude::default();
    fake.reply(Reply::text("word ".repeat(50)));
    fake.inject(Fault::Truncated { after_tokens: 8 });
    let (_, body) = send(&fake, message(true)).await;
    let text = String::from_utf8_lossy(&body);
    assert!(
        text.contains("text_delta") && !text.contains("message_stop"),
        "{text}"
    );
    assert!(fake.log()[0].broken_after_content);
}

#[tokio::test(start_paused = true)]
async fn custom_fault_is_sent_as_given() {
    let fake = FakeClaude::default();
    fake.inject(Fault::Custom {
        status: StatusCode::IM_A_TEAPOT,
        headers: vec![
            (
                HeaderName::from_static("content-type"),
                HeaderValue::from_static("text/plain"),
            ),
            (
                HeaderName::from_static("x-own"),
                HeaderValue::from_static("1"),
            ),
        ],
        body: Bytes::from_static(b"short and stout"),
    });
    let response = fake
        .clone()
        .oneshot(message(false))
        .await
        .expect("a response");
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(response.headers()["x-own"], "1");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "short and stout");
    assert_eq!(
        (fake.log()[0].status, fake.log()[0].fault),
        (418, Some("custom"))
    );
}

#[tokio::test(start_paused = true)]
async fn log_keeps_latest_requests_only() {
    let fake = FakeClaude::builder().keep_requests(2).build();
    for _ in 0..3 {
        send(&fake, message(false)).await;
    }
    let log = fake.log();
    assert!(log[0].request.is_none());
    let request = log[2].request.as_ref().expect("the latest request");
    assert_eq!(request.uri.path(), "/v1/messages");
    assert_eq!(request.headers["x-api-key"], "secret");
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!(body["model"], "claude-sonnet-5-5");
    let debug = format!("{log:?}");
    assert!(
        !debug.contains("secret") && !debug.contains("Hi"),
        "{debug}"
    );
}

fn control(method: &str, path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(Full::new(body.to_owned().into()))
        .expect("a request")
}

#[tokio::test(start_paused = true)]
async fn control_endpoints_script_faults_and_replies() {
    let fake = FakeClaude::default();
    let ok = |body| control("POST", "/fake/replies", body);
    for body in [r#""one""#, r#"{"text":"two","stop_reason":"max_tokens"}"#] {
        assert_eq!(send(&fake, ok(body)).await.0, StatusCode::OK);
    }
    let fault = r#"{"fault":"custom","status":503,"headers":{"retry-after":"7"},"body":{"a":1}}"#;
    assert_eq!(
        send(&fake, control("POST", "/fake/faults", fault)).await.0,
        StatusCode::OK
    );
    let (status, body) = send(&fake, message(false)).await;
    assert_eq!(
        (status, &body[..]),
        (StatusCode::SERVICE_UNAVAILABLE, &br#"{"a":1}"#[..])
    );
    for text in ["one", "two"] {
        let (_, body) = send(&fake, message(false)).await;
        assert!(String::from_utf8_lossy(&body).contains(text));
    }
    send(
        &fake,
        control(
            "POST",
            "/fake/faults",
            r#"{"fault":"overloaded","times":9}"#,
        ),
    )
    .await;
    send(&fake, control("DELETE", "/fake/", "")).await;
    assert_eq!(send(&fake, message(false)).await.0, StatusCode::OK);
    let (_, log) = send(&fake, control("GET", "/fake/log", "")).await;
    let log: Value = serde_json::from_slice(&log).expect("JSON");
    assert_eq!(log.as_array().map(Vec::len), Some(4)); // no control request
    assert_eq!(log[0]["status"], 503);
    assert_eq!(log[1]["request"]["body"]["max_tokens"], 100);
    assert_eq!(log[1]["request"]["headers"]["x-api-key"], "…");
    assert_eq!(log[1]["request"]["query"], "beta=true");
    let secrets = ["x-goog-api-key", "cf-aig-authorization", "authorization"];
    for name in secrets {
        let mut request = message(false);
        *request.uri_mut() = "/v1/messages?key=hidden".parse().expect("a URI");
        let value = HeaderValue::from_static("hidden");
        request.headers_mut().insert(name, value);
        send(&fake, request).await;
    }
    let (_, log) = send(&fake, control("GET", "/fake/log", "")).await;
    assert!(!String::from_utf8_lossy(&log).contains("hidden"));
}

#[tokio::test(start_paused = true)]
async fn control_endpoints_with_bad_input_name_field_and_value() {
    let fake = FakeClaude::default();
    for (method, path, body, expected) in [
        ("POST", "/fake/replies", "{", "not JSON"),
        ("POST", "/fake/replies", "7", "`text` or `content`"),
        ("POST", "/fake/faults", "{}", "fault: a name"),
        ("POST", "/fake/faults", r#"{"fault":"fire"}"#, "fire"),
        (
            "POST",
            "/fake/faults",
            r#"{"fault":"reset","times":-1}"#,
            "times: a whole number is required, not -1",
        ),
        (
            "POST",
            "/fake/faults",
            r#"{"fault":"ramp","retry_after":-1}"#,
            "retry_after",
        ),
        (
            "POST",
            "/fake/faults",
            r#"{"fault":"custom","status":7}"#,
            "status: a status is required, not 7",
        ),
        (
            "POST",
            "/fake/faults",
            r#"{"fault":"custom","status":500,"headers":{"a b":"1"}}"#,
            "headers.a b",
        ),
        ("PUT", "/fake/log", "", "PUT /fake/log"),
    ] {
        let (status, answer) = send(&fake, control(method, path, body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(expected), "{body}: {answer}");
    }
    assert_eq!(send(&fake, message(false)).await.0, StatusCode::OK);
}
