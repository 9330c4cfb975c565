//! The requests: every parameter alone, and all combinations of parameters that interact.

use bytes::Bytes;
use http::HeaderMap;

/// A request without its model, with the JSON of each field that is present.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) version: &'static str,
    pub(crate) betas: &'static str,
}

pub(crate) const OLD: &str = "2023-06-01";
pub(crate) const NEW: &str = "2026-10-21";
const BETAS: &str = "context-management-2025-06-27, compact-2026-01-12,fast-mode-2026-02-01, \
    server-side-fallback-2026-07-01,fallback-credit-2026-07-01, task-budgets-2026-03-13,\
    mcp-client-2025-11-20,message-threads-2026-08-12, structured-outputs-2025-11-13,\
    mid-conversation-output-config-2026-07-01, thinking-binding-controls-2026-08-01,\
    advisor-tool-2026-03-01,a-beta-of-tomorrow-2027-01-01";

const MESSAGES: &str = r#"[ {"role":"user", "content":"Say \"hi\" \u00e9 [ } "} ]"#;
const PREFILL: &str = r#"[{"role":"user","content":"Hi"},{"role":"assistant","content":"{"}]"#;
const SYSTEM_TURN: &str =
    r#"[{"role":"user","content":"Hi"},{"role":"system","content":"Be brief."}]"#;
const TURN_EFFORT: &str = r#"[{"role":"user","content":"Hi","output_config":{"effort":"low"}}]"#;
const TOOLS: &str =
    r#"[{"name":"f", "input_schema":{"type":"object","properties":{"z":{},"a":{}}}}]"#;
const COMPUTER: &str = r#"[{"type":"computer_20251124","name":"computer"}]"#;
const PAUSED: &str = r#"[{"role":"user","content":"Hi"},{"role":"assistant","content":[ {"type":"text","text":"a"},{"type":"server_tool_use","id":"s","name":"web_search","input":{}}]}]"#;
const LOOP: &str = r#"[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t"}]}]"#;
const THOUGHT_LOOP: &str = r#"[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"x"},{"type":"tool_use","id":"t","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t"}]}]"#;

const COMPACTED: &str = r#"[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"compaction","content":"So far."}]},{"role":"user","content":"Go on"}]"#;

/// Every type of tool, each alone, and what makes a tool callable from code.
const TYPED_TOOLS: &[&str] = &[
    r#"{"type":"computer_20250124"}"#,
    r#"{"type":"computer_20251124"}"#,
    r#"{"type":"computer_toolset_20260801"}"#,
    r#"{"type":"browser_toolset_20260801"}"#,
    r#"{"type":"bash_20250124","name":"bash"}"#,
    r#"{"type":"text_editor_20250728","name":"str_replace_based_edit_tool"}"#,
    r#"{"type":"memory_20250818","name":"memory"}"#,
    r#"{"type":"web_search_20250305","name":"web_search"}"#,
    r#"{"type":"web_search_20260209","name":"web_search"}"#,
    r#"{"type":"web_search_20260318","name":"web_search"}"#,
    r#"{"type":"web_search_20260318","name":"web_search","allowed_callers":[ "direct" ]}"#,
    r#"{"type":"web_fetch_20250910","name":"web_fetch"}"#,
    r#"{"type":"web_fetch_20260209","name":"web_fetch"}"#,
    r#"{"type":"web_fetch_20260309","name":"web_fetch"}"#,
    r#"{"type":"web_fetch_20260318","name":"web_fetch","allowed_callers":["direct"]}"#,
    r#"{"type":"code_execution_20250825","name":"code_execution"}"#,
    r#"{"type":"code_execution_20260120","name":"code_execution"}"#,
    r#"{"type":"code_execution_20260521","name":"code_execution"}"#,
    r#"{"type":"tool_search_tool_regex_20251119","name":"tool_search_tool_regex"}"#,
    r#"{"type":"tool_search_tool_bm25_20251119","name":"tool_search_tool_bm25"}"#,
    r#"{"type":"advisor_20260301","name":"advisor","model":"claude-sonnet-4-6"}"#,
    r#"{"type":"advisor_20260301","name":"advisor","model":"claude-opus-4-8"}"#,
    r#"{"type":"advisor_20260301","name":"advisor","model":"claude-opus-5"}"#,
    r#"{"type":"advisor_20260301","name":"advisor","model":"claude-fable-5-2"}"#,
    r#"{"type":"custom","name":"f","input_schema":{},"strict":true}"#,
    r#"{"name":"f","input_schema":{},"allowed_callers":["code_execution_20260120"]}"#,
    r#"{"name":"f","input_schema":{},"allowed_callers":["direct","code_execution_20260120"]}"#,
    r#"{"name":"f","input_schema":{},"defer_loading":true,"eager_input_streaming":true}"#,
    r#"{"type":"tool_of_tomorrow_20270101","name":"t"}"#,
];

/// Edits of the context, alone and together.
const EDITS: &[&str] = &[
    r#"{"edits":[ ]}"#,
    r#"{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]}"#,
    r#"{"edits":[{"type":"clear_tool_uses_20250919"}]}"#,
    r#"{"edits":[{"type":"compact_20260112"}]}"#,
    r#"{ "edits" : [ {"type":"clear_thinking_20251015"} , { "type":"clear_tool_uses_20250919" } ,{"type":"compact_20260112"} ] }"#,
    r#"{"edits":[{"type":"clear_thinking_20251015"},{"type":"compact_20260112"}]}"#,
];

impl Case {
    fn new(version: &'static str) -> Self {
        Self {
            fields: Vec::new(),
            version,
            betas: "",
        }
    }

    fn with(&self, name: &'static str, value: &str) -> Self {
        let mut case = self.clone();
        if !value.is_empty() {
            case.fields.push((name, value.to_owned()));
        }
        case
    }

    fn with_betas(&self) -> Self {
        Self {
            betas: BETAS,
            ..self.clone()
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| *field == name)
    }

    /// The same request with nothing but some of its fields.
    pub(crate) fn only(&self, names: &[&str]) -> Self {
        let mut case = self.clone();
        case.fields.retain(|(name, _)| names.contains(name));
        case
    }

    /// Oddly spaced on purpose; what no rule looks at stands between what they do.
    pub(crate) fn body(&self, model: &str) -> Bytes {
        let given = |name| self.has(name);
        let mut parts = vec![
            r#""metadata" :{"user_id":"u-1"}"#.to_owned(),
            format!("\"model\":  \"{model}\""),
        ];
        if !given("max_tokens") {
            parts.push("\"max_tokens\":4096".to_owned());
        }
        for (index, (name, value)) in self.fields.iter().enumerate() {
            parts.push(format!("\"{name}\" : {value}"));
            if index == 0 {
                parts.push("\"stop_sequences\":[\"a,b\", \"}\"]".to_owned());
            }
        }
        if !given("messages") {
            parts.push(format!("\"messages\":{MESSAGES}"));
        }
        if given("tool_choice") && !given("tools") {
            parts.push(format!("\"tools\":{TOOLS}"));
        }
        parts.push("\"stream\":false".to_owned());
        format!("\n{{ {} }} ", parts.join(" ,\n  ")).into()
    }

    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", "k".parse().unwrap());
        headers.insert("anthropic-version", self.version.parse().unwrap());
        headers.insert("content-length", "1".parse().unwrap());
        if !self.betas.is_empty() {
            headers.insert("anthropic-beta", self.betas.parse().unwrap());
        }
        headers
    }
}

const THINKING: &[&str] = &[
    "",
    r#"{"type":"adaptive"}"#,
    r#"{"type":"adaptive","block_binding":{"prefix_mismatch_behavior":"drop_block"}}"#,
    r#"{ "display":"omitted", "type":"adaptive" }"#,
    r#"{"type":"enabled","budget_tokens":2000}"#,
    r#"{"budget_tokens":20000,"type":"enabled","display":"summarized"}"#,
    r#"{"type":"disabled"}"#,
    r#"{"type":"between_tools"}"#,
];
const EFFORT: &[&str] = &[
    "",
    r#"{"effort":"low"}"#,
    r#"{"effort":"medium"}"#,
    r#"{"effort":"high"}"#,
    r#"{"effort":"xhigh"}"#,
    r#"{"effort":"max"}"#,
    r#"{"format":{"type":"json_schema","schema":{}}}"#,
    r#"{ "format" : {"type":"json_schema","schema":{}} , "effort":"max"}"#,
];
const TOOL_CHOICE: &[&str] = &[
    "",
    r#"{"type":"auto"}"#,
    r#"{"type":"none"}"#,
    r#"{"type":"any","disable_parallel_tool_use":true}"#,
    r#"{"type":"tool","name":"f"}"#,
];
const SAMPLING: &[&[(&str, &str)]] = &[
    &[],
    &[("temperature", "1.0")],
    &[("temperature", "0.25")],
    &[("top_p", "0.99")],
    &[("top_p", "0.5"), ("temperature", "1")],
    &[("top_k", "40")],
    &[("temperature", "1"), ("top_p", "0.990")],
];

/// Returns every parameter alone, with both API versions.
pub(crate) fn alone() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in [OLD, NEW] {
        let plain = Case::new(version);
        cases.push(plain.clone());
        for (name, values) in [
            ("thinking", THINKING),
            ("output_config", EFFORT),
            ("tool_choice", TOOL_CHOICE),
            ("speed", &[r#""fast""#, r#""standard""#, "null"]),
            ("inference_geo", &[r#""us""#, r#""global""#, "null"]),
            ("max_tokens", &["1", "64000", "64001", "128000"]),
            (
                "messages",
                &[PREFILL, SYSTEM_TURN, PAUSED, LOOP, THOUGHT_LOOP],
            ),
            ("tools", &[TOOLS]),
            (
                "system",
                &[r#""Be\nbrief.""#, r#"[ {"type":"text", "text":"x"} ]"#],
            ),
            ("cache_control", &[r#"{"type":"ephemeral", "ttl":"1h"}"#]),
            ("container", &[r#""c_1""#]),
            ("diagnostics", &[r#"{"previous_message_id":null}"#]),
            ("service_tier", &[r#""standard_only""#]),
        ] {
            for value in values.iter().filter(|value| !value.is_empty()) {
                cases.push(plain.with(name, value));
            }
        }
        for sampling in SAMPLING {
            cases.push(sampled(&plain, sampling));
        }
        let betas = plain.with_betas();
        for tool in TYPED_TOOLS {
            cases.push(betas.with("tools", &format!("[ {tool} ]")));
            cases.push(betas.with(
                "tools",
                &format!("[{}, {tool}]", &TOOLS[1..TOOLS.len() - 1]),
            ));
        }
        let toolset = r#"[{"type":"mcp_toolset","mcp_server_name":"crm"}]"#;
        let servers = r#"[{"type":"url","url":"https://a.example/sse","name":"crm"}]"#;
        cases.push(betas.with("mcp_servers", servers).with("tools", toolset));
        for edits in EDITS {
            cases.push(betas.with("context_management", edits));
        }
        for (name, value) in [
            ("fallbacks", r#"[{"model":"claude-sonnet-5"}]"#),
            ("fallbacks", r#""default""#),
            ("fallback_credit_token", r#""t""#),
            ("compaction", "{}"),
            ("output_format", r#"{"type":"json_schema","schema":{}}"#),
            (
                "output_config",
                r#"{"task_budget":{"type":"tokens","total":20000}}"#,
            ),
            (
                "output_config",
                r#"{ "effort":"low" , "task_budget":{"type":"tokens","total":20000},"format":{"type":"json_schema","schema":{}} }"#,
            ),
            ("speed", r#""fast""#),
            ("speed", r#""standard""#),
            ("mcp_servers", "[]"),
            ("thread", r#"{"type":"create"}"#),
            ("billing_policy", "{}"),
            ("messages", TURN_EFFORT),
            ("messages", COMPACTED),
        ] {
            cases.push(betas.with(name, value));
        }
    }
    cases
}

/// Returns thinking × effort × `tool_choice` × sampling × version, and other fields that depend on
/// thinking.
pub(crate) fn together() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in [OLD, NEW] {
        let plain = Case::new(version);
        for thinking in THINKING {
            let thinking = plain.with("thinking", thinking);
            for messages in [PREFILL, SYSTEM_TURN, COMPUTER] {
                let name = if messages == COMPUTER {
                    "tools"
                } else {
                    "messages"
                };
                for sampling in SAMPLING {
                    cases.push(sampled(&thinking.with(name, messages), sampling));
                }
            }
            // Edits depend on the thinking that is sent, which depends on the other fields.
            for edits in EDITS {
                let edits = thinking.with_betas().with("context_management", edits);
                for max_tokens in ["1500", "32000"] {
                    let edits = edits.with("max_tokens", max_tokens);
                    cases.push(edits.with("temperature", "1"));
                    cases.push(edits.with("tool_choice", r#"{"type":"any"}"#));
                    cases.push(edits.with("messages", LOOP));
                    cases.push(edits.with("messages", THOUGHT_LOOP).with("tools", TOOLS));
                    cases.push(edits.with("messages", TURN_EFFORT));
                }
            }
            for max_tokens in ["0", "1500", "2048", "64000", "100000", "128000"] {
                for effort in EFFORT {
                    cases.push(
                        thinking
                            .with("max_tokens", max_tokens)
                            .with("output_config", effort),
                    );
                }
            }
            // What differs in nothing but a bystander was tried above.
            let told = |json: &&&str| json.is_empty() || !json.contains("format");
            for effort in EFFORT.iter().filter(told) {
                let effort = thinking.with("output_config", effort);
                for choice in TOOL_CHOICE.iter().filter(|json| !json.contains("none")) {
                    let choice = effort.with("tool_choice", choice);
                    for sampling in SAMPLING {
                        let case = sampled(&choice, sampling);
                        let big = thinking
                            .fields
                            .iter()
                            .any(|(_, json)| json.contains("20000"));
                        cases.push(if big {
                            case.with("max_tokens", "32000")
                        } else {
                            case
                        });
                    }
                }
            }
        }
    }
    cases
}

fn sampled(case: &Case, sampling: &[(&'static str, &str)]) -> Case {
    let add = |case: Case, (name, value): &(&'static str, &str)| case.with(name, value);
    sampling.iter().fold(case.clone(), add)
}
