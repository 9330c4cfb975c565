//! The end of a response.

use tower_claude_wire::Usage;

use crate::class::Class;

/// The end of a response. It is reported exactly once, when the body has ended.
// The usage is borrowed, because it is large and most policies do not read it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// The whole response arrived.
    Complete {
        /// The usage in the body. Empty if the body does not report it.
        usage: &'a Usage,
    },
    /// The body failed, was incomplete, or contained an error.
    Failed {
        /// The class of the failure.
        class: Class,
        /// The usage that was reported until then.
        usage: &'a Usage,
    },
    /// The caller dropped the body before its end. This is not a failure of the server.
    Dropped {
        /// The usage that was reported until then.
        usage: &'a Usage,
    },
}

impl<'a> Outcome<'a> {
    /// Returns the usage that the response reported.
    #[must_use]
    pub const fn usage(&self) -> &'a Usage {
        match self {
            Self::Complete { usage } | Self::Failed { usage, .. } | Self::Dropped { usage } => {
                usage
            }
        }
    }
}
