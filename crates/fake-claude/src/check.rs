//! Checks of a request body by the rules of a model.

use std::collections::HashMap;

use http::HeaderMap;
use serde_json::Value;
use serde_json::value::RawValue;

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
/// Fields that some `anthropic-beta` header allows. Only `fallbacks` requires its own one.
const BETA_FIELDS: &[&str] = &[
    "billing_policy",
    "context_management",
    "fallback_credit_token",
    "fallbacks",
    "mcp_servers",
    "thread",
];
const SAMPLING: [&str; 3] = ["temperature", "top_p", "top_k"];

type CheckResult = Result<(), ErrorReply>;
type JsonFields<'a> = HashMap<String, &'a RawValue>;

/// A request body whose messages are not parsed.
pub(crate) struct Body<'a> {
    pub(crate) fields: JsonFields<'a>,
    betas: String,
    /// True for API version 2026-10-21 and later.
    new_version: bool,
}

impl<'a> Body<'a> {
    /// Parses the top level. `None` if it is not valid JSON.
    pub(crate) fn read(headers: &HeaderMap, body: &'a [u8]) -> Option<Self> {
        let lines = headers.get_all("anthropic-beta").iter();
        let betas: Vec<&str> = lines.flat_map(|line| line.to_str()).collect();
        let version = headers
            .get("anthropic-version")
            .map(http::HeaderValue::as_bytes);
        Some(Self {
            fields: serde_json::from_slice(body).ok()?,
            betas: betas.join(","),
            new_version: version.is_some_and(|version| version >= &b"2026-10-21"[..]),
        })
    }

    fn value(&self, name: &str) -> Value {
        let raw = self.fields.get(name);
        raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default()
    }

    /// Rejects unknown fields.
    pub(crate) fn fields_known(&self) -> CheckResult {
        let mut names: Vec<&str> = self.fields.keys().map(String::as_str).collect();
        names.sort_unstable();
        for name in names {
            let known = FIELDS.contains(&name) && !(self.new_version && SAMPLING.contains(&name))
                || name == "fallbacks" && self.betas.contains("server-side-fallback-")
                || name != "fallbacks" && BETA_FIELDS.contains(&name) && !self.betas.is_empty();
            if !known {
                return invalid(format!("{name}: Extra inputs are not permitted"));
            }
        }
        Ok(())
    }

    /// Checks all fields that depend on the model, except the sizes.
    pub(crate) fn accepted(&self, name: &str, rules: &RuleSet, max_tokens: u64) -> CheckResult {
        let thinking = self.value("thinking");
        let kind = thinking["type"].as_str();
        check_thinking(rules, &thinking, max_tokens)?;
        self.effort(rules, kind)?;
        self.tool_choice(rules)?;
        let thinks = match kind {
            Some("adaptive" | "enabled") => true,
            Some(_) => false,
            None => rules.thinks,
        };
        self.sampling(rules, thinks)?;
        if !self.value("speed").is_null() && rules.speed == Speed::Unknown {
            return invalid(format!("{name} does not support the `speed` parameter."));
        }
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
        self.tools(name, rules)?;
        self.turns(rules, thinks)
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

    fn tools(&self, name: &str, rules: &RuleSet) -> CheckResult {
        if rules.rejected_tools.is_empty() {
            return Ok(());
        }
        let tools = self.value("tools");
        let kinds = tools
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|tool| tool["type"].as_str());
        let rejected: Vec<&str> = kinds
            .filter(|kind| rules.rejected_tools.contains(kind))
            .collect();
        if rejected.is_empty() {
            return Ok(());
        }
        invalid(format!(
            "'{name}' does not support tool types: {}.",
            rejected.join(", ")
        ))
    }

    fn turns(&self, rules: &RuleSet, thinks: bool) -> CheckResult {
        let messages = self.fields.get("messages").map_or("", |raw| raw.get());
        let turns: Vec<JsonFields<'_>> = serde_json::from_str(messages).unwrap_or_default();
        let mut last = None;
        for (index, turn) in turns.iter().enumerate() {
            let role = turn.get("role").map(|raw| raw.get());
            if role == Some("\"system\"") && !rules.system_turns {
                return invalid(format!(
                    "messages.{index}: role 'system' is not supported on this model"
                ));
            }
            if turn.contains_key("output_config") {
                if self.betas.is_empty() {
                    return invalid(format!(
                        "messages.{index}.output_config: Extra inputs are not permitted"
                    ));
                }
                if !rules.turn_effort {
                    let message = "output_config.effort requires a model that supports per-turn effort; this model does not";
                    return invalid(message.to_owned());
                }
            }
            last = role;
        }
        if last == Some("\"assistant\"") && (!rules.prefill || thinks) {
            return invalid("This model does not support assistant message prefill. The conversation must end with a user message.".to_owned());
        }
        Ok(())
    }
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
