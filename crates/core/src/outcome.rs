//! The end of a response.

use tower_claude_wire::Usage;

use crate::class::Class;

/// The end of a response. It is reported exactly once, when the body has ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// The whole response arrived.
    Complete {
        /// The usage in the body. Empty if the body does not report it.
        usage: Usage,
    },
    /// The body failed, was incomplete, or contained an error.
    Failed {
        /// The class of the failure.
        class: Class,
        /// The usage that was reported until then.
        usage: Usage,
    },
    /// The caller dropped the body before its end. This is not a failure of the server.
    Dropped {
        /// The usage that was reported until then.
        usage: Usage,
    },
}

impl Outcome {
    /// Returns the usage that the response reported.
    #[must_use]
    pub const fn usage(&self) -> &Usage {
        match self {
            Self::Complete { usage } | Self::Failed { usage, .. } | Self::Dropped { usage } => {
                usage
            }
        }
    }
}
