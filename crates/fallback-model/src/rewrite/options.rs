//! The settings of a rewrite.

/// The settings of a rewrite: how far a request may be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct RewriteOptions {
    pub(super) lose_forced_tool_choice: bool,
    pub(super) lose_inference_geo: bool,
    pub(super) keep_defaults: bool,
    pub(super) input_tokens: Option<u64>,
}

impl Default for RewriteOptions {
    fn default() -> Self {
        Self {
            lose_forced_tool_choice: false,
            lose_inference_geo: false,
            keep_defaults: true,
            input_tokens: None,
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
}
