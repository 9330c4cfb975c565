//! A request between two models.

use bytes::Bytes;
use tower_claude_wire::{Effort, Model, Support, json_text};

use super::edit::{Object, string};
use super::losses::push;
use super::{Losses, RewriteOptions, Unportable, Why};

/// Top-level fields that some rule reads; all others are stepped over.
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

/// What the rules work on.
pub(super) struct Draft<'a> {
    pub(super) options: &'a RewriteOptions,
    pub(super) from: &'a Model,
    pub(super) to: &'a Model,
    pub(super) top: Object,
    /// The inside of `output_config`, where that is an object.
    pub(super) config: Option<Object>,
    /// Whether the API version rejects sampling parameters of every model.
    pub(super) new_version: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        options: &'a RewriteOptions,
        body: &Bytes,
        from: &'a Model,
        to: &'a Model,
        new_version: bool,
    ) -> Result<Self, Unportable> {
        let top = Object::parse(body.clone(), &TOP, "")?;
        let config = match top.asked("output_config") {
            Some(json) if json.starts_with(b"{") => {
                Some(Object::parse(json, &["effort"], "output_config")?)
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

    /// `max_tokens`; `None` where absent, `u64::MAX` where larger than that.
    pub(super) fn max_tokens(&self) -> Option<u64> {
        number(&self.top.sent("max_tokens")?)
    }

    /// The type of the `tool_choice` asked for, where it forces a tool.
    pub(super) fn forces_tool(&self) -> bool {
        matches!(
            kind(self.top.asked("tool_choice")).as_deref(),
            Some("any" | "tool")
        )
    }

    /// Effort asked for, where it is a word that is known.
    pub(super) fn asked_effort(&self) -> Option<Effort> {
        let word = self.config.as_ref()?.asked_text("effort")?;
        Effort::parse(&word)
    }

    pub(super) fn set_effort(&mut self, effort: Effort, why: Why) {
        let value = string(effort.as_str());
        match &mut self.config {
            Some(config) => config.set("effort", value, why),
            None => {
                // Something else in its place is for the API to reject.
                if self.top.asked("output_config").is_none() {
                    let json = Bytes::from_static(b"{}");
                    if let Ok(mut config) = Object::parse(json, &["effort"], "output_config") {
                        config.set("effort", value, why);
                        self.config = Some(config);
                    }
                }
            }
        }
    }

    /// Whether the target will think, as far as the draft and its default tell.
    pub(super) fn will_think(&self) -> bool {
        match kind(self.top.sent("thinking")).as_deref() {
            Some("adaptive" | "enabled") => true,
            Some("disabled" | "between_tools") => false,
            _ => self.to.capabilities.thinks_by_default == Some(true),
        }
    }

    /// The body, and what differs in it.
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

/// The `type` of an object.
pub(super) fn kind(json: Option<Bytes>) -> Option<String> {
    let object = Object::parse(json?, &["type"], "").ok()?;
    object.asked_text("type")
}

/// A whole number; what is too large for 64 bits is the largest.
pub(super) fn number(json: &[u8]) -> Option<u64> {
    if json.is_empty() || !json.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = std::str::from_utf8(json).ok()?;
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Whether the value is there and not `null`.
pub(super) fn is_given(json: Option<&Bytes>) -> bool {
    json.is_some_and(|json| json.as_ref() != b"null")
}

/// Whether a JSON value is this string.
pub(super) fn is_text(json: &[u8], text: &str) -> bool {
    json_text(json).is_some_and(|found| found == text)
}

/// Whether something that depends on nothing else may be sent. What nobody knows about may.
pub(super) fn takes(support: Support) -> bool {
    support != Support::No
}
