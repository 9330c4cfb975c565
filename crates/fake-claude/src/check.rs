//! Checks of a request body by the rules of a model.

use std::collections::HashMap;

use http::HeaderMap;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::{Config, Platform};
use crate::reply::ErrorReply;
use crate::rules::{Forced, Off, RuleSet, Sampling, Speed};

/// Top-level fields without a beta.
const FIELDS: &[&str] = &[
    "cache_control",
    "container",
    "diagnostics",
    "inference_geo",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "output_config",
    "service_tier",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
];
/// Fields that need a beta, with the prefixes of the betas that allow them. Without a prefix, any
/// beta does.
const BETA_FIELDS: [(&str, &[&str]); 8] = [
    ("billing_policy", &[""]),
    ("compaction", &["compact"]),
    ("context_management", &["context-management-", "compact-"]),
    ("fallback_credit_token", &["fallback-credit-"]),
    ("fallbacks", &["server-side-fallback-"]),
    ("mcp_servers", &["mcp-client-"]),
    ("output_format", &["structured-outputs-"]),
    ("thread", &["message-threads-"]),
];
/// Tools that the server executes. `count_tokens` rejects them.
const SERVER_TOOLS: [&str; 5] = [
    "code_execution",
    "mcp_toolset",
    "tool_search_tool",
    "web_fetch",
    "web_search",
];
/// Web tools that run no code.
const BASIC_WEB_TOOLS: [&str; 2] = ["web_fetch_20250910", "web_search_20250305"];
/// The most tokens of one image, for a model that is not listed.
pub(crate) const IMAGE_TOKENS: u64 = 4_784;
const FAST_BETA: &str = "fast-mode-2026-02-01";
const SAMPLING: [&str; 3] = ["temperature", "top_p", "top_k"];

type CheckResult = Result<(), ErrorReply>;
type JsonFields<'a> = HashMap<String, &'a RawValue>;

/// A request body whose messages are not parsed.
pub(crate) struct Body<'a> {
    pub(crate) fields: JsonFields<'a>,
    betas: Vec<String>,
    /// True for API version 2026-10-21 and later.
    new_version: bool,
}

impl<'a> Body<'a> {
    /// Parses the top level. `None` if it is not valid JSON.
    pub(crate) fn read(headers: &HeaderMap, body: &'a [u8]) -> Option<Self> {
        let lines = headers.get_all("anthropic-beta").iter();
        let lines = lines.flat_map(|line| line.to_str());
        let betas = lines
            .flat_map(|line| line.split(','))
            .map(|beta| beta.trim().to_owned());
        let version = headers
            .get("anthropic-version")
            .map(http::HeaderValue::as_bytes);
        Some(Self {
            fields: serde_json::from_slice(body).ok()?,
            betas: betas.filter(|beta| !beta.is_empty()).collect(),
            new_version: version.is_some_and(|version| version >= &b"2026-10-21"[..]),
        })
    }

    /// Returns the body with other messages.
    pub(crate) fn with_messages(&self, messages: &str) -> Vec<u8> {
        let mut json = format!("{{\"messages\":{messages}");
        let others = self.fields.iter().filter(|(name, _)| *name != "messages");
        for (name, raw) in others {
            json.push(',');
            json.push_str(&Value::from(name.as_str()).to_string());
            json.push(':');
            json.push_str(raw.get());
        }
        json.push('}');
        json.into_bytes()
    }

    pub(crate) fn value(&self, name: &str) -> Value {
        let raw = self.fields.get(name);
        raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default()
    }

    pub(crate) fn has_beta(&self, prefixes: &[&str]) -> bool {
        let is = |beta: &String| prefixes.iter().any(|prefix| beta.starts_with(prefix));
        self.betas.iter().any(is)
    }

    /// Returns the images and documents that are sent as data.
    pub(crate) fn media(&self, rules: Option<&RuleSet>) -> Media {
        let mut media = Media::default();
        let most = rules.map_or(IMAGE_TOKENS, |rules| rules.image_tokens);
        let messages = self.fields.get("messages").map_or("", |raw| raw.get());
        if messages.contains("\"base64\"") {
            media.add(&self.value("messages"), most);
        }
        media
    }

    /// Rejects what cannot be counted.
    pub(crate) fn countable(&self) -> CheckResult {
        for name in ["mcp_servers", "thread"] {
            if !self.value(name).is_null() {
                return invalid(format!("{name}: Extra inputs are not permitted"));
            }
        }
        for (index, tool) in self.tools_list().iter().enumerate() {
            let kind = tool["type"].as_str().unwrap_or_default();
            if SERVER_TOOLS.iter().any(|server| kind.starts_with(server)) {
                return invalid(format!("tools.{index}: server tools are not supported"));
            }
        }
        if has_reference(&self.value("messages")) {
            return invalid("messages: url and file sources are not supported".to_owned());
        }
        Ok(())
    }

    fn tools_list(&self) -> Vec<Value> {
        match self.value("tools") {
            Value::Array(tools) => tools,
            _ => Vec::new(),
        }
    }

    /// Rejects unknown fields.
    pub(crate) fn fields_known(&self) -> CheckResult {
        let mut names: Vec<&str> = self.fields.keys().map(String::as_str).collect();
        names.sort_unstable();
        for name in names {
            let beta = BETA_FIELDS.iter().find(|(field, _)| *field == name);
            let known = FIELDS.contains(&name) && !(self.new_version && SAMPLING.contains(&name))
                || beta.is_some_and(|(_, prefixes)| self.has_beta(prefixes));
            if !known {
                return invalid(format!("{name}: Extra inputs are not permitted"));
            }
        }
        Ok(())
    }

    /// Checks all fields that depend on the model, except the sizes.
    pub(crate) fn accepted(
        &self,
        name: &str,
        rules: &RuleSet,
        max_tokens: u64,
        config: &Config,
    ) -> CheckResult {
        self.speed(name, rules, config)?;
        let thinking = self.value("thinking");
        let kind = thinking["type"].as_str();
        check_thinking(rules, &thinking, max_tokens)?;
        self.effort(rules, kind)?;
        self.task_budget(rules)?;
        self.tool_choice(rules)?;
        let thinks = match kind {
            Some("adaptive" | "enabled") => true,
            Some(_) => false,
            None => rules.thinks,
        };
        self.sampling(rules, thinks)?;
        self.context_edits(rules, thinks)?;
        if !self.value("inference_geo").is_null() && !rules.geo {
            return invalid(format!(
                "{name} does not support the `inference_geo` parameter."
            ));
        }
        if self.value("fallbacks").is_array() && !rules.fallback_list {
            return invalid(format!(
                "fallbacks: {name} does not support a list of models."
            ));
        }
        self.tools(name, rules, config.platform)?;
        self.turns(rules, thinks)
    }

    /// Checks the fast mode, which only the Claude API has.
    fn speed(&self, name: &str, rules: &RuleSet, config: &Config) -> CheckResult {
        let speed = self.value("speed");
        if speed.is_null() {
            return Ok(());
        }
        let takes = rules.speed == Speed::Ignored || rules.speed.is_fast(&config.today);
        if !takes || config.platform != Platform::Claude {
            return invalid(format!("'{name}' does not support the `speed` parameter"));
        }
        let needs_beta = matches!(rules.speed, Speed::WithBeta | Speed::Ending);
        if needs_beta && speed == "fast" && !self.has_beta(&[FAST_BETA]) {
            return invalid(format!(
                "Fast mode is not enabled without the beta {FAST_BETA}."
            ));
        }
        Ok(())
    }

    fn task_budget(&self, rules: &RuleSet) -> CheckResult {
        if self.value("output_config")["task_budget"].is_null() {
            return Ok(());
        }
        if !self.has_beta(&["task-budgets-"]) {
            let message = "output_config.task_budget: Extra inputs are not permitted";
            return invalid(message.to_owned());
        }
        if !rules.task_budget {
            return invalid("This model does not support task budgets.".to_owned());
        }
        Ok(())
    }

    fn context_edits(&self, rules: &RuleSet, thinks: bool) -> CheckResult {
        if !self.value("compaction").is_null() && !rules.compaction {
            return invalid("compaction is not supported on this model".to_owned());
        }
        let context = self.value("context_management");
        let edits = context["edits"].as_array().into_iter().flatten();
        for (index, edit) in edits.enumerate() {
            let problem = match edit["type"].as_str().unwrap_or_default() {
                "clear_tool_uses_20250919" if self.has_beta(&["context-management-"]) => continue,
                "clear_thinking_20251015" if !thinks => {
                    "strategy requires `thinking` to be enabled or adaptive"
                }
                "clear_thinking_20251015" if self.has_beta(&["context-management-"]) => continue,
                "compact_20260112" if !rules.compaction => {
                    "strategy is not supported on this model"
                }
                "compact_20260112" if self.has_beta(&["compact-"]) => continue,
                _ => "Input tag does not match any of the expected tags",
            };
            let kind = &edit["type"];
            return invalid(format!(
                "context_management.edits.{index}: {kind} {problem}"
            ));
        }
        Ok(())
    }

    fn effort(&self, rules: &RuleSet, thinking: Option<&str>) -> CheckResult {
        let config = self.value("output_config");
        let Some(effort) = config["effort"].as_str() else {
            return Ok(());
        };
        if rules.efforts.is_empty() {
            return invalid("This model does not support the effort parameter.".to_owned());
        }
        if !rules.efforts.contains(&effort) {
            let known = rules.efforts.join(", ");
            return invalid(format!(
                "This model does not support effort level '{effort}'. Supported levels: {known}."
            ));
        }
        let off = match thinking {
            Some("disabled") => rules.disabled,
            Some("between_tools") => rules.between_tools,
            _ => Off::Always,
        };
        if off == Off::UpToHigh && matches!(effort, "xhigh" | "max") {
            return invalid(format!(
                "output_config.effort '{effort}' is not supported when thinking is disabled on this model. Use effort 'high' or below, or enable thinking."
            ));
        }
        Ok(())
    }

    /// Holds for counting tokens too.
    pub(crate) fn tool_choice(&self, rules: &RuleSet) -> CheckResult {
        let choice = self.value("tool_choice");
        if !matches!(choice["type"].as_str(), Some("any" | "tool")) {
            return Ok(());
        }
        match rules.forced {
            Forced::Never => invalid(
                "tool_choice: type \"tool\" and \"any\" are not supported for this model."
                    .to_owned(),
            ),
            Forced::NotWithEnabled if self.value("thinking")["type"] == "enabled" => {
                invalid("Thinking may not be enabled when tool_choice forces tool use.".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn sampling(&self, rules: &RuleSet, thinks: bool) -> CheckResult {
        let [temperature, top_p, top_k] = SAMPLING.map(|name| self.value(name));
        if rules.sampling == Sampling::WithoutThinking && !thinks {
            if !temperature.is_null() && !top_p.is_null() {
                let message = "`temperature` and `top_p` cannot both be specified for this model. Please use only one.";
                return invalid(message.to_owned());
            }
            return Ok(());
        }
        let refuse = |name: &str| match rules.sampling {
            Sampling::WithoutThinking => invalid(format!(
                "`{name}` may only be set to its default when thinking is enabled."
            )),
            _ => invalid(format!("`{name}` is deprecated for this model.")),
        };
        if !temperature.is_null() && temperature.as_f64() != Some(1.0) {
            return refuse("temperature");
        }
        let either = rules.sampling == Sampling::DefaultEither && top_p.as_f64() == Some(0.99);
        if !top_p.is_null() && (!either || !temperature.is_null()) {
            return refuse("top_p");
        }
        if !top_k.is_null() {
            return refuse("top_k");
        }
        Ok(())
    }

    fn tools(&self, name: &str, rules: &RuleSet, platform: Platform) -> CheckResult {
        let tools = self.tools_list();
        let kind = |tool: &Value| tool["type"].as_str().unwrap_or_default().to_owned();
        let mut rejected: Vec<String> = tools.iter().map(kind).collect();
        rejected.retain(|kind| rules.rejects_tool(kind, platform));
        if !rejected.is_empty() {
            let rejected = rejected.join(", ");
            return invalid(format!("'{name}' does not support tool types: {rejected}."));
        }
        for tool in &tools {
            let kind = kind(tool);
            let is_web = kind.starts_with("web_") && !BASIC_WEB_TOOLS.contains(&&*kind);
            let from_code = match tool["allowed_callers"].as_array() {
                Some(callers) if !callers.is_empty() => callers.iter().any(|c| c != "direct"),
                _ => is_web,
            };
            if from_code && !rules.code_calls {
                return invalid(format!(
                    "'{name}' does not support programmatic tool calling."
                ));
            }
            let advisor = tool["model"].as_str().unwrap_or_default();
            if kind.starts_with("advisor_") && !rules.takes_advisor(advisor) {
                return invalid(format!(
                    "tools: '{name}' cannot use '{advisor}' as an advisor."
                ));
            }
            let server = &tool["mcp_server_name"];
            let servers = self.value("mcp_servers");
            let mut servers = servers.as_array().into_iter().flatten();
            if kind == "mcp_toolset" && !servers.any(|known| known["name"] == *server) {
                return invalid(format!("tools: no MCP server is named {server}."));
            }
        }
        Ok(())
    }

    fn turns(&self, rules: &RuleSet, thinks: bool) -> CheckResult {
        let messages = self.fields.get("messages").map_or("", |raw| raw.get());
        let turns: Vec<JsonFields<'_>> = serde_json::from_str(messages).unwrap_or_default();
        let mut last = None;
        for (index, turn) in turns.iter().enumerate() {
            let role = turn.get("role").map(|raw| raw.get());
            let content = turn.get("content").map_or("", |raw| raw.get());
            if !rules.compaction && content.contains("\"compaction\"") {
                let blocks: Vec<Value> = serde_json::from_str(content).unwrap_or_default();
                if blocks.iter().any(|block| block["type"] == "compaction") {
                    return invalid(format!(
                        "messages.{index}.content: compaction blocks are not supported on this model"
                    ));
                }
            }
            if role == Some("\"system\"") && !rules.system_turns {
                return invalid(format!(
                    "messages.{index}: role 'system' is not supported on this model"
                ));
            }
            if turn.contains_key("output_config") {
                if !self.has_beta(&["mid-conversation-output-config-"]) {
                    return invalid(format!(
                        "messages.{index}.output_config: Extra inputs are not permitted"
                    ));
                }
                let thinking = self.value("thinking");
                let is_off = thinking["type"] == "disabled" || thinking["type"] == "between_tools";
                if rules.turn_effort && is_off {
                    return invalid(format!(
                        "messages.{index}: output_config.effort differs from the effort in effect before it"
                    ));
                }
                if !rules.turn_effort {
                    let message = "output_config.effort requires a model that supports per-turn effort; this model does not";
                    return invalid(message.to_owned());
                }
            }
            last = role;
        }
        let content = |turn: Option<&JsonFields<'_>>| -> Vec<Value> {
            let raw = turn
                .and_then(|turn| turn.get("content"))
                .map_or("", |raw| raw.get());
            serde_json::from_str(raw).unwrap_or_default()
        };
        if last == Some("\"assistant\"") {
            let content = content(turns.last());
            let end = content.last().and_then(|block| block["type"].as_str());
            let end = end.unwrap_or_default();
            // After `pause_turn` the request continues the turn.
            if end.ends_with("server_tool_use") || end.ends_with("tool_result") {
                return Ok(());
            }
        }
        let answers = |block: &Value| block["type"] == "tool_result";
        if self.value("thinking")["type"] == "enabled"
            && content(turns.last()).iter().any(answers)
            && let Some(before) = turns.len().checked_sub(2)
        {
            let call = content(turns.get(before));
            let first = call.first().map_or(&Value::Null, |block| &block["type"]);
            if first != "thinking" && first != "redacted_thinking" {
                return invalid(format!(
                    "messages.{before}.content.0.type: Expected `thinking` or `redacted_thinking`, but found {first}. When `thinking` is enabled, a final `assistant` message must start with a thinking block."
                ));
            }
        }
        if last == Some("\"assistant\"") && (!rules.prefill || thinks) {
            return invalid("This model does not support assistant message prefill. The conversation must end with a user message.".to_owned());
        }
        Ok(())
    }
}

/// The images and documents of a prompt that are sent as data.
#[derive(Clone, Copy, Default)]
pub(crate) struct Media {
    /// The bytes of the data.
    pub(crate) bytes: u64,
    /// About the tokens that they cost.
    pub(crate) tokens: u64,
}

impl Media {
    /// Adds the images and documents in a value. An image has at most `most` tokens.
    pub(crate) fn add(&mut self, value: &Value, most: u64) {
        let source = &value["source"];
        if source["type"] == "base64"
            && let Some(data) = source["data"].as_str()
        {
            let bytes = data.len() as u64;
            self.bytes += bytes;
            self.tokens += match value["type"].as_str() {
                Some("image") => (bytes / 100).clamp(1, most),
                _ => bytes / 20,
            };
            return;
        }
        parts(value).for_each(|part| self.add(part, most));
    }
}

/// Returns true if a block refers to its content by URL or file.
fn has_reference(value: &Value) -> bool {
    let source = &value["source"]["type"];
    source == "url" || source == "file" || parts(value).any(has_reference)
}

/// Returns the values inside an array or object.
fn parts(value: &Value) -> impl Iterator<Item = &Value> {
    let items = value.as_array().into_iter().flatten();
    items.chain(
        value
            .as_object()
            .into_iter()
            .flat_map(|object| object.values()),
    )
}

fn invalid(message: String) -> CheckResult {
    Err(ErrorReply::invalid(message))
}

/// Checks the `thinking` field.
fn check_thinking(rules: &RuleSet, thinking: &Value, max_tokens: u64) -> CheckResult {
    let not_here = |kind: &str, advice: &str| {
        invalid(format!(
            "\"thinking.type.{kind}\" is not supported for this model.{advice}"
        ))
    };
    let allowed: &[&str] = match thinking["type"].as_str() {
        None => return Ok(()),
        Some("adaptive") if !rules.adaptive => {
            return invalid("adaptive thinking is not supported on this model".to_owned());
        }
        Some("adaptive") => &["type", "display", "block_binding"],
        Some("enabled") if !rules.enabled => {
            let advice = " Use \"thinking.type.adaptive\" and \"output_config.effort\" to control thinking behavior.";
            return not_here("enabled", advice);
        }
        Some("enabled") => {
            check_thinking_budget(thinking, max_tokens)?;
            &["type", "display", "budget_tokens", "block_binding"]
        }
        Some("disabled") if rules.disabled == Off::Never => {
            let advice = if rules.between_tools == Off::Never {
                ""
            } else {
                " To turn thinking off on this model, send \"thinking\": {\"type\": \"between_tools\"} instead of {\"type\": \"disabled\"}."
            };
            return not_here("disabled", advice);
        }
        Some("between_tools") if rules.between_tools == Off::Never => {
            return not_here("between_tools", "");
        }
        Some("disabled" | "between_tools") => &["type"],
        Some(other) => {
            return invalid(format!(
                "thinking: Input tag '{other}' found using 'type' does not match any of the expected tags"
            ));
        }
    };
    for key in thinking
        .as_object()
        .into_iter()
        .flat_map(|object| object.keys())
    {
        if !allowed.contains(&key.as_str()) {
            return invalid(format!("thinking.{key}: Extra inputs are not permitted"));
        }
    }
    Ok(())
}

fn check_thinking_budget(thinking: &Value, max_tokens: u64) -> CheckResult {
    let Some(budget) = thinking["budget_tokens"].as_u64() else {
        return invalid("thinking.enabled.budget_tokens: Field required".to_owned());
    };
    if budget < 1_024 {
        let message =
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024";
        return invalid(message.to_owned());
    }
    if budget >= max_tokens {
        return invalid("`max_tokens` must be greater than `thinking.budget_tokens`.".to_owned());
    }
    Ok(())
}
