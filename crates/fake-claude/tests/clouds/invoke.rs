//! InvokeModel.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tower_claude_fake_claude::{
    BreakKind, BreakPoint, Endpoint, FakeClaude, FakeCloud, Fault, FrameFault, Reply,
};

use crate::frames::Frame;
use crate::{Answer, INVOKE, MESSAGES, STREAM, bedrock, invoke_body, post, send, with_header};

async fn ask(fake: &FakeClaude, path: &str, more: Value) -> Answer {
    send(fake, post(path, &invoke_body(&more))).await
}

/// Asserts an error, by its exception and a part of its message.
fn assert_error(answer: &Answer, status: u16, name: &str, part: &str) {
    assert_eq!(answer.status, status, "{:?}", answer.body);
    let kind = answer.header("x-amzn-errortype");
    assert_eq!(kind.split(':').next(), Some(name));
    assert!(
        answer.message().contains(part),
        "{part}: {}",
        answer.message()
    );
    assert!(!answer.has_rate_headers());
}

#[tokio::test(start_paused = true)]
async fn message_has_usage_headers_and_no_headers_of_the_claude_api() {
    let fake = bedrock();
    let answer = ask(&fake, INVOKE, json!({})).await;
    assert_eq!(answer.status, 200);
    let message = answer.json();
    assert_eq!(message["model"], "claude-opus-5-5");
    assert!(message["id"].as_str().unwrap().starts_with("msg_bdrk_"));
    let counted = |name: &str| {
        answer
            .header(&format!("x-amzn-bedrock-{name}-token-count"))
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!(
        Some(counted("input")),
        message["usage"]["input_tokens"].as_u64()
    );
    assert_eq!(
        Some(counted("output")),
        message["usage"]["output_tokens"].as_u64()
    );
    assert_eq!(
        (counted("cache-read-input"), counted("cache-write-input")),
        (0, 0)
    );
    assert!(!answer.has_rate_headers());
    for name in ["request-id", "anthropic-organization-id"] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
    assert!(!answer.header("x-amzn-requestid").is_empty());
    let log = fake.log();
    assert_eq!(
        (log[0].endpoint, &*log[0].model),
        (Endpoint::Messages, "claude-opus-5-5")
    );
    assert_eq!(&*log[0].group, "claude-opus-5-5");
    assert_eq!(log[0].request.as_ref().unwrap().uri.path(), INVOKE);
}

#[tokio::test(start_paused = true)]
async fn stream_is_frames_with_the_metrics_in_the_last_event() {
    let fake = bedrock();
    fake.reply(Reply::text("Hello there, caller"));
    let answer = ask(&fake, STREAM, json!({})).await;
    assert_eq!(
        answer.header("content-type"),
        "application/vnd.amazon.eventstream"
    );
    let (frames, rest) = Frame::all(&answer.body);
    assert!(rest.is_empty());
    assert!(
        frames
            .iter()
            .all(|frame| frame.is_valid && frame.prelude_is_valid)
    );
    assert!(
        frames
            .iter()
            .all(|frame| frame.header(":message-type") == "event")
    );
    assert!(
        frames
            .iter()
            .all(|frame| frame.header(":event-type") == "chunk")
    );
    let kinds: Vec<String> = frames.iter().map(Frame::kind).collect();
    let start = [
        "message_start",
        "content_block_start",
        "content_block_delta",
    ];
    assert_eq!(kinds[..3], start);
    let end = ["content_block_stop", "message_delta", "message_stop"];
    assert_eq!(kinds[kinds.len() - 3..], end);
    let last = frames.last().unwrap().event();
    let metrics = &last["amazon-bedrock-invocationMetrics"];
    let usage = frames[frames.len() - 2].event()["usage"].clone();
    assert_eq!(metrics["inputTokenCount"], usage["input_tokens"]);
    assert_eq!(metrics["outputTokenCount"], usage["output_tokens"]);
    assert!(fake.log()[0].completed && fake.log()[0].stream);
}

#[tokio::test(start_paused = true)]
async fn field_that_the_path_replaces_is_rejected() {
    for (more, part) in [
        (json!({"model": "claude-opus-5-5"}), "model: Extra inputs"),
        (json!({"stream": true}), "stream: Extra inputs"),
        (json!({"unknown": 1}), "unknown: Extra inputs"),
    ] {
        let answer = ask(&bedrock(), INVOKE, more).await;
        assert_error(&answer, 400, "ValidationException", part);
    }
}

#[tokio::test(start_paused = true)]
async fn version_in_the_body_is_required_and_depends_on_the_generation() {
    let old = "/model/us.anthropic.claude-sonnet-4-6/invoke";
    for (path, version, part) in [
        (INVOKE, json!("bedrock-2023-05-31"), None),
        (INVOKE, json!("2026-10-21"), None),
        (
            INVOKE,
            json!("2023-06-01"),
            Some("Input should be 'bedrock-2023-05-31' or '2026-10-21'"),
        ),
        (INVOKE, json!(7), Some("Input should be")),
        (old, json!("bedrock-2023-05-31"), None),
        (
            old,
            json!("2026-10-21"),
            Some("Input should be 'bedrock-2023-05-31'"),
        ),
    ] {
        let answer = ask(&bedrock(), path, json!({"anthropic_version": version})).await;
        match part {
            None => assert_eq!(answer.status, 200, "{version}: {:?}", answer.body),
            Some(part) => assert_error(&answer, 400, "ValidationException", part),
        }
    }
    let mut body = invoke_body(&json!({}));
    body.as_object_mut().unwrap().remove("anthropic_version");
    let answer = send(&bedrock(), post(INVOKE, &body)).await;
    assert_error(
        &answer,
        400,
        "ValidationException",
        "anthropic_version: Field required",
    );
}

#[tokio::test(start_paused = true)]
async fn beta_is_read_from_the_body_and_checked() {
    let edits = json!({"edits": [{"type": "clear_tool_uses_20250919"}]});
    let beta = "context-management-2025-06-27";
    let with = json!({"anthropic_beta": [beta], "context_management": edits});
    assert_eq!(ask(&bedrock(), INVOKE, with).await.status, 200);
    // The header is not read.
    let body = invoke_body(&json!({"context_management": edits}));
    let request = with_header(post(INVOKE, &body), "anthropic-beta", beta);
    let answer = send(&bedrock(), request).await;
    assert_error(
        &answer,
        400,
        "ValidationException",
        "context_management: Extra inputs",
    );
    for beta in [
        "files-api-2025-04-14",
        "interleaved-thinking-2025-05-14",
        "mid-conversation-tool-changes-2026-07-01",
        "advanced-tool-use-2025-11-20",
        "",
    ] {
        let answer = ask(&bedrock(), INVOKE, json!({"anthropic_beta": [beta]})).await;
        assert_error(&answer, 400, "ValidationException", "invalid beta flag");
    }
    let answer = ask(&bedrock(), INVOKE, json!({"anthropic_beta": "one"})).await;
    assert_error(
        &answer,
        400,
        "ValidationException",
        "anthropic_beta: Input should be a valid list",
    );
    let cloud = FakeCloud::bedrock("us-east-1").allow_beta("files-api-");
    let fake = FakeClaude::builder().cloud(cloud).build();
    let beta = json!({"anthropic_beta": ["files-api-2025-04-14"]});
    assert_eq!(ask(&fake, INVOKE, beta).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn id_without_a_profile_of_its_region_is_rejected() {
    let arn = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/x";
    let cloud = FakeCloud::bedrock("us-east-1").arn(arn, "claude-sonnet-5-5");
    let fake = FakeClaude::builder().cloud(cloud).build();
    let on_demand = "on-demand throughput isn\u{2019}t supported. Retry your request with the ID or ARN of an inference profile";
    let invalid = "The provided model identifier is invalid.";
    for (id, expected) in [
        ("us.anthropic.claude-opus-5-5", Ok("claude-opus-5-5")),
        ("global.anthropic.claude-opus-5-5", Ok("claude-opus-5-5")),
        (
            "us.anthropic.claude-opus-4-5-20251101-v1:0",
            Ok("claude-opus-4-5-20251101"),
        ),
        (
            "us.anthropic.claude-opus-4-5-20251101-v1%3A0",
            Ok("claude-opus-4-5-20251101"),
        ),
        (
            "arn:aws:bedrock:us-east-1:111122223333:inference-profile%2Fus.anthropic.claude-opus-5-5",
            Ok("claude-opus-5-5"),
        ),
        (
            "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile%2Fx",
            Ok("claude-sonnet-5-5"),
        ),
        ("anthropic.claude-opus-5-5", Err(on_demand)),
        (
            "arn:aws:bedrock:us-east-1::foundation-model%2Fanthropic.claude-opus-5-5",
            Err(on_demand),
        ),
        (
            "arn:aws:bedrock:us-west-2:111122223333:inference-profile%2Fus.anthropic.claude-opus-5-5",
            Err(invalid),
        ),
        (
            "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile%2Fother",
            Err(invalid),
        ),
        ("eu.anthropic.claude-opus-5-5", Err(invalid)),
        ("us-gov.anthropic.claude-opus-5-5", Err(invalid)),
        ("us.anthropic.claude-opus-9-9", Err(invalid)),
        ("us.anthropic.claude-opus-4-5:0", Err(invalid)),
        ("claude-opus-5-5", Err(invalid)),
        ("arn:aws", Err(invalid)),
        ("%FF", Err(invalid)),
    ] {
        let answer = ask(&fake, &format!("/model/{id}/invoke"), json!({})).await;
        match expected {
            Ok(model) => assert_eq!(answer.json()["model"], model, "{id}"),
            Err(part) => assert_error(&answer, 400, "ValidationException", part),
        }
    }
    let government = FakeCloud::bedrock("us-gov-west-1");
    let government = FakeClaude::builder().cloud(government).build();
    let own = INVOKE.replace("us.", "us-gov.");
    assert_eq!(ask(&government, &own, json!({})).await.status, 200);
    let answer = ask(&government, INVOKE, json!({})).await;
    assert_error(&answer, 400, "ValidationException", invalid);
    // The slash of an ARN must be encoded.
    let answer = ask(&fake, &format!("/model/{arn}/invoke"), json!({})).await;
    assert_error(&answer, 404, "UnknownOperationException", "");
}

#[tokio::test(start_paused = true)]
async fn fault_is_an_exception_of_the_service() {
    let retry_after = Duration::from_secs(9);
    let cases = [
        (
            Fault::Overloaded,
            503,
            "ServiceUnavailableException",
            "unable to process",
        ),
        (
            Fault::Unavailable,
            503,
            "ServiceUnavailableException",
            "unable to process",
        ),
        (
            Fault::ServerError,
            500,
            "InternalServerException",
            "unexpected error",
        ),
        (Fault::Timeout504, 408, "ModelTimeoutException", "timed out"),
        (
            Fault::RateLimited { retry_after },
            429,
            "ThrottlingException",
            "Too many requests",
        ),
        (
            Fault::RateLimitedBare,
            429,
            "ThrottlingException",
            "Too many requests",
        ),
    ];
    for (fault, status, name, part) in cases {
        let fake = bedrock();
        // An error answers a call for a stream as well.
        for path in [INVOKE, STREAM] {
            fake.inject(fault.clone());
            let answer = ask(&fake, path, json!({})).await;
            assert_error(&answer, status, name, part);
            assert_eq!(answer.header("content-type"), "application/json");
            assert_eq!(fake.log().last().unwrap().status, status);
        }
    }
    let fake = bedrock();
    fake.inject(Fault::Custom {
        status: StatusCode::IM_A_TEAPOT,
        headers: Vec::new(),
        body: Bytes::from_static(b"tea"),
    });
    let answer = ask(&fake, INVOKE, json!({})).await;
    assert_eq!((answer.status, &answer.body[..]), (418, &b"tea"[..]));
}

#[tokio::test(start_paused = true)]
async fn fault_of_a_frame_is_in_the_stream() {
    let stream = async |how: FrameFault| {
        let fake = bedrock();
        fake.inject(Fault::Frame {
            how,
            after_tokens: 8,
        });
        let answer = ask(&fake, STREAM, json!({})).await;
        assert_eq!(answer.status, 200);
        (answer.body, fake)
    };
    let (body, fake) = stream(FrameFault::exception("throttlingException", "Slow down")).await;
    let (frames, rest) = Frame::all(&body);
    let last = frames.last().unwrap();
    assert!(rest.is_empty() && last.is_valid);
    assert_eq!(last.header(":message-type"), "exception");
    assert_eq!(last.header(":exception-type"), "throttlingException");
    assert_eq!(last.json(), json!({"message": "Slow down"}));
    assert_eq!(fake.log()[0].charged_output, 8);
    assert!(fake.log()[0].broken_after_content);
    assert_eq!(fake.log()[0].error_type, Some("rate_limit_error"));

    let (body, _) = stream(FrameFault::error("InternalFailure", "Oops")).await;
    let last = Frame::all(&body).0.pop().unwrap();
    assert_eq!(last.header(":message-type"), "error");
    assert_eq!(last.header(":error-code"), "InternalFailure");
    assert_eq!(last.header(":error-message"), "Oops");

    let (body, fake) = stream(FrameFault::Cut).await;
    let (frames, rest) = Frame::all(&body);
    assert!(!rest.is_empty() && frames.iter().all(|frame| frame.is_valid));
    assert!(!fake.log()[0].completed);

    let count = |body: &[u8], is: fn(&Frame) -> bool| {
        let (frames, rest) = Frame::all(body);
        assert!(rest.is_empty());
        frames.iter().filter(|frame| is(frame)).count()
    };
    let (body, fake) = stream(FrameFault::BadChecksum).await;
    assert_eq!(
        count(&body, |frame| !frame.is_valid && frame.prelude_is_valid),
        1
    );
    assert!(fake.log()[0].completed);
    let (body, _) = stream(FrameFault::BadPrelude).await;
    assert_eq!(count(&body, |frame| !frame.prelude_is_valid), 1);
    let (body, _) = stream(FrameFault::UnknownHeader).await;
    assert_eq!(count(&body, |frame| frame.has_unknown && frame.is_valid), 1);
    let (body, _) = stream(FrameFault::UnknownEvent).await;
    assert_eq!(
        count(&body, |frame| frame.header(":event-type") == "notice"),
        1
    );
    let (body, fake) = stream(FrameFault::Untyped).await;
    assert_eq!(count(&body, |frame| frame.kind().is_empty()), 1);
    assert_eq!(fake.log()[0].charged_output, 16);
}

#[tokio::test(start_paused = true)]
async fn error_in_a_stream_is_an_exception() {
    for fault in [
        Fault::ErrorBeforeContent,
        Fault::ErrorMidStream { after_tokens: 4 },
    ] {
        let fake = bedrock();
        fake.inject(fault);
        let answer = ask(&fake, STREAM, json!({})).await;
        let last = Frame::all(&answer.body).0.pop().unwrap();
        assert_eq!(
            last.header(":exception-type"),
            "serviceUnavailableException"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn stream_that_breaks_off_has_no_last_event() {
    for fault in [
        Fault::Cut { after_tokens: 4 },
        Fault::Truncated { after_tokens: 4 },
        Fault::TruncatedBeforeContent,
        Fault::Break {
            how: BreakKind::Close,
            at: BreakPoint::AfterTokens(4),
        },
    ] {
        let fake = bedrock();
        fake.inject(fault);
        let answer = ask(&fake, STREAM, json!({})).await;
        let (frames, rest) = Frame::all(&answer.body);
        assert!(rest.is_empty() && !frames.is_empty());
        assert!(frames.iter().all(|frame| frame.kind() != "message_stop"));
    }
}

#[tokio::test(start_paused = true)]
async fn fault_of_a_frame_in_a_response_without_frames_is_its_equivalent() {
    let sent = async |path: &str, how: FrameFault| {
        let fake = bedrock();
        fake.inject(Fault::Frame {
            how,
            after_tokens: 4,
        });
        let answer = match path {
            INVOKE => ask(&fake, INVOKE, json!({})).await,
            _ => {
                let body = json!({
                    "model": "anthropic.claude-opus-5-5",
                    "max_tokens": 64,
                    "stream": true,
                    "messages": [],
                });
                send(&fake, crate::post_messages(MESSAGES, &body)).await
            }
        };
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        (answer.status, text, fake.log()[0].completed)
    };
    let exception = || FrameFault::exception("throttlingException", "Slow");
    let (status, text, _) = sent(MESSAGES, exception()).await;
    assert_eq!(status, 200);
    assert!(text.contains("\"type\":\"throttlingException\""), "{text}");
    assert_eq!(sent(INVOKE, exception()).await.0, 500);
    for how in [FrameFault::Untyped, FrameFault::UnknownEvent] {
        assert!(sent(MESSAGES, how.clone()).await.2);
        assert!(sent(INVOKE, how).await.2);
    }
    for how in [
        FrameFault::Cut,
        FrameFault::BadChecksum,
        FrameFault::UnknownHeader,
    ] {
        let (_, text, is_complete) = sent(MESSAGES, how.clone()).await;
        assert!(!is_complete && !text.contains("message_stop"), "{how:?}");
        assert!(!sent(INVOKE, how).await.2);
    }
}

#[tokio::test(start_paused = true)]
async fn body_over_the_limit_is_rejected() {
    let body = vec![b' '; 20 * 1024 * 1024 + 1];
    let request = post(INVOKE, &json!({})).map(|_| Full::new(body.into()));
    let answer = send(&bedrock(), request).await;
    assert_error(
        &answer,
        400,
        "ValidationException",
        "Member must have length",
    );
}

#[tokio::test(start_paused = true)]
async fn feature_that_the_platform_lacks_is_rejected() {
    let image = |source: Value| {
        let block = json!({"type": "image", "source": source});
        json!({"messages": [{"role": "user", "content": [block]}]})
    };
    for (more, part) in [
        (json!({"fallbacks": "default"}), "fallbacks: Extra inputs"),
        (
            json!({"inference_geo": "us"}),
            "inference_geo: Extra inputs",
        ),
        (json!({"container": "c"}), "container: Extra inputs"),
        (json!({"mcp_servers": []}), "mcp_servers: Extra inputs"),
        (
            json!({"thread": {"type": "create"}}),
            "thread: Extra inputs",
        ),
        (json!({"diagnostics": {}}), "diagnostics: Extra inputs"),
        (
            json!({"speed": "fast"}),
            "does not support the `speed` parameter",
        ),
        (
            json!({"output_config": {"task_budget": {}}}),
            "output_config.task_budget: Extra inputs",
        ),
        (
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "tools.0: Input tag 'web_search_20250305'",
        ),
        (
            json!({"tools": [{"name": "a", "input_schema": {}}, {"type": "code_execution_20250825", "name": "b"}]}),
            "tools.1: Input tag",
        ),
        (
            json!({"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "claude-fable-5-2"}]}),
            "tools.0: Input tag",
        ),
        (
            json!({"tools": [{"name": "a", "input_schema": {}, "eager_input_streaming": true}]}),
            "tools.0.custom.eager_input_streaming: Extra inputs",
        ),
        (
            json!({"tools": [{"name": "a", "input_schema": {}, "allowed_callers": ["code_execution_20250825"]}]}),
            "tools.0.custom.allowed_callers: Extra inputs",
        ),
        (
            image(json!({"type": "url", "url": "https://a"})),
            "messages.0.content.0.image.source",
        ),
        (
            image(json!({"type": "file", "file_id": "f"})),
            "messages.0.content.0.image.source",
        ),
    ] {
        let answer = ask(&bedrock(), INVOKE, more).await;
        assert_error(&answer, 400, "ValidationException", part);
    }
    let cached = json!({"cache_control": {"type": "ephemeral"}});
    assert_eq!(ask(&bedrock(), INVOKE, cached.clone()).await.status, 200);
    let old = "/model/us.anthropic.claude-sonnet-4-6/invoke";
    let answer = ask(&bedrock(), old, cached).await;
    assert_error(
        &answer,
        400,
        "ValidationException",
        "cache_control: Extra inputs",
    );
    // Each is accepted by the platform, the last one not by the Claude API.
    for (model, kind) in [
        ("claude-opus-5-5", "tool_search_tool_regex_20251119"),
        ("claude-fable-5-2", "computer_20251124"),
    ] {
        let path = format!("/model/us.anthropic.{model}/invoke");
        let tools = json!({"tools": [{"type": kind, "name": "computer"}]});
        let answer = ask(&bedrock(), &path, tools).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
    }
}

#[tokio::test(start_paused = true)]
async fn effort_of_a_message_depends_on_the_model() {
    let turn = json!({"role": "user", "content": "Hi", "output_config": {"effort": "low"}});
    let more = json!({
        "anthropic_beta": ["mid-conversation-output-config-2026-07-01"],
        "messages": [turn],
    });
    assert_eq!(ask(&bedrock(), INVOKE, more.clone()).await.status, 200);
    let mythos = "/model/us.anthropic.claude-mythos-5-1/invoke";
    let answer = ask(&bedrock(), mythos, more).await;
    assert_error(
        &answer,
        400,
        "ValidationException",
        "messages.0.output_config: Extra inputs",
    );
}

#[tokio::test(start_paused = true)]
async fn bad_request_is_an_error_and_never_a_panic() {
    let fake = bedrock();
    let raw = |path: &str, body: &'static [u8]| {
        Request::post(path)
            .header("authorization", "Bearer token")
            .body(Full::new(Bytes::from_static(body)))
            .unwrap()
    };
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{\"anthropic_version\":",
    ] {
        let answer = send(&fake, raw(INVOKE, body)).await;
        assert_error(&answer, 400, "ValidationException", "not valid JSON");
    }
    for path in [
        "/",
        "/model//invoke",
        "/model/a/b/invoke",
        "/model/a/converse",
        "/v1/messages",
    ] {
        let answer = send(&fake, raw(path, b"{}")).await;
        assert!(
            matches!(answer.status, 400 | 404),
            "{path}: {}",
            answer.status
        );
    }
    let get = Request::get(INVOKE).body(Full::new(Bytes::new())).unwrap();
    assert_error(
        &send(&fake, get).await,
        404,
        "UnknownOperationException",
        "",
    );
}
