//! How a response ended.

use tower_claude_wire::Usage;

use crate::Class;

/// How a response ended, reported exactly once, at the end of its body.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// The whole answer arrived.
    Complete {
        /// What it used; empty when the body did not say.
        usage: Usage,
    },
    /// The body broke off, or carried an error.
    Failed {
        /// Why.
        class: Class,
        /// What had been reported as used by then.
        usage: Usage,
    },
    /// The caller dropped the body before its end. No verdict on the server.
    Dropped {
        /// What had been reported as used by then.
        usage: Usage,
    },
}

impl Outcome {
    /// What the response reported as used.
    #[must_use]
    pub const fn usage(&self) -> &Usage {
        match self {
            Self::Complete { usage } | Self::Failed { usage, .. } | Self::Dropped { usage } => {
                usage
            }
        }
    }
}
