//! The meaning of a call's outcome for a circuit.

use std::time::Duration;

use tower_claude_core::{Class, Kind};

/// The outcome of a call as a circuit counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CircuitOutcome {
    /// The call succeeded. For a stream: its content has begun.
    Success,
    /// The call failed.
    Failure {
        /// The server's `retry-after`.
        retry_after: Option<Duration>,
    },
    /// The server works but has no capacity (429). It does not count while the circuit is closed,
    /// and it fails a probe.
    Busy {
        /// The server's `retry-after`.
        retry_after: Option<Duration>,
    },
    /// The server works but rejected the request. It does not count while the circuit is closed,
    /// and it is a success of a probe.
    Alive,
    /// All calls are certain to fail. The circuit opens at once.
    Fatal {
        /// The server's `retry-after`.
        retry_after: Option<Duration>,
    },
    /// The call was rejected on this side, or given up.
    Ignored,
}

/// The outcome of a call for each of its two circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CircuitOutcomes {
    /// The outcome for the endpoint and the model.
    pub(crate) availability: CircuitOutcome,
    /// The outcome for the credential, which may be invalid or out of funds.
    pub(crate) credential: CircuitOutcome,
}

impl CircuitOutcomes {
    /// The outcome of a call that its caller gave up.
    pub(crate) const IGNORED: Self = Self {
        availability: CircuitOutcome::Ignored,
        credential: CircuitOutcome::Ignored,
    };

    /// Returns the outcomes of a class. The crate documentation has the table.
    pub(crate) const fn of(class: &Class) -> Self {
        if class.local {
            return Self::IGNORED;
        }
        let retry_after = class.retry_after;
        let (availability, credential) = match class.kind {
            Kind::Success | Kind::ModelRefusal => {
                (CircuitOutcome::Success, CircuitOutcome::Success)
            }
            Kind::RateLimited | Kind::RampLimited => {
                (CircuitOutcome::Busy { retry_after }, CircuitOutcome::Alive)
            }
            Kind::SpendLimit | Kind::Unauthorized => {
                (CircuitOutcome::Alive, CircuitOutcome::Fatal { retry_after })
            }
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated => (
                CircuitOutcome::Failure { retry_after },
                CircuitOutcome::Ignored,
            ),
            Kind::Conflict
            | Kind::BadRequest
            | Kind::Forbidden
            | Kind::NotFound
            | Kind::TooLarge => (CircuitOutcome::Alive, CircuitOutcome::Alive),
            // `Kind` is non-exhaustive: a kind without an entry counts for nothing.
            _ => (CircuitOutcome::Ignored, CircuitOutcome::Ignored),
        };
        Self {
            availability,
            credential,
        }
    }
}
