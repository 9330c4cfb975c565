//! The differences that a rewrite makes, and the error if it is not possible.

use std::{borrow::Cow, fmt};

use bytes::Bytes;

/// The reason for which a field differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// The target rejects the field, and its effect is lost.
    Unsupported,
    /// The target accepts only a lower value.
    Clamped,
    /// The same intent in the terms of the target, or the nearest that it has.
    Translated,
    /// The default of the original model is made explicit, because the target's differs.
    Default,
    /// The field would repeat the work of the fallback, or belongs to a field that was removed.
    Pointless,
}

/// A field that is sent with another value than the original's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// The field, e.g. `thinking` or `output_config.effort`, or `anthropic-beta` for the header.
    pub field: &'static str,
    /// The raw JSON value, or header value, of the original. `None` if the field was absent.
    pub asked: Option<Bytes>,
    /// The raw JSON value, or header value, that is sent. `None` if the field is removed.
    pub sent: Option<Bytes>,
    /// The reason.
    pub why: Why,
}

/// Displays the field and the reason, and no values.
impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            Why::Unsupported => "not supported there",
            Why::Clamped => "lowered to what is supported there",
            Why::Translated => "said in other words",
            Why::Default => "made explicit",
            Why::Pointless => "of no use there",
        };
        write!(f, "{}: {why}", self.field)
    }
}

/// All differences of a rewrite, in the order of the rules. Each field occurs at most once.
pub type Losses = Vec<Loss>;

/// Adds a field if it differs.
pub(super) fn push(
    losses: &mut Losses,
    field: &'static str,
    asked: Option<Bytes>,
    sent: Option<Bytes>,
    why: Why,
) {
    if asked != sent {
        losses.push(Loss {
            field,
            // A copy, or the loss would keep the whole original body alive.
            asked: asked.map(|asked| Bytes::copy_from_slice(&asked)),
            sent,
            why,
        });
    }
}

/// The error of a request that cannot be rewritten for a model. The model would reject it, or
/// understand something else.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unportable {
    /// The field that cannot be rewritten, e.g. `tool_choice`. Empty for the whole body.
    pub field: Cow<'static, str>,
    /// The reason.
    pub why: &'static str,
}

impl Unportable {
    pub(crate) fn new(field: &'static str, why: &'static str) -> Self {
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
