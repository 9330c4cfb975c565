//! What may be lost.

use bytes::Bytes;
use http::HeaderMap;
use tower_claude_wire::{Lifecycle, ModelCatalog};

use super::draft::Draft;
use super::{Rewritten, Unportable, headers};

/// How far a rewrite may go.
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
    /// The defaults: nothing is lost that the answer's shape or place depends on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a `tool_choice` of `any` or `tool` may become `auto`. Off: such a request is [`Unportable`] to a model
    /// that rejects it.
    pub fn with_forced_tool_choice_lost(mut self, lose: bool) -> Self {
        self.lose_forced_tool_choice = lose;
        self
    }

    /// Whether an `inference_geo` other than `global` may be dropped. Off: such a request is [`Unportable`] to a model
    /// that cannot be held to a place.
    pub fn with_inference_geo_lost(mut self, lose: bool) -> Self {
        self.lose_inference_geo = lose;
        self
    }

    /// Whether defaults of the original model for thinking and effort are made explicit where the target's differ. On:
    /// a model that thinks unasked would spend a small `max_tokens` before it says a word.
    pub fn with_defaults_kept(mut self, keep: bool) -> Self {
        self.keep_defaults = keep;
        self
    }

    /// Tokens of the prompt, where the caller knows better than its bytes tell. Compared with the target's context
    /// window.
    pub fn with_input_tokens(mut self, tokens: Option<u64>) -> Self {
        self.input_tokens = tokens;
        self
    }

    /// Rewrites a Messages or `count_tokens` request for the model `to`.
    ///
    /// # Errors
    /// [`Unportable`] names the field that cannot be said to the target.
    pub fn rewrite(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        from: &str,
        to: &str,
        catalog: &ModelCatalog,
    ) -> Result<Rewritten, Unportable> {
        let (from, target) = (catalog.lookup(from), catalog.lookup(to));
        if target.lifecycle == Lifecycle::Retired {
            return Err(Unportable::new("model", "retired"));
        }
        if headers::is_signed(headers) {
            let why = "signs the body: another would be rejected";
            return Err(Unportable::new("authorization", why));
        }
        let new_version = headers::is_new_version(headers);
        let mut draft = Draft::new(self, body, &from, &target, new_version)?;
        draft.model(to)?;
        draft.context()?;
        draft.tools()?;
        draft.max_tokens_within();
        // What thinking becomes decides about the next four.
        let wish = draft.thinking()?;
        draft.turns()?;
        draft.tool_choice()?;
        draft.effort(wish);
        draft.sampling();
        draft.speed();
        draft.inference_geo()?;
        draft.fallbacks();
        let (body, mut losses) = draft.finish();
        let headers = headers::rewrite(headers, &body, &mut losses);
        Ok(Rewritten {
            headers,
            body,
            losses,
        })
    }
}
