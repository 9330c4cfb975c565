//! Refusals by the limits and by validation, in process.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{fake, full, messages, post, text};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use tower::ServiceExt as _;
use tower_claude_fake_claude::{Dimension, FakeClaude, GroupLimits, Ramp};
use tower_claude_wire::{ApiError, RateLimits, retry_after, should_retry};

async fn send(fake: &FakeClaude, request: Request<Full<Bytes>>) -> (u16, HeaderMap, Bytes) {
    let (parts, body) = fake.clone().oneshot(request).await.unwrap().into_parts();
    (
        parts.status.as_u16(),
        parts.headers,
        body.collect().await.unwrap().to_bytes(),
    )
}

#[tokio::test(start_paused = true)]
async fn rejection_for_input_tokens_has_a_sufficient_retry_after() {
    let limits = GroupLimits::new().with_input_tokens_per_minute(60_000);
    let fake = FakeClaude::builder().limits(limits).build();
    let ask = |tokens: u64| {
        messages()
            .header("x-fake-estimate-tokens", tokens)
            .header("x-fake-input-tokens", tokens)
            .body(text(false))
            .unwrap()
    };
    assert_eq!(send(&fake, ask(60_000)).await.0, 200);
    let (status, headers, body) = send(&fake, ask(2_500)).await;
    assert_eq!(status, 429);
    let date = tower_claude_wire::date(&headers).unwrap();
    let wait = retry_after(&headers, date).unwrap();
    assert_eq!(wait, Duration::from_secs(3));
    assert_eq!(should_retry(&headers), Some(true));
    assert_eq!(
        RateLimits::from_headers(&headers).input_tokens.remaining,
        Some(0)
    );
    let error = ApiError::parse(&body).unwrap();
    assert_eq!(error.kind, "rate_limit_error");
    assert_eq!(error.error_code, None);
    assert_eq!(
        error.request_id.as_deref(),
        tower_claude_wire::request_id(&headers)
    );
    let log = fake.log();
    assert_eq!(log[1].dimension, Some(Dimension::InputTokens));
    assert_eq!((log[1].estimated_input, log[1].charged_input), (2_500, 0));
    assert_eq!(
        (log[0].input_level_before, log[1].input_level_before),
        (60_000, 0)
    );
    tokio::time::advance(wait).await;
    assert_eq!(send(&fake, ask(2_500)).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn rejection_of_each_other_limit_names_it() {
    let ramp = Ramp {
        window: Duration::from_secs(10),
        growth_percent: 200,
        floor: 1,
    };
    let cases = [
        (
            GroupLimits::new().with_requests_per_minute(1),
            Dimension::Requests,
            None,
        ),
        (
            GroupLimits::new().with_output_tokens_per_minute(10),
            Dimension::OutputTokens,
            None,
        ),
        (
            GroupLimits::new().with_ramp(ramp),
            Dimension::Ramp,
            Some("ramp_limit_exceeded"),
        ),
    ];
    for (limits, dimension, code) in cases {
        let fake = FakeClaude::builder().limits(limits).build();
        assert_eq!(
            send(&fake, messages().body(text(false)).unwrap()).await.0,
            200
        );
        let (status, headers, body) = send(&fake, messages().body(text(false)).unwrap()).await;
        assert_eq!(status, 429, "{dimension}");
        assert!(headers.contains_key("retry-after"));
        assert_eq!(ApiError::parse(&body).unwrap().error_code.as_deref(), code);
        assert_eq!(fake.log()[1].dimension, Some(dimension));
        assert_eq!(fake.log()[1].error_code, code);
    }
    let fake = FakeClaude::builder()
        .limits(GroupLimits::new().with_concurrency(1))
        .build();
    let held = fake
        .clone()
        .oneshot(messages().body(text(true)).unwrap())
        .await
        .unwrap();
    assert_eq!(
        send(&fake, messages().body(text(true)).unwrap()).await.0,
        429
    );
    assert_eq!(fake.log()[1].dimension, Some(Dimension::Concurrency));
    drop(held);
    assert_eq!(
        send(&fake, messages().body(text(true)).unwrap()).await.0,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn invalid_request_is_rejected_like_by_the_api() {
    let fake = FakeClaude::builder().api_key("sk-right").build();
    let keyed = |builder: http::request::Builder| {
        builder
            .header("x-api-key", "sk-right")
            .header("anthropic-version", "2023-06-01")
    };
    let with = |body: &str| {
        keyed(Request::post("/v1/messages?beta=true"))
            .body(full(body.to_owned()))
            .unwrap()
    };
    let good = common::json(false);
    let cases = [
        (
            Request::post("/v1/messages").body(text(false)).unwrap(),
            401,
            "authentication_error",
            "",
        ),
        (
            Request::post("/v1/messages")
                .header("x-api-key", "")
                .body(text(false))
                .unwrap(),
            401,
            "authentication_error",
            "x-api-key header is required",
        ),
        (
            messages().body(text(false)).unwrap(),
            401,
            "authentication_error",
            "invalid x-api-key",
        ),
        (
            Request::post("/v1/messages")
                .header("x-api-key", "sk-right")
                .body(text(false))
                .unwrap(),
            400,
            "invalid_request_error",
            "anthropic-version",
        ),
        (with("not json"), 400, "invalid_request_error", "JSON"),
        (
            with(r#"{"model":"claude-sonnet-5-5","messages":[]}"#),
            400,
            "invalid_request_error",
            "max_tokens: Field required",
        ),
        (
            with(r#"{"model":"claude-sonnet-5-5","max_tokens":"1","messages":[]}"#),
            400,
            "invalid_request_error",
            "max_tokens: Input should be a valid integer",
        ),
        (
            with(r#"{"model":"claude-sonnet-5-5","max_tokens":1}"#),
            400,
            "invalid_request_error",
            "messages: Field required",
        ),
        (
            with(r#"{"max_tokens":1,"messages":[{}]}"#),
            400,
            "invalid_request_error",
            "model: Field required",
        ),
        (
            with(&good.replace("sonnet-5-5", "nonsense-9")),
            404,
            "not_found_error",
            "model: claude-nonsense-9",
        ),
        (
            with(
                &good
                    .replace("sonnet-5-5", "haiku-4-5")
                    .replace("1024", "128000"),
            ),
            400,
            "invalid_request_error",
            "max_tokens: 128000 > 64000, which is the maximum allowed number of output tokens for claude-haiku-4-5",
        ),
        (
            with(&good.replace(
                "sonnet-5-5\"",
                "sonnet-5-5\",\"thinking\":{\"type\":\"disabled\"}",
            )),
            400,
            "invalid_request_error",
            "\"thinking.type.disabled\" is not supported for this model.",
        ),
        (
            keyed(Request::post("/v1/other")).body(full("")).unwrap(),
            404,
            "not_found_error",
            "",
        ),
        (
            keyed(Request::get("/v1/messages")).body(full("")).unwrap(),
            405,
            "invalid_request_error",
            "",
        ),
        (
            with(&format!("{{\"system\":\"{}\"}}", "x".repeat(33 << 20))),
            413,
            "request_too_large",
            "",
        ),
        (
            // As long as a body may be.
            with(&("{}".to_owned() + &" ".repeat((32 << 20) - 2))),
            400,
            "invalid_request_error",
            "max_tokens: Field required",
        ),
    ];
    let count = cases.len();
    for (request, status, kind, message) in cases {
        let (seen, headers, body) = send(&fake, request).await;
        let error = ApiError::parse(&body).unwrap();
        assert_eq!(
            (seen, error.kind.as_str()),
            (status, kind),
            "{}",
            error.message
        );
        assert!(error.message.contains(message), "{}", error.message);
        assert!(headers.contains_key("request-id"));
        assert_eq!(
            headers.contains_key("anthropic-workspace-id"),
            ![401, 404, 405, 413].contains(&status) || message.starts_with("model")
        );
        assert_eq!(should_retry(&headers), None);
    }
    let log = fake.log();
    assert_eq!(log.len(), count);
    assert!(
        log.iter()
            .all(|attempt| attempt.finished_at.is_some() && attempt.charged_input == 0)
    );
    assert_eq!(fake.gauges("sonnet-5.5").requests.level, 1_000);
    let bearer = Request::post("/v1/messages")
        .header("authorization", "Bearer sk-right")
        .header("anthropic-version", "2026-10-21")
        .body(text(false))
        .unwrap();
    assert_eq!(send(&fake, bearer).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn long_prompt_and_unknown_model_are_rejected_unless_accepted() {
    let request = |model: &str, tokens: u64| {
        messages()
            .header("x-fake-input-tokens", tokens)
            .body(full(common::json(false).replace("sonnet-5-5", model)))
            .unwrap()
    };
    let (status, _, body) = send(&fake(), request("haiku-4-5", 210_000)).await;
    assert_eq!(status, 400);
    let message = ApiError::parse(&body).unwrap().message;
    assert_eq!(
        message,
        "prompt is too long: 210000 tokens > 200000 maximum"
    );
    let fake = FakeClaude::builder().accept_unknown_models(true).build();
    let odd = r"nine\u0022\n";
    let (status, _, body) = send(&fake, request(odd, 10)).await;
    assert_eq!(status, 200);
    let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(message["model"], "claude-nine\"\n");
}

#[tokio::test(start_paused = true)]
async fn estimate_is_computed_from_bytes_and_corrected() {
    let fake = FakeClaude::builder()
        .bytes_per_token(2.0)
        .admission_noise(0.5)
        .seed(7)
        .build();
    let prompt = "x".repeat(10_000);
    let body = format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    );
    for _ in 0..20 {
        let request = messages()
            .header("x-fake-input-tokens", "4000")
            .body(full(body.clone()))
            .unwrap();
        send(&fake, request).await;
    }
    let log = fake.log();
    assert!(
        log.iter()
            .all(|attempt| (2_500..=7_600).contains(&attempt.estimated_input))
    );
    assert!(
        log.iter()
            .any(|attempt| attempt.estimated_input != log[0].estimated_input)
    );
    assert!(log.iter().all(|attempt| attempt.charged_input == 4_000));
    assert_eq!(
        fake.gauges("sonnet-5.5").input_tokens.level,
        2_000_000 - 20 * 4_000
    );
    let request = post("/v1/messages/count_tokens").body(full(body)).unwrap();
    let (_, _, counted) = send(&fake, request).await;
    assert!(counted.starts_with(br#"{"input_tokens":50"#), "{counted:?}");
}

#[tokio::test(start_paused = true)]
async fn failed_request_body_is_an_error_without_attempt() {
    let chunks = futures_util::stream::iter([
        Ok(http_body::Frame::data(Bytes::from_static(b"{"))),
        Err(std::io::Error::other("gone")),
    ]);
    let request = messages()
        .body(http_body_util::StreamBody::new(chunks))
        .unwrap();
    let fake = fake();
    let error = fake.clone().oneshot(request).await.err().unwrap();
    assert_eq!(error, tower_claude_fake_claude::FakeError::RequestBody);
    assert_eq!(fake.log_len(), 0);
}

#[tokio::test]
async fn wrong_method_is_rejected_with_allow() {
    let fake = fake();
    let cases = [
        (Request::get("/v1/messages"), "POST"),
        (Request::put("/v1/messages/count_tokens"), "POST"),
        (Request::post("/v1/models"), "GET"),
        (Request::delete("/v1/models/claude-haiku-4-5"), "GET"),
    ];
    for (request, right) in cases {
        let request = request.header("x-api-key", "k").body(full("")).unwrap();
        let (status, headers, _) = send(&fake, request).await;
        assert_eq!((status, &headers["allow"]), (405, &right.parse().unwrap()));
    }
}
