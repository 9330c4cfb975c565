//! Features of the Claude API that a platform lacks, as of 2026-11-29.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::cloud::ids::generation;
use crate::cloud::route::Dialect;
use crate::reply::ErrorReply;

/// Fields of features that neither Amazon Bedrock nor Google has.
const FIELDS: [&str; 7] = [
    "container",
    "diagnostics",
    "fallback_credit_token",
    "fallbacks",
    "inference_geo",
    "mcp_servers",
    "thread",
];
/// Tools that the server would execute, by the beginnings of their types.
const SERVER_TOOLS: [&str; 5] = [
    "advisor_",
    "code_execution_",
    "mcp_toolset",
    "web_fetch_",
    "web_search_",
];
/// The one server tool of the web that Google has.
const VERTEX_SEARCH: &str = "web_search_20250305";
/// Models with an effort for each message, on InvokeModel.
const INVOKE_EFFORT: [&str; 4] = [
    "claude-fable-5-1",
    "claude-fable-5-2",
    "claude-mythos-5-2",
    "claude-opus-5-5",
];
/// The same, on Amazon Bedrock's endpoints of the Claude API.
const MESSAGES_EFFORT: [&str; 3] = ["claude-fable-5-1", "claude-mythos-5-1", "claude-opus-5-5"];

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Rejects what the platform lacks. `model` is the id of the Claude API without its date.
pub(super) fn check(dialect: Dialect, model: &str, fields: &Fields<'_>) -> Result<(), ErrorReply> {
    if let Some(name) = FIELDS.iter().find(|name| fields.contains_key(**name)) {
        return extra(name);
    }
    let is_old = generation(model).is_some_and(|generation| generation <= (4, 6));
    if dialect == Dialect::Invoke && is_old && fields.contains_key("cache_control") {
        return extra("cache_control");
    }
    let is_aws = matches!(dialect, Dialect::Messages | Dialect::Invoke);
    if is_aws && !value(fields, "output_config")["task_budget"].is_null() {
        return extra("output_config.task_budget");
    }
    tools(dialect, &value(fields, "tools"))?;
    let messages = value(fields, "messages");
    for (index, message) in messages.as_array().into_iter().flatten().enumerate() {
        let has_effort = match dialect {
            Dialect::Invoke => INVOKE_EFFORT.contains(&model),
            Dialect::Messages => MESSAGES_EFFORT.contains(&model),
            Dialect::Claude | Dialect::Vertex => true,
        };
        if !has_effort && !message["output_config"].is_null() {
            return extra(&format!("messages.{index}.output_config"));
        }
        let blocks = message["content"].as_array().into_iter().flatten();
        for (block_index, block) in blocks.enumerate() {
            sources(
                dialect,
                block,
                &format!("messages.{index}.content.{block_index}"),
            )?;
        }
    }
    Ok(())
}

fn tools(dialect: Dialect, tools: &Value) -> Result<(), ErrorReply> {
    for (index, tool) in tools.as_array().into_iter().flatten().enumerate() {
        let kind = tool["type"].as_str().unwrap_or("custom");
        let is_server = SERVER_TOOLS.iter().any(|server| kind.starts_with(server));
        let is_offered = dialect == Dialect::Vertex && kind == VERTEX_SEARCH;
        if is_server && !is_offered {
            return Err(ErrorReply::invalid(format!(
                "tools.{index}: Input tag '{kind}' found using 'type' does not match any of the expected tags: 'bash_20250124', 'custom', 'memory_20250818', 'text_editor_20250728'"
            )));
        }
        let callers = tool["allowed_callers"].as_array();
        if callers.is_some_and(|callers| callers.iter().any(|caller| caller != "direct")) {
            return extra(&format!("tools.{index}.{kind}.allowed_callers"));
        }
        if dialect == Dialect::Invoke && !tool["eager_input_streaming"].is_null() {
            return extra(&format!("tools.{index}.{kind}.eager_input_streaming"));
        }
    }
    Ok(())
}

/// Rejects files, which no platform has, and on InvokeModel URLs, also in the content of a block.
fn sources(dialect: Dialect, block: &Value, path: &str) -> Result<(), ErrorReply> {
    let kind = block["type"].as_str().unwrap_or_default();
    match block["source"]["type"].as_str() {
        Some(source @ "file") => return source_error(path, kind, source),
        Some(source @ "url") if dialect == Dialect::Invoke => {
            return source_error(path, kind, source);
        }
        _ => {}
    }
    for (index, inner) in block["content"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        sources(dialect, inner, &format!("{path}.{kind}.content.{index}"))?;
    }
    Ok(())
}

fn source_error(path: &str, kind: &str, source: &str) -> Result<(), ErrorReply> {
    Err(ErrorReply::invalid(format!(
        "{path}.{kind}.source: Input tag '{source}' found using 'type' does not match any of the expected tags: 'base64', 'text'"
    )))
}

fn extra(path: &str) -> Result<(), ErrorReply> {
    let message = format!("{path}: Extra inputs are not permitted");
    Err(ErrorReply::invalid(message))
}

fn value(fields: &Fields<'_>, name: &str) -> Value {
    let raw = fields.get(name);
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default()
}
