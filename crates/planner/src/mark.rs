//! The mark of a figure.

use serde::Serialize;

/// The certainty of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// The figure follows from the record without an assumption.
    Exact,
    /// The figure rests on an assumption or on estimated tokens.
    Estimated,
}

impl Mark {
    /// Returns [`Exact`](Self::Exact) if it is.
    #[must_use]
    pub const fn exact_if(is_exact: bool) -> Self {
        if is_exact {
            Self::Exact
        } else {
            Self::Estimated
        }
    }

    /// Returns the sign before a figure in a text: `~` for an estimate.
    #[must_use]
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Exact => "",
            Self::Estimated => "~",
        }
    }
}
