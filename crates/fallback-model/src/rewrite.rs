//! A request for one model, said again for another.

mod draft;
mod edit;
mod effort;
mod headers;
mod losses;
mod options;
mod rules;
mod thinking;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::HeaderMap;
use tower_claude_wire::ModelCatalog;

pub use losses::{Loss, Losses, Why};
pub use options::RewriteOptions;

/// A request that the target takes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rewritten {
    /// All headers, those of the original and `content-length`; `anthropic-beta` without what has become pointless.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Every difference from the original, except for `model` itself.
    pub losses: Losses,
}

/// Why the target cannot be asked this. It would mean something else there, or be rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unportable {
    /// The field in the way, e.g. `tool_choice`; empty for the whole body.
    pub field: Cow<'static, str>,
    /// What is wrong with it there.
    pub why: &'static str,
}

impl Unportable {
    fn new(field: &'static str, why: &'static str) -> Self {
        Self {
            field: field.into(),
            why,
        }
    }
}

impl fmt::Display for Unportable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() {
            "body"
        } else {
            &self.field
        };
        write!(f, "{field}: {}", self.why)
    }
}

impl std::error::Error for Unportable {}

/// Rewrites a Messages or `count_tokens` request for the model `to`, with the default [`RewriteOptions`].
///
/// Only top-level fields, `content-length` and `anthropic-beta` are touched. `messages`, `system`, `tools` and whatever
/// the target takes keep their bytes, their order and the white space around them: history must not change, because the
/// thinking blocks in it may be bound to it. `from` and `to` may be dressed for a cloud, aliased or dated; the body gets
/// `to` as it is given. What the catalog does not know about the target stays, except for `speed: "fast"` and what is
/// over the size of its family.
///
/// | | Field | What becomes of it where the target rejects it |
/// | --- | --- | --- |
/// | 1 | `model` | `to`. A retired target is [`Unportable`]. Whether both share a rate group is the layer's to ask. |
/// | 2 | `max_tokens` | Lowered to the target's most, never raised. Across 4.6 and 4.7 the same number holds about 30 % less or more text; no rule corrects that. |
/// | 3 | prompt | Unportable when over the context window, as far as bytes tell; [`RewriteOptions::with_input_tokens`] tells more. |
/// | 4 | `thinking` | `disabled` and `between_tools` for each other, else as little effort as there is; a budget for an effort and back. `display` only where thinking remains. |
/// | 5 | `output_config.effort` | The highest that is taken. Removed where there is none. A default that differs is made explicit. |
/// | 6 | `temperature`, `top_p`, `top_k` | Removed, unless they say the default; always under API version 2026-10-21. |
/// | 7 | `tool_choice` of `any`, `tool` | Unportable, or `auto` if [allowed](RewriteOptions::with_forced_tool_choice_lost). |
/// | 8 | last turn is the assistant's | Unportable. So is going on after `pause_turn`, which looks the same. |
/// | 9 | `speed` | Removed. |
/// | 10 | `inference_geo` | `global` is removed; a place is Unportable, unless [allowed](RewriteOptions::with_inference_geo_lost) to be lost. |
/// | 11 | system messages or an effort between turns | Unportable. |
/// | 12 | thinking blocks in the history | Sent unchanged: the API drops what the target cannot read. |
/// | 13 | types of tools | Unportable where known to be rejected; most are not known. |
/// | 14 | `output_config.format` | Sent unchanged. |
/// | 15 | `fallbacks` | Always removed: the client falls back itself. Other betas stay. |
/// | 16 | prompt caches | Are per model: expect to pay for the whole prompt once more. |
///
/// Bodies that name no model (Bedrock's `InvokeModel`, Vertex) are Unportable: there the model is in the path. So are
/// compressed bodies, those that give a field twice, and requests signed for AWS: sign further in.
///
/// ```
/// # use bytes::Bytes;
/// # use http::HeaderMap;
/// # use tower_claude_fallback_model::rewrite;
/// # use tower_claude_wire::ModelCatalog;
/// let body = Bytes::from_static(br#"{"model": "claude-sonnet-4-6", "max_tokens": 90000, "temperature": 0.2}"#);
/// let catalog = ModelCatalog::builtin();
/// let new = rewrite(&HeaderMap::new(), &body, "claude-sonnet-4-6", "claude-haiku-4-5", catalog)?;
/// assert_eq!(new.body, &br#"{"model": "claude-haiku-4-5", "max_tokens": 64000, "temperature": 0.2}"#[..]);
/// assert_eq!(new.losses[0].to_string(), "max_tokens: lowered to what is supported there");
/// # Ok::<(), tower_claude_fallback_model::Unportable>(())
/// ```
///
/// # Errors
/// [`Unportable`] names the field that cannot be said to the target.
pub fn rewrite(
    headers: &HeaderMap,
    body: &Bytes,
    from: &str,
    to: &str,
    catalog: &ModelCatalog,
) -> Result<Rewritten, Unportable> {
    RewriteOptions::default().rewrite(headers, body, from, to, catalog)
}
