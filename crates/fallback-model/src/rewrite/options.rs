//! The settings of a rewrite.

use std::time::SystemTime;

use tower_claude_wire::Platform;

/// The settings of a rewrite: how far a request may be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct RewriteOptions {
    pub(super) lose_forced_tool_choice: bool,
    pub(super) lose_inference_geo: bool,
    pub(super) keep_defaults: bool,
    pub(super) input_tokens: Option<u64>,
    pub(super) platform: Platform,
    pub(super) now: Option<SystemTime>,
}

impl Default for RewriteOptions {
    fn default() -> Self {
        Self {
            lose_forced_tool_choice: false,
            lose_inference_geo: false,
            keep_defaults: true,
            input_tokens: None,
            platform: Platform::ClaudeApi,
            now: None,
        }
    }
}

impl RewriteOptions {
    /// Creates the default settings. Nothing is lost on which the shape of the response, or the
    /// place of the inference, depends.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether a `tool_choice` of `any` or `tool` may become `auto`. Off by default: such a
    /// request is [`Unportable`](super::Unportable) to a model that rejects it.
    pub fn with_forced_tool_choice_lost(mut self, lose: bool) -> Self {
        self.lose_forced_tool_choice = lose;
        self
    }

    /// Sets whether an `inference_geo` other than `global` may be removed. Off by default: such a
    /// request is [`Unportable`](super::Unportable) to a model that does not accept the field.
    pub fn with_inference_geo_lost(mut self, lose: bool) -> Self {
        self.lose_inference_geo = lose;
        self
    }

    /// Sets whether defaults of the original model for thinking and effort are made explicit if the
    /// target's differ. On by default: a model that thinks by default could spend a small
    /// `max_tokens` on thinking.
    pub fn with_defaults_kept(mut self, keep: bool) -> Self {
        self.keep_defaults = keep;
        self
    }

    /// Sets the number of tokens of the prompt, which is compared with the target's context window.
    /// Estimated from the size by default.
    pub fn with_input_tokens(mut self, tokens: Option<u64>) -> Self {
        self.input_tokens = tokens;
        self
    }

    /// Sets the platform, on which the target's dates, fast mode and tools depend. The Claude API
    /// by default. The layer finds it by host and path.
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Sets the time with which the dates of the catalogue are compared. The date of the catalogue
    /// by default. The layer sets the present time.
    pub fn with_now(mut self, now: SystemTime) -> Self {
        self.now = Some(now);
        self
    }
}
