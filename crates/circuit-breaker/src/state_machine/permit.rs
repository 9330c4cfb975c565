//! The results of admitting and settling a call.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

/// The number of openings and closings of a circuit. The outcome of a call is ignored if the
/// circuit has changed its generation since the call was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Generation(pub(super) u64);

impl Generation {
    /// The generation of a new circuit.
    pub(crate) const FIRST: Self = Self(0);

    /// Returns the generation as a number, from 0, so that an atomic can keep it.
    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    /// Restores a generation from its [`number`](Self::number).
    pub(crate) const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// The state of the circuit when a call was sent, to compare it with the failures since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(super) generation: Generation,
    /// The position in the counter. See [`OutcomeCounter`](super::counter::OutcomeCounter). 0 on
    /// the fast path, where no failure is counted.
    pub(super) position: u64,
}

/// A permit for one call. It must be [settled](super::Breaker::settle), with
/// [`CircuitOutcome::Ignored`](super::CircuitOutcome::Ignored) if the call was given up.
#[derive(Debug)]
#[must_use = "a permit that is not settled keeps a probe's place until its lease ends"]
pub(crate) struct Permit {
    pub(super) origin: Origin,
    /// The number of the lease if the call is a probe.
    pub(super) probe: Option<NonZeroU64>,
    /// True if the circuit has recorded that the call is sent.
    pub(super) is_sent: bool,
    /// The instant at which the call was admitted, or sent. Absent on the fast path.
    pub(super) since: Option<Instant>,
}

impl Permit {
    /// Creates the permit of a call on the
    /// [fast path](super::Breaker::fast_path_generation).
    pub(crate) const fn fast_path(generation: Generation) -> Self {
        Self {
            origin: Origin {
                generation,
                position: 0,
            },
            probe: None,
            is_sent: false,
            since: None,
        }
    }

    /// Returns true if the call decides on a half-open circuit.
    pub(crate) const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Returns true if the circuit waits for the outcome of the call, or for its drop.
    pub(crate) const fn is_awaited(&self) -> bool {
        self.probe.is_some() || self.is_sent
    }

    pub(crate) const fn generation(&self) -> Generation {
        self.origin.generation
    }

    /// Returns the origin, which a stream that fails later must name. See
    /// [`Breaker::stream_failed`](super::Breaker::stream_failed).
    pub(crate) const fn origin(&self) -> Origin {
        self.origin
    }
}

/// The decision about one call.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The call may be made.
    Pass(Permit),
    /// The call must not be made.
    Rejected {
        /// The wait before another try makes sense. Unknown while the circuit is forced open.
        retry_after: Option<Duration>,
        /// Present if the circuit has opened just now, because the lease of a probe had run out.
        transition: Option<Transition>,
    },
}

/// A change of the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// The circuit opened, or a probe failed and opened it again.
    Opened {
        /// The time until the next probe.
        cool_down: Duration,
        /// The number of openings in a row.
        opens: u32,
    },
    /// Successful probes closed the circuit.
    Closed,
}
