//! What an outcome means for a circuit: the one place that says so.

use std::time::Duration;

use crate::{Class, Kind};

/// What a call says about what it called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It works. For a stream: its content has begun.
    Success,
    /// It failed.
    Failure {
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// It is there, but has no room (429): neither success nor failure in the counts, but no success of a probe.
    Busy {
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// It is there, but did not like the request: neither success nor failure in the counts, and a success of a probe.
    Alive,
    /// It is certain to fail: the circuit opens at once.
    Fatal {
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// Nothing can be said: the call was refused on this side, or given up.
    Ignored,
}

impl Verdict {
    /// A failure without advice.
    pub const FAILURE: Self = Self::Failure { retry_after: None };
}

/// What one outcome means for the two circuits it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdicts {
    /// For the endpoint and the model.
    pub availability: Verdict,
    /// For the credential: whether it is accepted, and paid for.
    pub credential: Verdict,
}

impl Verdicts {
    /// A call that was given up by its caller.
    pub const IGNORED: Self = Self {
        availability: Verdict::Ignored,
        credential: Verdict::Ignored,
    };

    /// What this class means.
    ///
    /// | class | availability | credential |
    /// |---|---|---|
    /// | success, refusal by the model | success | success |
    /// | overloaded, server error, timeout, transport, truncated | failure | – |
    /// | 429 | busy | alive |
    /// | 401, spend limit | alive | fatal |
    /// | 403, 404, 409, 413 and other 4xx | alive | alive |
    /// | refused on this side | – | – |
    #[must_use]
    pub const fn of(class: &Class) -> Self {
        if class.local {
            return Self::IGNORED;
        }
        let retry_after = class.retry_after;
        let (availability, credential) = match class.kind {
            Kind::Success | Kind::ModelRefusal => (Verdict::Success, Verdict::Success),
            Kind::RateLimited | Kind::RampLimited => {
                (Verdict::Busy { retry_after }, Verdict::Alive)
            }
            Kind::SpendLimit | Kind::Unauthorized => {
                (Verdict::Alive, Verdict::Fatal { retry_after })
            }
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated => (Verdict::Failure { retry_after }, Verdict::Ignored),
            Kind::Conflict
            | Kind::BadRequest
            | Kind::Forbidden
            | Kind::NotFound
            | Kind::TooLarge => (Verdict::Alive, Verdict::Alive),
        };
        Self {
            availability,
            credential,
        }
    }
}
