//! Claude on Google Cloud, managed by Google.

use std::time::Duration;

use serde_json::{Value, json};
use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeCredential, Fault};

use crate::{Answer, merged, post, send, with_header};

fn body(more: &Value) -> Value {
    let base = json!({
        "anthropic_version": "vertex-2023-10-16",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Hi"}],
    });
    merged(base, more)
}

fn path(model: &str, action: &str) -> String {
    format!("/v1/projects/project/locations/global/publishers/anthropic/models/{model}:{action}")
}

fn fake() -> FakeClaude {
    let cloud = FakeCloud::vertex("project", "global");
    FakeClaude::builder().cloud(cloud).build()
}

async fn ask(fake: &FakeClaude, more: Value) -> Answer {
    let path = path("claude-opus-5-5", "rawPredict");
    send(fake, post(&path, &body(&more))).await
}

/// Asserts an error of Google.
fn assert_google(answer: &Answer, code: u16, status: &str, part: &str) {
    assert_eq!(answer.status, code, "{:?}", answer.body);
    let json = answer.json();
    let error = if json.is_array() {
        &json[0]["error"]
    } else {
        &json["error"]
    };
    assert_eq!(
        (&error["code"], &error["status"]),
        (&json!(code), &json!(status))
    );
    assert!(
        answer.message().contains(part),
        "{part}: {}",
        answer.message()
    );
    assert!(!answer.has_rate_headers() && !answer.headers.contains_key("request-id"));
}

/// Asserts an error of the model.
fn assert_claude(answer: &Answer, code: u16, kind: &str, part: &str) {
    assert_eq!(answer.status, code, "{:?}", answer.body);
    let json = answer.json();
    assert_eq!(json["error"]["type"], kind);
    let id = json["request_id"].as_str().unwrap();
    assert!(id.starts_with("req_vrtx_"));
    assert_eq!(answer.header("request-id"), id);
    assert!(
        answer.message().contains(part),
        "{part}: {}",
        answer.message()
    );
    assert!(!answer.has_rate_headers());
}

#[tokio::test(start_paused = true)]
async fn message_and_stream_follow_the_body() {
    let fake = fake();
    let answer = ask(&fake, json!({})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["model"], "claude-opus-5-5");
    assert!(
        answer.json()["id"]
            .as_str()
            .unwrap()
            .starts_with("msg_vrtx_")
    );
    assert!(!answer.has_rate_headers());
    let path = path("claude-opus-5-5", "streamRawPredict");
    let answer = send(&fake, post(&path, &body(&json!({"stream": true})))).await;
    assert!(
        answer
            .header("content-type")
            .starts_with("text/event-stream")
    );
    assert!(
        answer
            .body
            .ends_with(b"data: {\"type\":\"message_stop\"}\n\n")
    );
    assert_eq!(fake.log()[1].request.as_ref().unwrap().uri.path(), path);
}

#[tokio::test(start_paused = true)]
async fn version_in_the_body_is_required() {
    for (version, part) in [
        (json!("vertex-2023-10-16"), None),
        (json!("2026-10-21"), None),
        (
            json!("bedrock-2023-05-31"),
            Some("Input should be 'vertex-2023-10-16'"),
        ),
    ] {
        let answer = ask(&fake(), json!({"anthropic_version": version})).await;
        match part {
            None => assert_eq!(answer.status, 200),
            Some(part) => assert_claude(&answer, 400, "invalid_request_error", part),
        }
    }
    let mut body = body(&json!({}));
    body.as_object_mut().unwrap().remove("anthropic_version");
    let answer = send(&fake(), post(&path("claude-opus-5-5", "rawPredict"), &body)).await;
    assert_claude(
        &answer,
        400,
        "invalid_request_error",
        "anthropic_version: Field required",
    );
}

#[tokio::test(start_paused = true)]
async fn version_2026_rejects_sampling() {
    let more = json!({"anthropic_version": "2026-10-21", "temperature": 1});
    let path = path("claude-sonnet-4-6", "rawPredict");
    let answer = send(&fake(), post(&path, &body(&more))).await;
    assert_claude(
        &answer,
        400,
        "invalid_request_error",
        "temperature: Extra inputs",
    );
    let more = json!({"temperature": 1});
    assert_eq!(send(&fake(), post(&path, &body(&more))).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn field_or_beta_of_another_platform_is_rejected() {
    let search = |kind: &str| json!({"tools": [{"type": kind, "name": "web_search"}]});
    for (more, part) in [
        (json!({"model": "claude-opus-5-5"}), "model: Extra inputs"),
        (
            json!({"anthropic_beta": []}),
            "anthropic_beta: Extra inputs",
        ),
        (
            json!({"user_profile_id": "u"}),
            "user_profile_id: Extra inputs",
        ),
        (json!({"fallbacks": "default"}), "fallbacks: Extra inputs"),
        (search("web_search_20260209"), "tools.0: Input tag"),
        (search("web_fetch_20250910"), "tools.0: Input tag"),
    ] {
        let answer = ask(&fake(), more).await;
        assert_claude(&answer, 400, "invalid_request_error", part);
    }
    assert_eq!(
        ask(&fake(), search("web_search_20250305")).await.status,
        200
    );
    let path = path("claude-opus-5-5", "rawPredict");
    for (beta, status) in [
        ("task-budgets-2026-03-13", 200),
        ("interleaved-thinking-2025-05-14", 200),
        ("prompt-caching-scope-2026-01-05", 400),
    ] {
        let request = with_header(post(&path, &body(&json!({}))), "anthropic-beta", beta);
        let answer = send(&fake(), request).await;
        assert_eq!(answer.status, status, "{beta}");
        if status == 400 {
            let text = format!(
                "Unexpected value(s) `{beta}` for the `anthropic-beta` header. Please consult our documentation at docs.anthropic.com or try again without the header."
            );
            assert_claude(&answer, 400, "invalid_request_error", &text);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn counting_takes_the_model_in_the_body_and_no_betas() {
    let path = path("count-tokens", "rawPredict");
    let body = json!({
        "model": "claude-opus-5-5",
        "messages": [{"role": "user", "content": "Hi"}],
    });
    let answer = send(&fake(), post(&path, &body)).await;
    assert!(answer.json()["input_tokens"].as_u64().unwrap() > 0);
    let beta = "context-1m-2025-08-07";
    let answer = send(
        &fake(),
        with_header(post(&path, &body), "anthropic-beta", beta),
    )
    .await;
    assert_claude(&answer, 400, "invalid_request_error", "Unexpected value(s)");
}

#[tokio::test(start_paused = true)]
async fn model_has_a_date_up_to_generation_4_5() {
    for (model, status) in [
        ("claude-opus-5-5", 200),
        ("claude-opus-4-5@20251101", 200),
        ("claude-haiku-4-5%4020251001", 200),
        ("claude-opus-5-5@default", 200),
        ("claude-opus-4-5", 404),
        ("claude-haiku-4-5-20251001", 404),
        ("claude-opus-5-5-20261001", 404),
        ("claude-opus-9-9", 404),
        ("anthropic.claude-opus-5-5", 404),
    ] {
        let request = post(&path(model, "rawPredict"), &body(&json!({})));
        let answer = send(&fake(), request).await;
        assert_eq!(answer.status, status, "{model}: {:?}", answer.body);
        if status == 404 {
            assert_google(
                &answer,
                404,
                "NOT_FOUND",
                "Publisher Model `projects/project/",
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn path_of_another_project_or_location_is_denied() {
    for place in [
        "projects/other/locations/global",
        "projects/project/locations/us",
    ] {
        let path = format!("/v1/{place}/publishers/anthropic/models/claude-opus-5-5:rawPredict");
        let answer = send(&fake(), post(&path, &body(&json!({})))).await;
        assert_google(
            &answer,
            403,
            "PERMISSION_DENIED",
            "aiplatform.endpoints.predict",
        );
    }
    for path in [
        "/v1/messages",
        "/v1/projects/project/locations/global/publishers/google/models/a:rawPredict",
    ] {
        let answer = send(&fake(), post(path, &body(&json!({})))).await;
        assert_google(&answer, 404, "NOT_FOUND", "");
    }
}

#[tokio::test(start_paused = true)]
async fn fault_is_an_error_of_google_or_of_the_model() {
    let fake = fake();
    for (fault, code, status) in [
        (Fault::RateLimitedBare, 429, "RESOURCE_EXHAUSTED"),
        (Fault::Unavailable, 503, "UNAVAILABLE"),
        (Fault::Timeout504, 504, "DEADLINE_EXCEEDED"),
    ] {
        fake.inject(fault.clone());
        assert_google(&ask(&fake, json!({})).await, code, status, "");
        // The error of a stream is in a list.
        fake.inject(fault);
        let path = path("claude-opus-5-5", "streamRawPredict");
        let answer = send(&fake, post(&path, &body(&json!({"stream": true})))).await;
        assert!(answer.json().is_array());
        assert_google(&answer, code, status, "");
    }
    fake.inject(Fault::Overloaded);
    assert_claude(
        &ask(&fake, json!({})).await,
        529,
        "overloaded_error",
        "Overloaded",
    );
    fake.inject(Fault::ServerError);
    assert_claude(&ask(&fake, json!({})).await, 500, "api_error", "");
}

#[tokio::test(start_paused = true)]
async fn token_is_rejected_after_its_time_or_when_it_is_expired() {
    let hour = Duration::from_secs(3_600);
    let cloud = FakeCloud::vertex("project", "global")
        .credential(FakeCredential::bearer("token").valid_for(hour))
        .bearer("next");
    let fake = FakeClaude::builder().cloud(cloud).build();
    let with = |token: &str| {
        let request = post(&path("claude-opus-5-5", "rawPredict"), &body(&json!({})));
        with_header(request, "authorization", &format!("Bearer {token}"))
    };
    assert_eq!(send(&fake, with("token")).await.status, 200);
    assert_google(
        &send(&fake, with("other")).await,
        401,
        "UNAUTHENTICATED",
        "Expected OAuth 2",
    );
    tokio::time::advance(hour - Duration::from_millis(1)).await;
    assert_eq!(send(&fake, with("token")).await.status, 200);
    tokio::time::advance(Duration::from_millis(1)).await;
    let answer = send(&fake, with("token")).await;
    assert_google(
        &answer,
        401,
        "UNAUTHENTICATED",
        "invalid authentication credentials",
    );
    assert!(answer.header("www-authenticate").contains("invalid_token"));
    assert_eq!(send(&fake, with("next")).await.status, 200);
    fake.expire_credential("next");
    assert_eq!(send(&fake, with("next")).await.status, 401);
    let mut request = with("next");
    request.headers_mut().remove("authorization");
    let answer = send(&fake, request).await;
    assert_google(
        &answer,
        401,
        "UNAUTHENTICATED",
        "missing required authentication",
    );
}

#[tokio::test(start_paused = true)]
async fn body_over_the_limit_is_rejected() {
    let body = vec![b' '; 30 * 1024 * 1024 + 1];
    let path = path("claude-opus-5-5", "rawPredict");
    let request = post(&path, &json!({})).map(|_| http_body_util::Full::new(body.into()));
    let answer = send(&fake(), request).await;
    assert_google(&answer, 413, "INVALID_ARGUMENT", "payload size");
}
