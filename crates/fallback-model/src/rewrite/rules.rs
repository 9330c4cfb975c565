//! The rules that stand each for itself.

use tower_claude_wire::{Elements, Fields, Support, estimate_tokens, json_text};

use super::draft::{Draft, is_given, is_text, kind, takes};
use super::edit::{Object, string};
use super::{Unportable, Why};

impl Draft<'_> {
    /// Rule 1.
    pub(super) fn model(&mut self, to: &str) -> Result<(), Unportable> {
        if self.top.asked_text("model").is_none() {
            let why = "the body names no model: Bedrock and Vertex have it in the path";
            return Err(Unportable::new("model", why));
        }
        self.top.set("model", string(to), Why::Translated);
        Ok(())
    }

    /// Rule 2: lowered to what the target can, never raised. It counts the target's tokens, of which the same text has
    /// about 30 % more from 4.7 on.
    pub(super) fn max_tokens_within(&mut self) {
        let cap = self.to.max_output;
        if self.max_tokens().is_some_and(|asked| asked > cap) {
            self.top.set("max_tokens", cap.to_string(), Why::Clamped);
        }
    }

    /// Rule 3. A guess by bytes is believed only where the window is smaller than the original's, and never of images.
    pub(super) fn context(&self) -> Result<(), Unportable> {
        let fits = |tokens: u64| tokens <= self.to.context;
        let too_long = match self.options.input_tokens {
            Some(tokens) => !fits(tokens),
            None if self.to.context >= self.from.context => false,
            None => {
                let parts = ["messages", "system", "tools"].map(|name| self.top.asked(name));
                let bytes: usize = parts.iter().flatten().map(bytes::Bytes::len).sum();
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

    /// Rule 6.
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

    /// Rule 7. After `thinking`.
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
        let mut object = Object::parse(asked, &["type", "name"], "tool_choice")?;
        object.set("type", string("auto"), Why::Unsupported);
        object.remove("name", Why::Unsupported);
        self.top
            .set("tool_choice", object.render(), Why::Unsupported);
        Ok(())
    }

    /// Rules 8 and 11: what is said in the messages, which are not touched. After `thinking`.
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

    /// Rule 9. Removed, not set to `standard`: models without a fast mode know no speed at all.
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

    /// Rule 10.
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

    /// Rule 13, as far as anybody knows.
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

    /// Rule 15: the server's own fallback must not start from the fallback.
    pub(super) fn fallbacks(&mut self) {
        if is_given(self.top.asked("fallbacks").as_ref()) {
            self.top.remove("fallbacks", Why::Pointless);
        }
    }
}

fn is_thousandths(json: &[u8], thousandths: u32) -> bool {
    let number = std::str::from_utf8(json)
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    number == Some(f64::from(thousandths) / 1_000.0)
}

/// Whether images or documents are in it, of which bytes tell no tokens.
fn has_binary(json: &[u8]) -> bool {
    json.windows(8).any(|window| window == b"\"base64\"")
}
