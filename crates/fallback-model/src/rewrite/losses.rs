//! What a rewrite changed.

use std::fmt;

use bytes::Bytes;

/// Why a field differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// The target rejects it; what it asked for is lost.
    Unsupported,
    /// The target takes less of it.
    Clamped,
    /// The same intent in the target's words, or the nearest it has.
    Translated,
    /// The default of the original model, made explicit because the target's is another.
    Default,
    /// It would do the work of the fallback a second time, or belongs to a field that is gone.
    Pointless,
}

/// One field that is sent otherwise than asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// The field, e.g. `thinking` or `output_config.effort`; `anthropic-beta` for the header.
    pub field: &'static str,
    /// The raw JSON value (or header value) asked for; `None` when the field was absent.
    pub asked: Option<Bytes>,
    /// The raw JSON value (or header value) that is sent; `None` when the field is removed.
    pub sent: Option<Bytes>,
    /// Why.
    pub why: Why,
}

/// Shows the field and the reason, no values.
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

/// All of them, in the order of the rules; each field at most once.
pub type Losses = Vec<Loss>;

/// Adds a field, if it differs.
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
