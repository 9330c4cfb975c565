//! A request for one model, said again for another.

mod draft;
mod edit;
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

/// Rewrites with the default [`RewriteOptions`].
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
