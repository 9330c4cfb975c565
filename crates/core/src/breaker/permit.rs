//! What the automaton answers.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

/// Counts the openings and closings of a circuit. What began in one generation has no say in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(pub(super) u64);

impl Generation {
    /// As a number, from 0: to keep it in an atomic.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// What [`number`](Self::number) gave.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// A call that was let through. To be [settled](super::Breaker::settle), with
/// [`Verdict::Ignored`](super::Verdict::Ignored) when it was given up.
#[derive(Debug)]
#[must_use = "a permit that is not settled keeps a probe's place until its lease ends"]
pub struct Permit {
    pub(super) generation: Generation,
    /// The number of its lease.
    pub(super) probe: Option<NonZeroU64>,
    /// When it was admitted, or sent; not noted where nobody asks.
    pub(super) since: Option<Instant>,
}

impl Permit {
    /// A call that passes a [calm](super::Breaker::calm) circuit.
    pub const fn calm(generation: Generation) -> Self {
        Self {
            generation,
            probe: None,
            since: None,
        }
    }

    /// Whether the call decides on a half-open circuit.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// What a stream that breaks off later must name. See [`Breaker::broke_off`](super::Breaker::broke_off).
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }
}

/// Whether a call may be made.
#[derive(Debug)]
pub enum Admission {
    /// It may.
    Pass(Permit),
    /// It may not.
    Rejected {
        /// When asking again makes sense; unknown while the circuit is held open by hand.
        retry_after: Option<Duration>,
        /// The circuit has opened just now: the lease of a probe had run out.
        transition: Option<Transition>,
    },
}

/// The circuit has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transition {
    /// Opened, or opened anew by a probe that failed.
    Opened {
        /// Until the next probe.
        cool_down: Duration,
        /// How often in a row by now.
        opens: u32,
    },
    /// Closed by probes that succeeded.
    Closed,
}
