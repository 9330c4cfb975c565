//! The state of a rewrite, and the rules that do not concern thinking.

use std::time::SystemTime;

use bytes::Bytes;
use tower_claude_wire::{
    Effort, Elements, Fields, Model, ModelCatalog, Platform, Support, estimate_tokens, json_text,
    text_bytes,
};

use super::{
    headers::BetaChanges,
    json_object::{JsonObjectEditor, string},
    losses::{Losses, Unportable, Why, push},
    options::RewriteOptions,
};

/// The top-level fields that a rule reads. All others are skipped.
const TOP: [&str; 18] = [
    "model",
    "max_tokens",
    "thinking",
    "output_config",
    "tool_choice",
    "temperature",
    "top_p",
    "top_k",
    "speed",
    "inference_geo",
    "fallbacks",
    "fallback_credit_token",
    "context_management",
    "compaction",
    "thread",
    "messages",
    "system",
    "tools",
];

/// The members of `output_config` that a rule reads, and their names in losses.
const CONFIG: [(&str, &str); 2] = [
    ("effort", "output_config.effort"),
    ("task_budget", "output_config.task_budget"),
];

/// The first version of the web tools with dynamic filtering.
const DYNAMIC_FILTERING: &str = "20260209";

/// The request while the rules change it.
pub(super) struct RewriteState<'a> {
    pub(super) options: &'a RewriteOptions,
    pub(super) from: &'a Model,
    pub(super) to: &'a Model,
    pub(super) top: JsonObjectEditor,
    /// The members of `output_config`, if it is an object.
    pub(super) config: Option<JsonObjectEditor>,
    /// True if the API version rejects sampling parameters for every model.
    pub(super) new_version: bool,
}

impl<'a> RewriteState<'a> {
    pub(super) fn new(
        options: &'a RewriteOptions,
        body: &Bytes,
        from: &'a Model,
        to: &'a Model,
        new_version: bool,
    ) -> Result<Self, Unportable> {
        let top = JsonObjectEditor::parse(body.clone(), &TOP, "")?;
        let config = match top.asked("output_config") {
            Some(json) if json.starts_with(b"{") => {
                let names = CONFIG.map(|(name, _)| name);
                Some(JsonObjectEditor::parse(json, &names, "output_config")?)
            }
            _ => None,
        };
        Ok(Self {
            options,
            from,
            to,
            top,
            config,
            new_version,
        })
    }

    /// Returns the `max_tokens` that are sent, and `u64::MAX` for a larger number.
    pub(super) fn max_tokens(&self) -> Option<u64> {
        number(&self.top.sent("max_tokens")?)
    }

    /// Returns true if the request forces a tool.
    pub(super) fn forces_tool(&self) -> bool {
        matches!(
            kind(self.top.asked("tool_choice")).as_deref(),
            Some("any" | "tool")
        )
    }

    /// Returns the effort of the original request, if it is known.
    pub(super) fn asked_effort(&self) -> Option<Effort> {
        let word = self.config.as_ref()?.asked_text("effort")?;
        Effort::parse(&word)
    }

    pub(super) fn set_effort(&mut self, effort: Effort, why: Why) {
        let value = string(effort.as_str());
        match &mut self.config {
            Some(config) => config.set("effort", value, why),
            None => {
                // If `output_config` is no object, the API rejects it.
                if self.top.asked("output_config").is_none() {
                    let json = Bytes::from_static(b"{}");
                    if let Ok(mut config) =
                        JsonObjectEditor::parse(json, &["effort"], "output_config")
                    {
                        config.set("effort", value, why);
                        self.config = Some(config);
                    }
                }
            }
        }
    }

    /// Returns true if the target will think, as far as the request and its default show.
    pub(super) fn will_think(&self) -> bool {
        self.thinks() == Some(true)
    }

    /// Returns `None` if the request leaves it to a default that is not known.
    fn thinks(&self) -> Option<bool> {
        match kind(self.top.sent("thinking")).as_deref() {
            Some("adaptive" | "enabled") => Some(true),
            Some("disabled" | "between_tools") => Some(false),
            _ => self.to.capabilities.thinks_by_default,
        }
    }

    /// Returns true if the request answers a call of a tool.
    pub(super) fn answers_tool(&self) -> bool {
        let Some(messages) = self.top.asked("messages") else {
            return false;
        };
        let last = Elements::open(&messages).into_iter().flatten().last();
        let content = last.and_then(|message| member(message, "content"));
        content.is_some_and(|content| has_block(content, "tool_result"))
    }

    fn platform(&self) -> Platform {
        self.options.platform
    }

    /// Applies rule 1: the model.
    pub(super) fn model(&mut self, to: &str) -> Result<(), Unportable> {
        if self.top.asked_text("model").is_none() {
            let why = "the body names no model: Bedrock and Vertex have it in the path";
            return Err(Unportable::new("model", why));
        }
        self.top.set("model", string(to), Why::Translated);
        Ok(())
    }

    /// Applies rule 2: `max_tokens` is lowered to the target's limit, and never raised.
    pub(super) fn max_tokens_within(&mut self) {
        let cap = self.to.max_output;
        if self.max_tokens().is_some_and(|asked| asked > cap) {
            self.top.set("max_tokens", cap.to_string(), Why::Clamped);
        }
    }

    /// Applies rule 17: a thread belongs to its model.
    pub(super) fn thread(&self) -> Result<(), Unportable> {
        let thread = self.top.asked("thread");
        if is_given(thread.as_ref()) && kind(thread).as_deref() != Some("create") {
            let why = "continues a thread of another model";
            return Err(Unportable::new("thread", why));
        }
        Ok(())
    }

    /// Applies rule 3: the context window. An estimate from bytes is used only if the window is
    /// smaller than the original's. Of images and documents, it counts about their tokens.
    pub(super) fn context(&self) -> Result<(), Unportable> {
        let fits = |tokens: u64| tokens <= self.to.context;
        let too_long = match self.options.input_tokens {
            Some(tokens) => !fits(tokens),
            None if self.to.context >= self.from.context => false,
            None => {
                let parts = ["messages", "system", "tools"].map(|name| self.top.asked(name));
                let text = |json: &Bytes| text_bytes(json);
                let bytes: u64 = parts.iter().flatten().map(text).sum();
                !fits(estimate_tokens(bytes, self.to.tokenizer))
            }
        };
        if too_long {
            return Err(Unportable::new(
                "messages",
                "longer than the context window",
            ));
        }
        Ok(())
    }

    /// Applies rule 6: sampling parameters. Runs after `thinking`.
    pub(super) fn sampling(&mut self) {
        let can = &self.to.capabilities;
        let free = match can.sampling {
            Support::No => false,
            Support::ThinkingOff => !self.will_think(),
            _ => true,
        };
        if free && !self.new_version {
            return;
        }
        let defaults = can.sampling_defaults;
        let mut given = false;
        for (name, default) in [
            ("temperature", defaults.temperature),
            ("top_p", defaults.top_p),
            ("top_k", None),
        ] {
            let Some(value) = self.top.asked(name).filter(|json| is_given(Some(json))) else {
                continue;
            };
            let is_default = default.is_some_and(|default| is_thousandths(&value, default));
            if is_default && !given && !self.new_version {
                given = true;
            } else {
                self.top.remove(name, Why::Unsupported);
            }
        }
    }

    /// Applies rule 7: a forced tool. Runs after `thinking`.
    pub(super) fn tool_choice(&mut self) -> Result<(), Unportable> {
        let thinking = kind(self.top.sent("thinking"));
        let can = &self.to.capabilities;
        let rejected = match can.forced_tool_choice(self.platform()) {
            Support::No => true,
            Support::NotWithEnabledThinking => thinking.as_deref() == Some("enabled"),
            Support::ThinkingOff => thinking.as_deref() != Some("disabled"),
            _ => false,
        };
        let Some(asked) = self
            .top
            .asked("tool_choice")
            .filter(|_| rejected && self.forces_tool())
        else {
            return Ok(());
        };
        if !self.options.lose_forced_tool_choice {
            return Err(Unportable::new(
                "tool_choice",
                "cannot be forced to use a tool",
            ));
        }
        let mut object = JsonObjectEditor::parse(asked, &["type", "name"], "tool_choice")?;
        object.set("type", string("auto"), Why::Unsupported);
        object.remove("name", Why::Unsupported);
        self.top
            .set("tool_choice", object.render(), Why::Unsupported);
        Ok(())
    }

    /// Applies rules 8 and 11 to the messages, which are not changed. Runs after `thinking`.
    pub(super) fn turns(&self) -> Result<(), Unportable> {
        let can = &self.to.capabilities;
        let no_prefill = match can.prefill {
            Support::No => true,
            Support::ThinkingOff => self.will_think(),
            _ => false,
        };
        let no_system = !takes(can.system_messages);
        let thinking = kind(self.top.sent("thinking"));
        let is_off = matches!(thinking.as_deref(), Some("disabled" | "between_tools"));
        let no_effort = is_off || !takes(can.per_message_effort);
        let no_compaction = !takes(can.compaction);
        if !(no_prefill || no_system || no_effort || no_compaction) {
            return Ok(());
        }
        let Some(messages) = self.top.asked("messages") else {
            return Ok(());
        };
        let (mut ends_with_assistant, mut last) = (false, &[][..]);
        for message in Elements::open(&messages).into_iter().flatten() {
            (ends_with_assistant, last) = (false, message);
            for field in Fields::open(message).into_iter().flatten().flatten() {
                let value = field.value_in(message);
                match &*field.name {
                    "role" if no_system && is_text(value, "system") => {
                        let why = "a system message inside the conversation is rejected";
                        return Err(Unportable::new("messages", why));
                    }
                    "content" if no_compaction && has_block(value, "compaction") => {
                        let why = "a compacted conversation is rejected";
                        return Err(Unportable::new("messages", why));
                    }
                    "role" => ends_with_assistant = is_text(value, "assistant"),
                    "output_config" if no_effort && value != b"null" => {
                        let why = "an effort of its own for one turn is rejected";
                        return Err(Unportable::new("messages", why));
                    }
                    _ => {}
                }
            }
        }
        if no_prefill && ends_with_assistant && !is_paused(last) {
            let why = "a conversation that ends with the assistant's turn is rejected";
            return Err(Unportable::new("messages", why));
        }
        Ok(())
    }

    /// Applies rule 9: `speed`. Removed instead of set to `standard`, because models without a fast
    /// mode reject the field.
    pub(super) fn speed(&mut self, now: SystemTime) {
        let Some(asked) = self.top.asked("speed").filter(|json| is_given(Some(json))) else {
            return;
        };
        let fast = is_text(&asked, "fast");
        match self.to.fast_on(self.platform(), now) {
            Support::Yes | Support::Ignored => {}
            Support::Unknown if !fast => {}
            _ if fast => self.top.remove("speed", Why::Unsupported),
            _ => self.top.remove("speed", Why::Translated),
        }
    }

    /// Applies rule 10: `inference_geo`.
    pub(super) fn inference_geo(&mut self) -> Result<(), Unportable> {
        let asked = self
            .top
            .asked("inference_geo")
            .filter(|json| is_given(Some(json)));
        let Some(asked) = asked.filter(|_| !takes(self.to.capabilities.inference_geo)) else {
            return Ok(());
        };
        if is_text(&asked, "global") {
            self.top.remove("inference_geo", Why::Translated);
        } else if self.options.lose_inference_geo {
            self.top.remove("inference_geo", Why::Unsupported);
        } else {
            let why = "cannot be held to a place";
            return Err(Unportable::new("inference_geo", why));
        }
        Ok(())
    }

    /// Applies rule 13: tools that are known to be rejected.
    pub(super) fn tools(&self, catalog: &ModelCatalog) -> Result<(), Unportable> {
        let Some(tools) = self.top.asked("tools") else {
            return Ok(());
        };
        let can = &self.to.capabilities;
        for tool in Elements::open(&tools).into_iter().flatten() {
            let [mut kind, mut callers, mut model] = [None; 3];
            for field in Fields::open(tool).into_iter().flatten().flatten() {
                let value = Some(field.value_in(tool));
                match &*field.name {
                    "type" => kind = value,
                    "allowed_callers" => callers = value,
                    "model" => model = value,
                    _ => {}
                }
            }
            let kind = kind.and_then(json_text).unwrap_or_default();
            let model = model.and_then(json_text).unwrap_or_default();
            let why = if can.rejects_tool(&kind, self.platform()) {
                "a tool of a type that is rejected"
            } else if !takes(can.programmatic_tools) && is_programmatic(&kind, callers) {
                "a tool that is called from code, which is rejected"
            } else if kind.starts_with("advisor_") && !self.takes_advisor(&model, catalog) {
                "an advisor that this model may not call"
            } else {
                continue;
            };
            return Err(Unportable::new("tools", why));
        }
        Ok(())
    }

    /// Returns true if the target may call this advisor. The advisor must not rank below it.
    fn takes_advisor(&self, advisor: &str, catalog: &ModelCatalog) -> bool {
        let advisor = catalog.lookup(advisor).capabilities.advisor_rank;
        match (self.to.capabilities.advisor_rank, advisor) {
            (Some(own), Some(advisor)) => own <= advisor,
            (own, _) => own.is_some() || !self.to.known,
        }
    }

    /// Applies rule 14: edits of the context. Runs after `thinking`.
    pub(super) fn context_edits(&mut self) -> Result<(), Unportable> {
        let compacts = takes(self.to.capabilities.compaction);
        let thinks = self.thinks() != Some(false);
        if !compacts && is_given(self.top.asked("compaction").as_ref()) {
            self.top.remove("compaction", Why::Unsupported);
        }
        let asked = self.top.asked("context_management");
        let Some(asked) = asked.filter(|json| json.starts_with(b"{") && !(compacts && thinks))
        else {
            return Ok(());
        };
        let mut object = JsonObjectEditor::parse(asked, &["edits"], "context_management")?;
        let Some(edits) = object.asked("edits") else {
            return Ok(());
        };
        let all: Vec<&[u8]> = Elements::open(&edits).into_iter().flatten().collect();
        let mut kept = all.clone();
        kept.retain(|edit| {
            let kind = member(edit, "type").and_then(json_text).unwrap_or_default();
            (compacts || !kind.starts_with("compact_"))
                && (thinks || !kind.starts_with("clear_thinking_"))
        });
        if kept.len() == all.len() {
            return Ok(());
        }
        if kept.is_empty() {
            object.remove("edits", Why::Unsupported);
        } else {
            let edits = [b"[", &kept.join(&b","[..])[..], b"]"].concat();
            object.set("edits", edits, Why::Unsupported);
        }
        if object.is_empty() {
            self.top.remove("context_management", Why::Unsupported);
        } else {
            self.top
                .set("context_management", object.render(), Why::Unsupported);
        }
        Ok(())
    }

    /// Applies rule 5 to the task budget.
    pub(super) fn task_budget(&mut self) {
        let rejects = !takes(self.to.capabilities.task_budget);
        if let Some(config) = self.config.as_mut().filter(|_| rejects) {
            config.remove("task_budget", Why::Unsupported);
        }
    }

    /// Applies rule 15: the server's own fallback must not start from a stand-in, and its credit is
    /// for another model.
    pub(super) fn fallbacks(&mut self) {
        for name in ["fallbacks", "fallback_credit_token"] {
            if is_given(self.top.asked(name).as_ref()) {
                self.top.remove(name, Why::Pointless);
            }
        }
    }

    /// Returns the betas that follow from the changes so far.
    pub(super) fn beta_changes(&self) -> BetaChanges {
        let is_gone = |name: &str| self.top.asked(name).is_some() && self.top.sent(name).is_none();
        let (asked, sent) = (
            |name: &str| self.top.asked(name),
            |name: &str| self.top.sent(name),
        );
        let loses = |name: &str, inner: &str| {
            let has = |json: Option<Bytes>| json.is_some_and(|json| mentions(&json, inner));
            has(asked(name)) && !has(sent(name))
        };
        let budget = |c: &JsonObjectEditor| c.asked("task_budget") != c.sent("task_budget");
        let compacts = || sent("compaction").is_some();
        let removed = [
            (is_gone("fallbacks"), "server-side-fallback-"),
            (is_gone("fallback_credit_token"), "fallback-credit-"),
            (is_gone("speed"), "fast-mode-"),
            (is_gone("context_management"), "context-management-"),
            (
                (is_gone("compaction") || loses("context_management", "\"compact_")) && !compacts(),
                "compact-",
            ),
            (self.config.as_ref().is_some_and(budget), "task-budgets-"),
            (
                loses("thinking", "\"block_binding\""),
                "thinking-binding-controls-",
            ),
        ];
        let removed = removed.into_iter().filter(|(gone, _)| *gone);
        let is_fast = sent("speed").is_some_and(|speed| is_text(&speed, "fast"));
        BetaChanges {
            removed: removed.map(|(_, beta)| beta).collect(),
            added: self.to.capabilities.fast_beta.clone().filter(|_| is_fast),
        }
    }

    /// Returns the body and the differences.
    pub(super) fn finish(mut self) -> (Bytes, Losses) {
        let mut losses = Losses::new();
        for name in TOP {
            if name == "output_config" {
                self.finish_config(&mut losses);
            } else if name != "model"
                && let Some(why) = self.top.why(name)
            {
                push(
                    &mut losses,
                    name,
                    self.top.asked(name),
                    self.top.sent(name),
                    why,
                );
            }
        }
        (self.top.render(), losses)
    }

    fn finish_config(&mut self, losses: &mut Losses) {
        let Some(config) = &self.config else { return };
        let mut reason = None;
        for (name, field) in CONFIG {
            if let Some(why) = config.why(name) {
                push(losses, field, config.asked(name), config.sent(name), why);
                reason = Some(why);
            }
        }
        let Some(why) = reason else { return };
        if config.is_empty() {
            self.top.remove("output_config", why);
        } else {
            self.top.set("output_config", config.render(), why);
        }
    }
}

/// Returns true if code may call the tool. The newer web tools run code by default.
fn is_programmatic(kind: &str, callers: Option<&[u8]>) -> bool {
    let callers = callers.and_then(Elements::open);
    let mut callers = callers.into_iter().flatten().peekable();
    let version = kind
        .strip_prefix("web_search_")
        .or_else(|| kind.strip_prefix("web_fetch_"));
    if callers.peek().is_none() {
        return version.is_some_and(|version| version >= DYNAMIC_FILTERING);
    }
    callers.any(|caller| !is_text(caller, "direct"))
}

/// Returns true if the content of a message has a block of this type.
fn has_block(content: &[u8], kind: &str) -> bool {
    let mut blocks = Elements::open(content).into_iter().flatten();
    blocks.any(|block| member(block, "type").is_some_and(|of| is_text(of, kind)))
}

/// Returns true if an assistant message ends with a server tool, which the request continues.
fn is_paused(message: &[u8]) -> bool {
    let blocks = member(message, "content").and_then(Elements::open);
    let last = blocks.into_iter().flatten().last();
    let kind = last
        .and_then(|block| member(block, "type"))
        .and_then(json_text);
    kind.is_some_and(|kind| {
        matches!(&*kind, "server_tool_use" | "mcp_tool_use") || kind.ends_with("_tool_result")
    })
}

/// Returns true if the JSON contains a text.
fn mentions(json: &[u8], text: &str) -> bool {
    json.windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// Returns the value of a member of an object.
fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut fields = Fields::open(object)?.flatten();
    let field = fields.find(|field| field.name == name)?;
    Some(field.value_in(object))
}

fn is_thousandths(json: &[u8], thousandths: u32) -> bool {
    let number = std::str::from_utf8(json)
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    number == Some(f64::from(thousandths) / 1_000.0)
}

/// Returns the `type` of an object.
pub(super) fn kind(json: Option<Bytes>) -> Option<String> {
    let object = JsonObjectEditor::parse(json?, &["type"], "").ok()?;
    object.asked_text("type")
}

/// Returns a whole number in any notation, or `u64::MAX` if it is too large for 64 bits.
pub(super) fn number(json: &[u8]) -> Option<u64> {
    // Rust's parsers also accept signs, `inf` and `nan`.
    if !json.first()?.is_ascii_digit() {
        return None;
    }
    let text = std::str::from_utf8(json).ok()?;
    text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        // The conversion saturates.
        (number.fract() == 0.0 || number.is_infinite()).then_some(number as u64)
    })
}

/// Returns true if the value is present and not `null`.
pub(super) fn is_given(json: Option<&Bytes>) -> bool {
    json.is_some_and(|json| json.as_ref() != b"null")
}

/// Returns true if a JSON value is this string.
pub(super) fn is_text(json: &[u8], text: &str) -> bool {
    json_text(json).is_some_and(|found| found == text)
}

/// Returns true if a field may be sent. A field of unknown support may.
pub(super) fn takes(support: Support) -> bool {
    support != Support::No
}
