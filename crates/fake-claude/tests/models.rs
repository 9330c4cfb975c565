//! The requests that each model rejects, in Claude's words.

mod common;

use common::{full, post};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_claude_fake_claude::FakeClaude;
use tower_claude_wire::ApiError;

const OLD: &str = "2023-06-01";

/// Returns the status and the error message, which is empty for a success.
async fn send(path: &str, version: &str, betas: &str, model: &str, fields: &str) -> (u16, String) {
    let messages = if fields.contains("\"messages\"") {
        ""
    } else {
        r#","messages":[{"role":"user","content":"Hi"}]"#
    };
    let max = if fields.contains("\"max_tokens\"") {
        ""
    } else {
        r#","max_tokens":2000"#
    };
    let body = format!(r#"{{"model":"claude-{model}"{max}{messages}{fields}}}"#);
    let mut request = post(path);
    request
        .headers_mut()
        .unwrap()
        .insert("anthropic-version", version.parse().unwrap());
    if !betas.is_empty() {
        request = request.header("anthropic-beta", betas);
    }
    let request = request.body(full(body)).unwrap();
    let response = FakeClaude::builder()
        .build()
        .oneshot(request)
        .await
        .unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let message = ApiError::parse(&body).map_or(String::new(), |error| error.message);
    (status, message)
}

async fn assert_rejected(model: &str, fields: &str, message: &str) {
    let said = send("/v1/messages", OLD, "", model, fields).await;
    let status = if message.is_empty() { 200 } else { 400 };
    assert_eq!(said, (status, message.to_owned()), "{model}: {fields}");
}

#[tokio::test(start_paused = true)]
async fn thinking_and_effort_of_each_model_are_checked() {
    let adaptive = r#","thinking":{"type":"adaptive","display":"omitted"}"#;
    assert_rejected(
        "haiku-4-5",
        adaptive,
        "adaptive thinking is not supported on this model",
    )
    .await;
    assert_rejected("opus-4-6", adaptive, "").await;
    let enabled = r#","thinking":{"type":"enabled","budget_tokens":1024}"#;
    let advice = "\"thinking.type.enabled\" is not supported for this model. Use \"thinking.type.adaptive\" and \"output_config.effort\" to control thinking behavior.";
    assert_rejected("opus-4-7", enabled, advice).await;
    assert_rejected("sonnet-4-6", enabled, "").await;
    let low = enabled.replace("1024", "1023");
    assert_rejected(
        "sonnet-4-5",
        &low,
        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    )
    .await;
    let high = enabled.replace("1024", "2000");
    assert_rejected(
        "sonnet-4-5",
        &high,
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
    )
    .await;
    let off = r#","thinking":{"type":"disabled"}"#;
    assert_rejected(
        "fable-5-2",
        off,
        "\"thinking.type.disabled\" is not supported for this model.",
    )
    .await;
    assert_rejected("sonnet-5", off, "").await;
    let between = r#","thinking":{"type":"between_tools"}"#;
    assert_rejected(
        "haiku-5-5",
        between,
        "\"thinking.type.between_tools\" is not supported for this model.",
    )
    .await;
    let shown = r#","thinking":{"type":"between_tools","display":"omitted"}"#;
    assert_rejected(
        "sonnet-5-5",
        shown,
        "thinking.display: Extra inputs are not permitted",
    )
    .await;
    let effort = |word| format!(r#","output_config":{{"effort":"{word}"}}"#);
    assert_rejected(
        "haiku-4-5",
        &effort("low"),
        "This model does not support the effort parameter.",
    )
    .await;
    assert_rejected("opus-4-5", &effort("high"), "").await;
    let levels = "This model does not support effort level 'xhigh'. Supported levels: low, medium, high, max.";
    assert_rejected("opus-4-6", &effort("xhigh"), levels).await;
    let capped = "output_config.effort 'max' is not supported when thinking is disabled on this model. Use effort 'high' or below, or enable thinking.";
    assert_rejected("opus-5", &format!("{off}{}", effort("max")), capped).await;
    assert_rejected("sonnet-5-5", &format!("{between}{}", effort("max")), capped).await;
    assert_rejected("opus-4-8", &format!("{off}{}", effort("max")), "").await;
}

#[tokio::test(start_paused = true)]
async fn sampling_tools_and_turns_of_each_model_are_checked() {
    assert_rejected(
        "opus-4-7",
        r#","temperature":0.5"#,
        "`temperature` is deprecated for this model.",
    )
    .await;
    assert_rejected("opus-4-7", r#","temperature":1.0"#, "").await;
    assert_rejected("haiku-5-5", r#","top_p":0.99"#, "").await;
    assert_rejected(
        "haiku-5-5",
        r#","top_p":0.99,"temperature":1"#,
        "`top_p` is deprecated for this model.",
    )
    .await;
    assert_rejected("sonnet-4-6", r#","top_k":3"#, "").await;
    let thinks = r#","top_k":3,"thinking":{"type":"adaptive"}"#;
    assert_rejected(
        "sonnet-4-6",
        thinks,
        "`top_k` may only be set to its default when thinking is enabled.",
    )
    .await;
    let forced = r#","tool_choice":{"type":"any"}"#;
    let never = "tool_choice: type \"tool\" and \"any\" are not supported for this model.";
    assert_rejected("opus-5-5", forced, never).await;
    assert_rejected("haiku-5-5", forced, "").await;
    let enabled =
        r#","tool_choice":{"type":"any"},"thinking":{"type":"enabled","budget_tokens":1024}"#;
    assert_rejected(
        "opus-4-5",
        enabled,
        "Thinking may not be enabled when tool_choice forces tool use.",
    )
    .await;
    let prefill =
        r#","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"{"}]"#;
    let ends = "This model does not support assistant message prefill. The conversation must end with a user message.";
    assert_rejected("opus-4-6", prefill, ends).await;
    assert_rejected("opus-4-5", prefill, "").await;
    let system = r#","messages":[{"role":"user","content":"Hi"},{"role":"system","content":"x"}]"#;
    assert_rejected(
        "sonnet-5",
        system,
        "messages.1: role 'system' is not supported on this model",
    )
    .await;
    assert_rejected("opus-4-8", system, "").await;
    let computer = r#","tools":[{"type":"computer_20251124","name":"computer"}]"#;
    assert_rejected(
        "opus-5-5",
        computer,
        "'claude-opus-5-5' does not support tool types: computer_20251124.",
    )
    .await;
    assert_rejected(
        "sonnet-5",
        r#","speed":"fast""#,
        "claude-sonnet-5 does not support the `speed` parameter.",
    )
    .await;
    assert_rejected("opus-4-6", r#","speed":"fast""#, "").await;
    assert_rejected(
        "opus-4-5",
        r#","inference_geo":"us""#,
        "claude-opus-4-5 does not support the `inference_geo` parameter.",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn fields_versions_and_lifecycles_are_checked() {
    assert_rejected(
        "opus-5",
        r#","foo":1"#,
        "foo: Extra inputs are not permitted",
    )
    .await;
    let fallbacks = r#","fallbacks":[{"model":"claude-opus-5"}]"#;
    assert_rejected(
        "opus-5",
        fallbacks,
        "fallbacks: Extra inputs are not permitted",
    )
    .await;
    let beta = "server-side-fallback-2026-07-01";
    let path = "/v1/messages";
    assert_eq!(send(path, OLD, beta, "opus-5", fallbacks).await.0, 200);
    assert_eq!(
        send(path, OLD, beta, "haiku-5-5", r#","fallbacks":"default""#)
            .await
            .0,
        200
    );
    assert_eq!(send(path, OLD, beta, "haiku-5-5", fallbacks).await.0, 400);
    let turn = r#","messages":[{"role":"user","content":"Hi","output_config":{"effort":"low"}}]"#;
    assert_rejected(
        "opus-5",
        turn,
        "messages.0.output_config: Extra inputs are not permitted",
    )
    .await;
    assert_eq!(send(path, OLD, "some-beta", "opus-5", turn).await.0, 200);
    let (_, message) = send(path, OLD, "some-beta", "fable-5", turn).await;
    assert!(message.contains("per-turn effort"), "{message}");
    let new = send(path, "2026-10-21", "", "sonnet-4-6", r#","temperature":1"#).await;
    assert_eq!(
        new,
        (
            400,
            "temperature: Extra inputs are not permitted".to_owned()
        )
    );
    for model in [
        "mythos-preview",
        "opus-4-1-20250805",
        "3-5-haiku-20241022",
        "sonnet-4-20250514",
    ] {
        assert_eq!(
            send(path, OLD, "", model, "").await,
            (404, format!("model: claude-{model}"))
        );
    }
    // `count_tokens` checks the forced tool and no other field here.
    let count = "/v1/messages/count_tokens";
    assert_eq!(
        send(
            count,
            OLD,
            "",
            "opus-5-5",
            r#","tool_choice":{"type":"any"}"#
        )
        .await
        .0,
        400
    );
    assert_eq!(
        send(
            count,
            OLD,
            "",
            "opus-5-5",
            r#","thinking":{"type":"disabled"}"#
        )
        .await
        .0,
        200
    );
}
