//! How a reservation ends.

use tower_claude_core::Outcome;
use tower_claude_wire::Usage;

/// How a reservation ends, which decides what is given back.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Settlement {
    /// The request was never sent: everything is given back.
    NotSent,
    /// A 429: the server took nothing, everything is given back.
    Rejected,
    /// A 4xx that says the request is wrong: the request counts, its tokens do not, and nothing is
    /// learned from it.
    Invalid,
    /// The attempt failed after it was sent: the server has probably counted the request and its
    /// input, so both stay; output that was not produced is given back.
    Failed {
        /// What had been reported as used by then; empty when nothing was.
        usage: Usage,
    },
    /// The caller dropped the response: as [`Failed`](Self::Failed).
    Dropped {
        /// What had been reported as used by then; empty when nothing was.
        usage: Usage,
    },
    /// Answered: the actual use replaces the estimate, where it is known. A count of 2^26 tokens or more
    /// is none: it has run below zero somewhere.
    Used {
        /// What the answer reported as used; empty when it said nothing.
        usage: Usage,
    },
}

impl Settlement {
    /// How a response that was not a 429 ended.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        let usage = outcome.usage().clone();
        match outcome {
            Outcome::Complete { .. } => Self::Used { usage },
            Outcome::Failed { .. } => Self::Failed { usage },
            _ => Self::Dropped { usage },
        }
    }

    /// Dropped, with nothing reported.
    #[must_use]
    pub fn dropped() -> Self {
        Self::Dropped {
            usage: Usage::default(),
        }
    }
}

impl From<Outcome> for Settlement {
    /// How a response that was not a 429 ended.
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Complete { usage } => Self::Used { usage },
            Outcome::Failed { usage, .. } => Self::Failed { usage },
            Outcome::Dropped { usage } => Self::Dropped { usage },
            // Not known here: keep what the server may have counted.
            ref other => Self::Dropped {
                usage: other.usage().clone(),
            },
        }
    }
}
