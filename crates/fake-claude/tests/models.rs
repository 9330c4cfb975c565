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
    let paused = r#","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"text","text":"a"},{"type":"server_tool_use","id":"t","name":"web_search","input":{}}]}]"#;
    assert_rejected("opus-4-6", paused, "").await;
    let in_loop = r#","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t"}]}]"#;
    assert_rejected("haiku-4-5", in_loop, "").await;
    let thinks = format!(r#"{in_loop},"thinking":{{"type":"enabled","budget_tokens":1024}}"#);
    let (status, message) = send("/v1/messages", OLD, "", "haiku-4-5", &thinks).await;
    assert!(
        status == 400 && message.contains("must start with a thinking block"),
        "{message}"
    );
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
        "fable-5-2",
        &computer.replace("1124", "0124"),
        "'claude-fable-5-2' does not support tool types: computer_20250124.",
    )
    .await;
    assert_rejected("fable-5-1", computer, "").await;
    let search = r#","tools":[{"type":"web_search_20260318","name":"web_search"}]"#;
    let from_code = "'claude-haiku-4-5' does not support programmatic tool calling.";
    assert_rejected("haiku-4-5", search, from_code).await;
    assert_rejected("sonnet-4-5", search, "").await;
    let direct = search.replace("\"name\"", "\"allowed_callers\":[\"direct\"],\"name\"");
    assert_rejected("haiku-4-5", &direct, "").await;
    assert_rejected("haiku-4-5", &search.replace("20260318", "20250305"), "").await;
    let called = r#","tools":[{"name":"q","input_schema":{},"allowed_callers":["code_execution_20260120"]}]"#;
    assert_rejected("haiku-4-5", called, from_code).await;
    assert_rejected("haiku-5-5", called, "").await;
    let toolset = r#","tools":[{"type":"mcp_toolset","mcp_server_name":"crm"}]"#;
    assert_rejected("opus-5", toolset, "tools: no MCP server is named \"crm\".").await;
    assert_rejected(
        "sonnet-5",
        r#","speed":"fast""#,
        "'claude-sonnet-5' does not support the `speed` parameter",
    )
    .await;
    assert_rejected("opus-4-6", r#","speed":"fast""#, "").await;
    assert_rejected("opus-5-5", r#","speed":"fast""#, "").await;
    assert_rejected("fable-5-2", r#","speed":"fast""#, "").await;
    assert_rejected(
        "opus-5",
        r#","speed":"fast""#,
        "Fast mode is not enabled without the beta fast-mode-2026-02-01.",
    )
    .await;
    let both = r#","temperature":1,"top_p":0.9"#;
    let one =
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one.";
    assert_rejected("sonnet-4-6", both, one).await;
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
    let beta = "a-2026-01-01, mid-conversation-output-config-2026-07-01";
    assert_eq!(send(path, OLD, "a-2026-01-01", "opus-5", turn).await.0, 400);
    assert_eq!(send(path, OLD, beta, "opus-5", turn).await.0, 200);
    let (_, message) = send(path, OLD, beta, "fable-5", turn).await;
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
        "opus-4-1-20250805",
        "3-5-haiku-20241022",
        "sonnet-4-20250514",
    ] {
        assert_eq!(
            send(path, OLD, "", model, "").await,
            (404, format!("model: claude-{model}"))
        );
    }
    assert_eq!(send(path, OLD, "", "mythos-preview", "").await.0, 200);
    let output_format = r#","output_format":{"type":"json_schema","schema":{"type":"object"}}"#;
    let beta = "structured-outputs-2025-11-13";
    assert_eq!(
        send(path, OLD, beta, "sonnet-4-5", output_format).await.0,
        200
    );
    assert_eq!(
        send(path, OLD, "", "sonnet-4-5", output_format).await.0,
        400
    );
    let budget = r#","output_config":{"task_budget":{"type":"tokens","total":20000}}"#;
    let beta = "task-budgets-2026-03-13";
    assert_eq!(send(path, OLD, beta, "opus-4-7", budget).await.0, 200);
    assert_eq!(send(path, OLD, beta, "sonnet-5", budget).await.0, 400);
    let clear =
        r#","context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]}"#;
    let beta = "context-management-2025-06-27";
    assert_eq!(send(path, OLD, beta, "opus-5", clear).await.0, 200);
    let (status, message) = send(path, OLD, beta, "opus-4-8", clear).await;
    assert!(
        status == 400 && message.contains("enabled or adaptive"),
        "{message}"
    );
    let compact = r#","context_management":{"edits":[{"type":"compact_20260112"}]}"#;
    let beta = "compact-2026-01-12";
    assert_eq!(send(path, OLD, beta, "sonnet-4-6", compact).await.0, 200);
    assert_eq!(send(path, OLD, beta, "opus-4-5", compact).await.0, 400);
    // `count_tokens` checks the forced tool, and what it cannot count.
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

#[tokio::test(start_paused = true)]
async fn model_after_its_last_day_is_not_found() {
    for (day, model, fields, status) in [
        ("2026-11-29", "sonnet-4-5", "", 200),
        ("2026-11-30", "sonnet-4-5", "", 404),
        ("2026-11-30", "opus-4-5", "", 200),
        ("2027-01-22", "opus-4-5-20251101", "", 404),
        ("2026-11-29", "opus-4-8", r#","speed":"fast""#, 200),
        ("2026-11-30", "opus-4-8", r#","speed":"fast""#, 400),
    ] {
        let body = format!(
            r#"{{"model":"claude-{model}","max_tokens":9,"messages":[{{"role":"user","content":"Hi"}}]{fields}}}"#
        );
        let request = post("/v1/messages").header("anthropic-beta", "fast-mode-2026-02-01");
        let request = request.body(full(body)).unwrap();
        let fake = FakeClaude::builder().today(day).build();
        let response = fake.oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{model} on {day}");
    }
}

#[tokio::test(start_paused = true)]
async fn image_by_data_costs_some_thousand_tokens() {
    let image = format!(
        r#","messages":[{{"role":"user","content":[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{}"}}}}]}}]"#,
        "iVBORw0K".repeat(100_000)
    );
    let path = "/v1/messages";
    assert_eq!(send(path, OLD, "", "haiku-4-5", &image).await.0, 200);
    let text = image.replace("base64", "text");
    let (status, message) = send(path, OLD, "", "haiku-4-5", &text).await;
    assert!(
        status == 400 && message.starts_with("prompt is too long: "),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn count_of_what_the_endpoint_rejects_fails() {
    let count = "/v1/messages/count_tokens";
    let image = |source| {
        format!(
            r#","messages":[{{"role":"user","content":[{{"type":"image","source":{{"type":"{source}"}}}}]}}]"#
        )
    };
    for (fields, status) in [
        (
            r#","tools":[{"type":"web_search_20250305","name":"web_search"}]"#,
            400,
        ),
        (
            r#","tools":[{"type":"mcp_toolset","mcp_server_name":"crm"}]"#,
            400,
        ),
        (
            r#","tools":[{"type":"advisor_20260301","name":"advisor","model":"claude-opus-5"}]"#,
            200,
        ),
        (r#","tools":[{"type":"bash_20250124","name":"bash"}]"#, 200),
        (r#","mcp_servers":[]"#, 400),
        (r#","thread":{"type":"create"}"#, 400),
        (&image("url"), 400),
        (&image("file"), 400),
        (&image("base64"), 200),
    ] {
        assert_eq!(
            send(count, OLD, "", "opus-5", fields).await.0,
            status,
            "{fields}"
        );
    }
}

/// Valid bodies with features that other checks might take for mistakes.
#[tokio::test(start_paused = true)]
async fn valid_bodies_are_accepted() {
    let content = |blocks: &str| format!(r#","messages":[{{"role":"user","content":[{blocks}]}}]"#);
    let source =
        |kind: &str, source: &str| content(&format!(r#"{{"type":"{kind}","source":{source}}}"#));
    let later = r#","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hi"},{"role":"user","content":"Go"},{"role":"system","content":"Be brief."}]"#;
    for (betas, fields) in [
        ("prompt-caching-2024-07-31,pdfs-2024-09-25, token-counting-2024-11-01", String::new()),
        ("extended-cache-ttl-2025-04-11,cache-diagnosis-2026-04-07", String::new()),
        ("token-efficient-tools-2025-02-19, message-batches-2024-09-24", String::new()),
        ("", r#","cache_control":{"type":"ephemeral","ttl":"1h"}"#.to_owned()),
        ("", r#","system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]"#.to_owned()),
        ("", r#","service_tier":"standard_only","metadata":{"user_id":"u"},"stop_sequences":["a"]"#.to_owned()),
        ("", r#","diagnostics":{"previous_message_id":"msg_1"},"container":"c_1""#.to_owned()),
        ("", r#","output_config":{"format":{"type":"json_schema","schema":{}},"effort":"max"}"#.to_owned()),
        ("", later.to_owned()),
        ("", source("document", r#"{"type":"base64","media_type":"application/pdf","data":"JVBER"}"#)),
        ("", source("document", r#"{"type":"text","media_type":"text/plain","data":"a"}"#)),
        ("", source("document", r#"{"type":"content","content":[{"type":"text","text":"a"}]}"#)),
        ("", source("document", r#"{"type":"url","url":"https://a.example/a.pdf"}"#)),
        ("files-api-2025-04-14", source("document", r#"{"type":"file","file_id":"file_1"}"#)),
        ("", source("image", r#"{"type":"url","url":"https://a.example/a.png"}"#)),
        ("", content(r#"{"type":"search_result","source":"a","title":"b","content":[]}"#)),
        ("message-threads-2026-08-12", r#","thread":{"type":"create"}"#.to_owned()),
        ("server-side-fallback-2026-07-01", r#","fallbacks":"default""#.to_owned()),
        ("fallback-credit-2026-07-01", r#","fallback_credit_token":"t""#.to_owned()),
        ("compact-2026-01-12", r#","compaction":{}"#.to_owned()),
        (
            "thinking-binding-controls-2026-08-01",
            r#","thinking":{"type":"adaptive","block_binding":{"prefix_mismatch_behavior":"drop_block"}}"#.to_owned(),
        ),
    ] {
        let answer = send("/v1/messages", OLD, betas, "opus-5", &fields).await;
        assert_eq!(answer, (200, String::new()), "{betas}: {fields}");
    }
}
