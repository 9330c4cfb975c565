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
const BETAS: &str =
    "context-management-2025-06-27, server-side-fallback-2026-07-01,per-turn-2026-01-01";

const MESSAGES: &str = r#"[ {"role":"user", "content":"Say \"hi\" \u00e9 [ } "} ]"#;
const PREFILL: &str = r#"[{"role":"user","content":"Hi"},{"role":"assistant","content":"{"}]"#;
const SYSTEM_TURN: &str =
    r#"[{"role":"user","content":"Hi"},{"role":"system","content":"Be brief."}]"#;
const TURN_EFFORT: &str = r#"[{"role":"user","content":"Hi","output_config":{"effort":"low"}}]"#;
const TOOLS: &str =
    r#"[{"name":"f", "input_schema":{"type":"object","properties":{"z":{},"a":{}}}}]"#;
const COMPUTER: &str = r#"[{"type":"computer_20251124","name":"computer"}]"#;

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
            ("messages", &[PREFILL, SYSTEM_TURN]),
            ("tools", &[TOOLS, COMPUTER]),
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
        for (name, value) in [
            ("fallbacks", r#"[{"model":"claude-sonnet-5"}]"#),
            ("fallbacks", r#""default""#),
            ("fallback_credit_token", r#""t""#),
            ("context_management", r#"{"edits":[ ]}"#),
            ("mcp_servers", "[]"),
            ("thread", "{}"),
            ("billing_policy", "{}"),
            ("messages", TURN_EFFORT),
        ] {
            cases.push(plain.with_betas().with(name, value));
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
