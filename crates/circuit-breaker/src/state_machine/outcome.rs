//! The meaning of a call's outcome for a circuit.

use std::time::Duration;

use tower_claude_core::{Class, Kind, Reach};

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
    /// The connection failed, or the body was cut. As a failure, but calls that fail together count
    /// once for the rates, too.
    Broken,
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
    /// A 401 of a key that has worked. The second in a row opens the circuit.
    Doubtful {
        /// The server's `retry-after`.
        retry_after: Option<Duration>,
    },
    /// The call was rejected on this side, or given up.
    Ignored,
}

impl CircuitOutcome {
    /// Returns true if the outcome of one call is likely that of all calls at the same time.
    pub(super) const fn is_incident(self) -> bool {
        matches!(self, Self::Broken | Self::Doubtful { .. })
    }
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
        let retry_after = class.least_cool_down();
        let is_own = matches!(class.reach, Reach::Request);
        let is_account = matches!(class.reach, Reach::Credential);
        let availability = match class.kind {
            Kind::Success | Kind::ModelRefusal => CircuitOutcome::Success,
            Kind::RateLimited | Kind::RampLimited if !is_own => {
                CircuitOutcome::Busy { retry_after }
            }
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated
                if is_own || is_account =>
            {
                CircuitOutcome::Ignored
            }
            Kind::Transport | Kind::Truncated => CircuitOutcome::Broken,
            Kind::Overloaded | Kind::ServerError | Kind::Timeout => {
                CircuitOutcome::Failure { retry_after }
            }
            Kind::RateLimited
            | Kind::RampLimited
            | Kind::SpendLimit
            | Kind::Unauthorized
            | Kind::Conflict
            | Kind::BadRequest
            | Kind::Forbidden
            | Kind::NotFound
            | Kind::TooLarge => CircuitOutcome::Alive,
            // `Kind` is non-exhaustive: a kind without an entry counts for nothing.
            _ => CircuitOutcome::Ignored,
        };
        let credential = match availability {
            CircuitOutcome::Success => CircuitOutcome::Success,
            // Trouble of the server that passes by itself, such as that of a key service.
            CircuitOutcome::Ignored => CircuitOutcome::Ignored,
            _ if is_account => CircuitOutcome::Fatal { retry_after },
            CircuitOutcome::Busy { .. } | CircuitOutcome::Alive => CircuitOutcome::Alive,
            _ => CircuitOutcome::Ignored,
        };
        Self {
            availability,
            credential,
        }
    }
}
