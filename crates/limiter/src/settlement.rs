//! The end of a reservation.

use tower_claude_core::{Class, Kind, Outcome};
use tower_claude_wire::Usage;

/// The end of a reservation, which decides what is given back.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Settlement {
    /// The request was not sent. Everything is given back.
    NotSent,
    /// The server answered 429 and counted nothing. Everything is given back.
    Rejected,
    /// The server answered that the request is invalid. The request counts, its tokens do not, and
    /// nothing is learned from it.
    Invalid,
    /// The attempt failed after it was sent. The server has probably counted the request and its
    /// input, so both stay. Output that was not produced is given back.
    Failed {
        /// The usage reported by then, empty if there was none.
        usage: Usage,
    },
    /// The caller dropped the response. Settled like [`Failed`](Self::Failed).
    Dropped {
        /// The usage reported by then, empty if there was none.
        usage: Usage,
    },
    /// The response is complete. The actual usage replaces the estimate where it is known. A count
    /// of 2^26 tokens or more is ignored, because it is an underflow in the server's response.
    Used {
        /// The reported usage, empty if there was none.
        usage: Usage,
    },
}

impl Settlement {
    /// Returns the settlement of a successful response that ended like this.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        let usage = outcome.usage().clone();
        match outcome {
            Outcome::Complete { .. } => Self::Used { usage },
            Outcome::Failed { .. } => Self::Failed { usage },
            // Any other outcome keeps what the server may have counted.
            _ => Self::Dropped { usage },
        }
    }

    /// Returns the settlement of an attempt that failed with this class.
    #[must_use]
    pub fn of_failure(class: &Class) -> Self {
        if class.local {
            return Self::NotSent;
        }
        match class.kind {
            Kind::RateLimited | Kind::RampLimited | Kind::SpendLimit => Self::Rejected,
            Kind::BadRequest
            | Kind::Unauthorized
            | Kind::Forbidden
            | Kind::NotFound
            | Kind::TooLarge => Self::Invalid,
            _ => Self::Failed {
                usage: Usage::default(),
            },
        }
    }

    /// Returns the settlement of a dropped attempt without reported usage.
    #[must_use]
    pub fn dropped() -> Self {
        Self::Dropped {
            usage: Usage::default(),
        }
    }
}
