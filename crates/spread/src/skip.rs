//! The reasons why a target does not get a request.

use std::{fmt, time::Duration};

use tower_claude_core::{Kind, toolkit::ReadableDuration};
use tower_claude_wire::cloud::Unportable;

/// The reason why a target does not get a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skip {
    /// The target has failed in this call.
    Failed(Kind),
    /// An inner layer has rejected the request for this target.
    Rejected(Kind),
    /// The target cannot serve the request.
    Unportable(Unportable),
    /// The target is not in an area that the layer or the request allows.
    Residency,
    /// The thinking of the conversation is bound to another account.
    Account,
    /// The target has failed lately, and is not asked until its cool-down is over.
    CoolDown {
        /// The last failure.
        because: Kind,
        /// The time that is left.
        left: Duration,
    },
    /// Another request finds out if the target has recovered.
    Probed,
}

impl Skip {
    /// Returns the name for logs and events.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::Rejected(_) => "rejected",
            Self::Unportable(_) => "unportable",
            Self::Residency => "residency",
            Self::Account => "account",
            Self::CoolDown { .. } => "cool_down",
            Self::Probed => "probed",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(kind) => write!(f, "failed in this call ({})", kind.as_str()),
            Self::Rejected(kind) => write!(f, "rejected here ({})", kind.as_str()),
            Self::Unportable(reason) => write!(f, "cannot serve the request ({reason})"),
            Self::Residency => f.write_str("not in an allowed area"),
            Self::Account => f.write_str("the thinking is bound to another account"),
            Self::CoolDown { because, left } => write!(
                f,
                "cooling down for {} ({})",
                ReadableDuration(*left),
                because.as_str()
            ),
            Self::Probed => f.write_str("being probed"),
        }
    }
}
