//! Rewrites of a request for another model.

mod headers;
mod json_object;
mod losses;
mod options;
mod state;
mod thinking;

use bytes::Bytes;
use http::HeaderMap;
use tower_claude_wire::{ModelCatalog, Platform};

use state::RewriteState;

pub use losses::{Loss, Losses, Unportable, Why};
pub use options::RewriteOptions;

/// A request that was rewritten for another model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rewritten {
    /// The headers of the original with a new `content-length`, and with `anthropic-beta` reduced
    /// to the betas that still apply.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// All differences from the original, except for `model` itself.
    pub losses: Losses,
}

/// Rewrites a Messages or `count_tokens` request for the model `to`, with the default
/// [`RewriteOptions`].
///
/// Only top-level fields, `content-length` and `anthropic-beta` are changed. `messages`, `system`,
/// `tools` and all fields that the target accepts keep their bytes, order and white space. The
/// history must not change, because thinking blocks may be bound to it. `from` and `to` may have a
/// cloud prefix or a date, or be aliases. The body gets `to` as it is given. Fields whose support
/// by the target is not known stay, except for `speed: "fast"` and sizes over the limits of its
/// family.
///
/// | | Field | Result if the target rejects it |
/// | --- | --- | --- |
/// | 1 | `model` | `to`. A target that is retired on the [platform](RewriteOptions::with_platform) at the [time](RewriteOptions::with_now) is [`Unportable`], and so is a name without `anthropic.` on Amazon Bedrock. The layer checks the rate group. |
/// | 2 | `max_tokens` | Lowered to the target's limit, never raised. Between 4.6 and 4.7 the same number holds about 30 % less or more text, and no rule corrects that. |
/// | 3 | prompt | Unportable if over the context window, estimated from the bytes of its text or set by [`RewriteOptions::with_input_tokens`]. |
/// | 4 | `thinking` | `disabled` and `between_tools` replace each other, else the least effort is used. A budget becomes an effort, and an effort a budget, unless a tool result is being answered. `display` stays only with thinking. |
/// | 5 | `output_config` | `effort`: the highest that the target accepts. Removed if there is none. A default that differs is made explicit. `task_budget`: removed. |
/// | 6 | `temperature`, `top_p`, `top_k` | Removed unless they are the default, and always with API version 2026-10-21. |
/// | 7 | `tool_choice` of `any`, `tool` | Unportable, or `auto` if [allowed](RewriteOptions::with_forced_tool_choice_lost). |
/// | 8 | last turn is the assistant's | Unportable, except for a continuation after `pause_turn`, which ends with a server tool. |
/// | 9 | `speed` | Removed. A beta that the target needs for it is added. |
/// | 10 | `inference_geo` | `global` is removed. A place is Unportable, or removed if [allowed](RewriteOptions::with_inference_geo_lost). |
/// | 11 | system messages or an effort between turns | Unportable. |
/// | 12 | thinking blocks in the history | Sent unchanged: the API drops blocks that the target cannot read. |
/// | 13 | tools | Unportable if the type is known to be rejected, if the target has no programmatic tool calls, or if it is no executor for the advisor. |
/// | 14 | `context_management`, `compaction` | An edit of thinking is removed if the target does not think, and compaction if the target has none. A history that was compacted is then Unportable. `output_config.format` is sent unchanged. |
/// | 15 | `fallbacks`, `fallback_credit_token` | Always removed: this layer falls back. A beta is removed with its field. Other betas stay. |
/// | 16 | prompt caches | Caches are per model: the whole prompt is paid once more. |
/// | 17 | `thread` | Unportable if it continues. |
///
/// Bodies without a model (Bedrock's `InvokeModel`, Vertex) are Unportable here, because the model
/// is in the path, which the layer rewrites. So are compressed bodies, bodies with a duplicate
/// field, and requests signed for AWS. Sign in an inner layer.
///
/// ```
/// use bytes::Bytes;
/// use http::HeaderMap;
/// use tower_claude_fallback_model::rewrite;
/// use tower_claude_wire::{ModelCatalog, Platform};
/// let body = Bytes::from_static(br#"{"model": "claude-sonnet-4-6", "max_tokens": 90000, "temperature": 0.2}"#);
/// let catalog = ModelCatalog::builtin();
/// let new = rewrite(&HeaderMap::new(), &body, "claude-sonnet-4-6", "claude-haiku-4-5", catalog)?;
/// assert_eq!(new.body, &br#"{"model": "claude-haiku-4-5", "max_tokens": 64000, "temperature": 0.2}"#[..]);
/// assert_eq!(new.losses[0].to_string(), "max_tokens: lowered to what is supported there");
/// # Ok::<(), tower_claude_fallback_model::Unportable>(())
/// ```
///
/// # Errors
/// [`Unportable`] names the field that the target cannot accept.
pub fn rewrite(
    headers: &HeaderMap,
    body: &Bytes,
    from: &str,
    to: &str,
    catalog: &ModelCatalog,
) -> Result<Rewritten, Unportable> {
    RewriteOptions::default().rewrite(headers, body, from, to, catalog)
}

impl RewriteOptions {
    /// Rewrites a Messages or `count_tokens` request for the model `to`.
    ///
    /// # Errors
    /// [`Unportable`] names the field that the target cannot accept.
    pub fn rewrite(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        from: &str,
        to: &str,
        catalog: &ModelCatalog,
    ) -> Result<Rewritten, Unportable> {
        let (from, target) = (catalog.lookup(from), catalog.lookup(to));
        let now = self.now.unwrap_or_else(|| catalog.as_of_time());
        if target.is_retired(self.platform, now) {
            return Err(Unportable::new("model", "retired"));
        }
        let is_bedrock_id = to.contains("anthropic.") || to.starts_with("arn:");
        if self.platform == Platform::Bedrock && !is_bedrock_id {
            return Err(Unportable::new("model", "no id of Amazon Bedrock"));
        }
        if headers::is_signed(headers) {
            let why = "signs the body: another would be rejected";
            return Err(Unportable::new("authorization", why));
        }
        let new_version = headers::is_new_version(headers);
        let mut state = RewriteState::new(self, body, &from, &target, new_version)?;
        state.model(to)?;
        state.thread()?;
        state.context()?;
        state.tools(catalog)?;
        state.max_tokens_within();
        // The next five depend on the result.
        let effort = state.thinking()?;
        state.turns()?;
        state.tool_choice()?;
        state.effort(effort);
        state.sampling();
        state.context_edits()?;
        state.task_budget();
        state.speed(now);
        state.inference_geo()?;
        state.fallbacks();
        let betas = state.beta_changes();
        let (body, mut losses) = state.finish();
        let headers = headers::rewrite(headers, &body, betas, &mut losses);
        Ok(Rewritten {
            headers,
            body,
            losses,
        })
    }
}
