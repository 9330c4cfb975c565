//! The state of a rewrite, and the rules that do not concern thinking.

use bytes::Bytes;
use tower_claude_wire::{Effort, Elements, Fields, Model, Support, estimate_tokens, json_text};

use super::{
    json_object::{JsonObjectEditor, string},
    losses::{Losses, Unportable, Why, push},
    options::RewriteOptions,
};

/// The top-level fields that a rule reads. All others are skipped.
const TOP: [&str; 14] = [
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
    "messages",
    "system",
    "tools",
];

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
                Some(JsonObjectEditor::parse(json, &["effort"], "output_config")?)
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
        match kind(self.top.sent("thinking")).as_deref() {
            Some("adaptive" | "enabled") => true,
            Some("disabled" | "between_tools") => false,
            _ => self.to.capabilities.thinks_by_default == Some(true),
        }
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

    /// Applies rule 3: the context window. An estimate from bytes is used only if the window is
    /// smaller than the original's, and never for images.
    pub(super) fn context(&self) -> Result<(), Unportable> {
        let fits = |tokens: u64| tokens <= self.to.context;
        let too_long = match self.options.input_tokens {
            Some(tokens) => !fits(tokens),
            None if self.to.context >= self.from.context => false,
            None => {
                let parts = ["messages", "system", "tools"].map(|name| self.top.asked(name));
                let bytes: usize = parts.iter().flatten().map(Bytes::len).sum();
                !fits(estimate_tokens(bytes as u64, self.to.tokenizer))
                    && !parts.iter().flatten().any(|json| has_binary(json))
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
        let enabled = || kind(self.top.sent("thinking")).as_deref() == Some("enabled");
        let rejected = match self.to.capabilities.forced_tool_choice {
            Support::No => true,
            Support::NotWithEnabledThinking => enabled(),
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
        let no_effort = !takes(can.per_message_effort);
        if !(no_prefill || no_system || no_effort) {
            return Ok(());
        }
        let Some(messages) = self.top.asked("messages") else {
            return Ok(());
        };
        let mut ends_with_assistant = false;
        for message in Elements::open(&messages).into_iter().flatten() {
            ends_with_assistant = false;
            for field in Fields::open(message).into_iter().flatten().flatten() {
                let value = field.value_in(message);
                match &*field.name {
                    "role" if no_system && is_text(value, "system") => {
                        let why = "a system message inside the conversation is rejected";
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
        if no_prefill && ends_with_assistant {
            let why = "a conversation that ends with the assistant's turn is rejected";
            return Err(Unportable::new("messages", why));
        }
        Ok(())
    }

    /// Applies rule 9: `speed`. Removed instead of set to `standard`, because models without a fast
    /// mode reject the field.
    pub(super) fn speed(&mut self) {
        let Some(asked) = self.top.asked("speed").filter(|json| is_given(Some(json))) else {
            return;
        };
        let fast = is_text(&asked, "fast");
        match self.to.capabilities.fast {
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

    /// Applies rule 13: types of tools that are known to be rejected.
    pub(super) fn tools(&self) -> Result<(), Unportable> {
        let rejected = &self.to.capabilities.tools_rejected;
        let Some(tools) = self.top.asked("tools").filter(|_| !rejected.is_empty()) else {
            return Ok(());
        };
        for tool in Elements::open(&tools).into_iter().flatten() {
            for field in Fields::open(tool).into_iter().flatten().flatten() {
                let value = json_text(field.value_in(tool));
                if field.name == "type"
                    && let Some(kind) = value
                    && rejected.iter().any(|rejected| **rejected == *kind)
                {
                    return Err(Unportable::new(
                        "tools",
                        "a tool of a type that is rejected",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Applies rule 15: the server's own fallback must not start from a stand-in.
    pub(super) fn fallbacks(&mut self) {
        if is_given(self.top.asked("fallbacks").as_ref()) {
            self.top.remove("fallbacks", Why::Pointless);
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
        let Some(why) = config.why("effort") else {
            return;
        };
        let (asked, sent) = (config.asked("effort"), config.sent("effort"));
        push(losses, "output_config.effort", asked, sent, why);
        if config.is_empty() {
            self.top.remove("output_config", why);
        } else {
            self.top.set("output_config", config.render(), why);
        }
    }
}

fn is_thousandths(json: &[u8], thousandths: u32) -> bool {
    let number = std::str::from_utf8(json)
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    number == Some(f64::from(thousandths) / 1_000.0)
}

/// Returns true if the JSON contains images or documents, whose tokens cannot be estimated from
/// bytes.
fn has_binary(json: &[u8]) -> bool {
    json.windows(8).any(|window| window == b"\"base64\"")
}

/// Returns the `type` of an object.
pub(super) fn kind(json: Option<Bytes>) -> Option<String> {
    let object = JsonObjectEditor::parse(json?, &["type"], "").ok()?;
    object.asked_text("type")
}

/// Returns a whole number, or `u64::MAX` if it is too large for 64 bits.
pub(super) fn number(json: &[u8]) -> Option<u64> {
    if json.is_empty() || !json.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = std::str::from_utf8(json).ok()?;
    Some(text.parse().unwrap_or(u64::MAX))
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
