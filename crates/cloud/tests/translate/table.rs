//! The table of fields in the documentation, and the translation that it describes.

use std::collections::BTreeMap;

use http::HeaderMap;
use tower_claude_cloud::Translated;
use tower_claude_wire::cloud::{Loss, Target, Unportable};

use super::{
    MESSAGES, bedrock_messages, clouds, headers, invoke_model, text, translate_at, vertex,
};

/// A request that has the field of a row.
struct Case {
    uri: &'static str,
    model: &'static str,
    /// Members of the body.
    body: String,
    headers: Vec<(&'static str, &'static str)>,
    /// A part of the body that is there only if the field is.
    part: String,
    /// The name in the loss.
    subject: &'static str,
    /// A part of the request that is there if the field was moved: of the URI, a header or the
    /// body.
    moved: &'static str,
}

fn case(body: &str) -> Case {
    Case {
        uri: MESSAGES,
        model: "claude-opus-5-5",
        body: body.to_owned(),
        headers: Vec::new(),
        part: body.to_owned(),
        subject: "",
        moved: "",
    }
}

impl Case {
    fn part(mut self, part: &str) -> Self {
        part.clone_into(&mut self.part);
        self
    }

    fn lost(mut self, subject: &'static str) -> Self {
        self.subject = subject;
        self
    }

    fn moved(mut self, moved: &'static str) -> Self {
        self.moved = moved;
        self
    }

    fn model(mut self, model: &'static str) -> Self {
        self.model = model;
        self
    }

    fn uri(mut self, uri: &'static str) -> Self {
        self.uri = uri;
        self
    }
}

/// A header, which `part` stands for.
fn header(name: &'static str, value: &'static str) -> Case {
    let mut case = case("");
    case.headers = vec![(name, value)];
    case.part = format!("{name}: {value}");
    case
}

fn block(block: &str) -> Case {
    let body = format!(r#""messages":[{{"role":"user","content":[{block}]}}]"#);
    case(&body).part(block)
}

fn tool(tool: &str) -> Case {
    case(&format!(r#""tools":[{tool}]"#)).part(tool)
}

fn cases() -> BTreeMap<&'static str, Case> {
    let source = |source| block(&format!(r#"{{"type":"image","source":{source}}}"#));
    let marked = r#"{"type":"text","text":"t","cache_control":{"type":"ephemeral","ttl":"1h"}}"#;
    let scope =
        r#"{"type":"text","text":"t","cache_control":{"type":"ephemeral","scope":"global"}}"#;
    let automatic = r#""cache_control":{"type":"ephemeral"}"#;
    let forced = case(r#""tool_choice":{"type":"any"}"#).model("claude-sonnet-5");
    let mut all = BTreeMap::from([
        (
            "`model`",
            case("")
                .part(r#""model":"claude-opus-5-5""#)
                .moved("claude-opus-5-5"),
        ),
        (
            "`stream`",
            case(r#""stream":true"#).moved("-with-response-stream"),
        ),
        ("`max_tokens`", case(r#""max_tokens":5"#)),
        (
            "`messages`",
            case(r#""messages":[ {"role":"user" , "content":"\u00e9"} ]"#),
        ),
        (
            "`system`",
            case(r#""system": [ {"type":"text", "text":"t"}]"#),
        ),
        (
            "`tools`",
            tool(r#"{ "name":"n","input_schema":{ "type":"object"} }"#),
        ),
        (
            "`tool_choice`",
            case(r#""tool_choice":{"type":"auto","disable_parallel_tool_use":true}"#),
        ),
        ("`stop_sequences`", case(r#""stop_sequences":["a"]"#)),
        ("`temperature`", case(r#""temperature":1"#)),
        ("`metadata`", case(r#""metadata":{"user_id":"u"}"#)),
        (
            "`thinking`",
            case(r#""thinking":{"type":"adaptive","display":"updates"}"#),
        ),
        (
            "thinking blocks in `messages`",
            block(r#"{"type":"thinking","thinking":"t","signature":"s"}"#),
        ),
        (
            "`output_config.effort`",
            case(r#""output_config":{"effort":"low"}"#),
        ),
        (
            "`output_config.format`",
            case(r#""output_config":{"format":{"type":"json_schema"}}"#),
        ),
        (
            "`output_config.task_budget`",
            case(r#""output_config":{"effort":"low","task_budget":{"type":"tokens"}}"#)
                .part("task_budget")
                .lost("output_config.task_budget"),
        ),
        (
            "`output_config` of a message",
            case(r#""messages":[{"role":"user","content":"c","output_config":{"effort":"low"}}]"#)
                .lost("messages[].output_config"),
        ),
        (
            "`clear_at` of a message",
            case(r#""messages":[{"role":"system","content":"c","clear_at":1}]"#)
                .lost("messages[].clear_at"),
        ),
        (
            "`output_format`",
            case(r#""output_format":{"type":"json_schema"}"#).lost("output_format"),
        ),
        (
            "`context_management`",
            case(r#""context_management":{"edits":[]}"#),
        ),
        (
            "`compaction`",
            case(r#""compaction":{"type":"auto"}"#).lost("compaction"),
        ),
        (
            "`thinking.block_binding`",
            case(r#""thinking":{"type":"adaptive","block_binding":{"a":1}}"#),
        ),
        ("`cache_control` of a block", block(marked)),
        (
            "`cache_control.ttl` before 4.5",
            block(marked)
                .part("ttl")
                .lost("cache_control.ttl")
                .model("claude-opus-4-1"),
        ),
        (
            "`cache_control.scope`",
            block(scope).part("scope").lost("cache_control.scope"),
        ),
        ("`cache_control`, automatic", case(automatic)),
        (
            "`cache_control`, automatic, before 4.7",
            case(automatic)
                .lost("cache_control")
                .model("claude-opus-4-6"),
        ),
        ("`container`", case(r#""container":"c""#).lost("container")),
        (
            "`mcp_servers`",
            case(r#""mcp_servers":[{"url":"u"}]"#).lost("mcp_servers"),
        ),
        (
            "`billing_policy`",
            case(r#""billing_policy":{"a":1}"#).lost("billing_policy"),
        ),
        (
            "`thread`, created",
            case(r#""thread":{"type":"create"}"#).lost("thread"),
        ),
        (
            "`thread`, continued",
            case(r#""thread":{"type":"continue","previous_message_id":"m"}"#).lost("thread"),
        ),
        (
            "`fallbacks`",
            case(r#""fallbacks":"default""#).lost("fallbacks"),
        ),
        (
            "`fallback_credit_token`",
            case(r#""fallback_credit_token":"t""#).lost("fallback_credit_token"),
        ),
        (
            "`diagnostics`",
            case(r#""diagnostics":{"previous_message_id":"m"}"#).lost("diagnostics"),
        ),
        (
            "`service_tier`",
            case(r#""service_tier":"auto""#).lost("service_tier"),
        ),
        ("`speed: \"fast\"`", case(r#""speed":"fast""#).lost("speed")),
        (
            "`inference_geo: \"global\"`",
            case(r#""inference_geo":"global""#),
        ),
        (
            "`inference_geo` of the target's location",
            case(r#""inference_geo":"us""#).lost("inference_geo"),
        ),
        (
            "`inference_geo` of another place",
            case(r#""inference_geo":"eu""#).lost("inference_geo"),
        ),
        ("unknown fields", case(r#""x_new": {"a":[2.50]}"#)),
        (
            "image or document by URL",
            source(r#"{"type":"url","url":"https://h/i"}"#).lost("messages[].content[].source"),
        ),
        (
            "image or document by file id",
            source(r#"{"type":"file","file_id":"f"}"#).lost("messages[].content[].source"),
        ),
        (
            "tool ids of other vendors",
            block(r#"{"type":"tool_use","id":"call.1|2","name":"n","input":{}}"#)
                .lost("messages[].content[].id"),
        ),
        (
            "`caller: null` of a tool call",
            block(r#"{"type":"tool_use","id":"toolu_1","name":"n","input":{},"caller":null}"#)
                .part("caller"),
        ),
        (
            "tool `web_search_20250305`",
            tool(r#"{"type":"web_search_20250305","name":"web_search"}"#),
        ),
        (
            "newer web search",
            tool(r#"{"type":"web_search_20260209","name":"web_search"}"#),
        ),
        (
            "web fetch",
            tool(r#"{"type":"web_fetch_20250910","name":"web_fetch"}"#),
        ),
        (
            "code execution",
            tool(r#"{"type":"code_execution_20250825","name":"code_execution"}"#),
        ),
        (
            "`allowed_callers` with code execution",
            tool(r#"{"name":"n","allowed_callers":["code_execution_20260120"]}"#)
                .lost("tools[].allowed_callers"),
        ),
        (
            "`mcp_toolset`",
            tool(r#"{"type":"mcp_toolset","mcp_server_name":"s"}"#),
        ),
        (
            "advisor",
            tool(r#"{"type":"advisor_20260301","name":"advisor"}"#),
        ),
        (
            "tool search",
            tool(r#"{"type":"tool_search_tool_bm25_20251119","name":"t"}"#),
        ),
        (
            "memory, text editor, bash",
            tool(
                r#"{"type":"memory_20250818","name":"memory"},{"type":"bash_20250124","name":"bash"},{"type":"text_editor_20250728","name":"e"}"#,
            ),
        ),
        (
            "`eager_input_streaming` of a tool",
            tool(r#"{"name":"n","eager_input_streaming":true}"#)
                .part("eager_input_streaming")
                .lost("tools[].eager_input_streaming"),
        ),
        (
            "results of web search",
            block(r#"{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[]}"#),
        ),
        (
            "results of code execution",
            block(r#"{"type":"code_execution_tool_result","tool_use_id":"srvtoolu_1"}"#),
        ),
        (
            "fallback blocks",
            block(r#"{"type":"fallback","from":{"model":"a"}}"#),
        ),
        (
            "`tool_addition` blocks",
            block(r#"{"type":"tool_addition","tools":[]}"#),
        ),
        (
            "forced `tool_choice` on Sonnet 5 with thinking",
            forced.lost("tool_choice"),
        ),
        ("body over 20 MB", long_body(21).lost("body")),
        ("body over 30 MB", long_body(31).lost("body")),
        (
            "`anthropic-version: 2023-06-01`",
            header("anthropic-version", "2023-06-01").moved("2023-"),
        ),
        (
            "`anthropic-version: 2026-10-21`",
            header("anthropic-version", "2026-10-21").moved(r#""anthropic_version":"2026-10-21""#),
        ),
        (
            "`anthropic-version: 2026-10-21` before 4.7",
            header("anthropic-version", "2026-10-21")
                .model("claude-opus-4-6")
                .lost("anthropic-version")
                .moved(r#""anthropic_version":"2026-10-21""#),
        ),
        (
            "a known `anthropic-beta`",
            header("anthropic-beta", "context-1m-2025-08-07")
                .moved(r#""anthropic_beta":["context-1m-2025-08-07"]"#),
        ),
        (
            "an unknown `anthropic-beta`",
            header("anthropic-beta", "x-2027-01-01").lost("x-2027-01-01"),
        ),
        (
            "an unneeded `anthropic-beta`",
            header("anthropic-beta", "prompt-caching-2024-07-31"),
        ),
        (
            "`anthropic-user-profile-id`",
            header("anthropic-user-profile-id", "uprof_1")
                .lost("user_profile_id")
                .moved(r#""user_profile_id":"uprof_1""#),
        ),
        (
            "`anthropic-workspace-id`",
            header("anthropic-workspace-id", "wrkspc_1").lost("anthropic-workspace-id"),
        ),
        (
            "`x-amzn-bedrock-guardrail…`",
            header("x-amzn-bedrock-guardrailidentifier", "g").lost("x-amzn-bedrock-guardrail"),
        ),
        (
            "`x-amzn-bedrock-…`",
            header("x-amzn-bedrock-trace", "ENABLED").lost("x-amzn-bedrock-trace"),
        ),
        ("`user-agent`", header("user-agent", "u/1")),
        ("other headers", header("x-stainless-lang", "python")),
        (
            "counting tokens",
            case(r#""max_tokens":5"#)
                .uri("https://h/v1/messages/count_tokens")
                .lost("path"),
        ),
        (
            "batches, models, files",
            case("").uri("https://h/v1/messages/batches").lost("path"),
        ),
    ]);
    let mut credentials = header("x-api-key", "secret");
    credentials.headers.push(("authorization", "Bearer secret"));
    "secret".clone_into(&mut credentials.part);
    all.insert("`x-api-key`, `authorization`", credentials);
    all
}

fn long_body(mebibytes: usize) -> Case {
    let text = "x".repeat(mebibytes << 20);
    case(&format!(r#""system":"{text}""#)).part("xxx")
}

/// Returns the URI, the headers and the body in one text.
fn whole(sent: &Translated) -> String {
    format!("{}\n{}{}", sent.uri, lines(&sent.headers), text(&sent.body))
}

fn lines(headers: &HeaderMap) -> String {
    let line = |(name, value): (_, &http::HeaderValue)| {
        format!("{name}: {}\n", value.to_str().expect("visible"))
    };
    headers.iter().map(line).collect()
}

fn run(case: &Case, target: &Target) -> Result<Translated, Unportable> {
    let comma = if case.body.is_empty() { "" } else { "," };
    let body = format!(r#"{{"model":"{}"{comma}{}}}"#, case.model, case.body);
    translate_at(case.uri, &case.headers, body, target)
}

/// Checks that a translation is what a cell of the table says.
fn check(row: &str, cell: &str, case: &Case, target: &Target) {
    let at = format!("{row} on {target}: {cell}");
    let result = run(case, target);
    if cell == "unportable" {
        let reason = result.map(|sent| whole(&sent)).expect_err(&at);
        if !case.subject.is_empty() {
            assert_eq!(reason.path, case.subject, "{at}");
        }
        return;
    }
    let sent = result.unwrap_or_else(|reason| panic!("{at}: {reason}"));
    // Those of the long bodies are left out.
    let all = if sent.body.len() < 1_000 {
        whole(&sent)
    } else {
        "xxx".to_owned()
    };
    let subjects: Vec<_> = sent.losses.iter().map(Loss::subject).collect();
    let has_part = all.contains(&case.part);
    match cell {
        "lost" => {
            assert_eq!(subjects, [case.subject], "{at}: {all}");
            assert!(!has_part, "{at}: {all}");
        }
        "kept" => {
            assert_eq!(subjects, [""; 0], "{at}");
            assert!(has_part, "{at}: {all}");
        }
        "dropped" => {
            assert_eq!(subjects, [""; 0], "{at}");
            assert!(!has_part, "{at}: {all}");
        }
        "moved" | "replaced" => {
            assert_eq!(subjects, [""; 0], "{at}");
            assert!(!has_part, "{at}: {all}");
            assert!(
                !case.moved.is_empty() && all.contains(case.moved),
                "{at}: {all}"
            );
        }
        other => panic!("{row}: no such word as {other}"),
    }
}

fn rows() -> Vec<[&'static str; 4]> {
    let table = include_str!("../../src/fields.md");
    let cells = |line: &'static str| {
        let mut cells = line.trim().trim_matches('|').split(" | ").map(str::trim);
        std::array::from_fn(|_| cells.next().expect("four cells"))
    };
    table.lines().skip(2).map(cells).collect()
}

#[test]
fn each_cell_of_the_table_is_what_the_translation_does() {
    let mut cases = cases();
    for [row, messages, invoke, google] in rows() {
        let case = cases
            .remove(row)
            .unwrap_or_else(|| panic!("no case for {row}"));
        check(row, messages, &case, &bedrock_messages());
        check(row, invoke, &case, &invoke_model());
        check(row, google, &case, &vertex());
    }
    assert!(cases.is_empty(), "no row for {:?}", cases.keys());
}

#[test]
fn claude_api_gets_each_field_of_the_table_as_it_is() {
    for (row, case) in cases() {
        let sent =
            run(&case, &Target::claude_api()).unwrap_or_else(|reason| panic!("{row}: {reason}"));
        assert!(sent.losses.is_empty(), "{row}");
        let comma = if case.body.is_empty() { "" } else { "," };
        let body = format!(r#"{{"model":"{}"{comma}{}}}"#, case.model, case.body);
        assert!(sent.body == body, "{row}: the body was changed");
        assert_eq!(sent.headers, headers(&case.headers), "{row}");
    }
}

#[test]
fn translation_of_each_row_stays_as_it_is() {
    for (row, case) in cases() {
        for target in clouds() {
            let Ok(first) = run(&case, &target) else {
                continue;
            };
            let again = tower_claude_cloud::Translator::new();
            let second = again
                .translate(&first.uri, &first.headers, &first.body, &target)
                .unwrap_or_else(|reason| panic!("{row} on {target}: {reason}"));
            assert_eq!(second.uri, first.uri, "{row} on {target}");
            assert_eq!(second.headers, first.headers, "{row} on {target}");
            assert!(second.body == first.body, "{row} on {target}");
            assert!(
                second.losses.is_empty(),
                "{row} on {target}: {}",
                second.losses
            );
            assert_eq!(second.stream, first.stream, "{row} on {target}");
        }
    }
}
