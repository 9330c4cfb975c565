//! The reservation of an attempt, of this layer or of an outer one.

use std::time::Duration;

use tokio::time::Instant;
use tower_claude_core::{
    Scope,
    toolkit::{LimitWarning, Observation, ReservationHandle},
};

use crate::reservation::Reservation;

/// The reservation under which an attempt is sent.
#[derive(Debug)]
pub(super) enum Admitted {
    /// A reservation of this layer.
    Own(Reservation),
    /// The reservation of an outer layer with the same limiter, which also settles it.
    Joined(ReservationHandle),
}

impl Admitted {
    /// Returns the scope of the reservation, which is `kept` only if the reservation does not know
    /// it.
    pub(super) fn scope<'a>(&'a self, kept: &'a Option<Box<Scope>>) -> &'a Scope {
        let of_reservation = || match self {
            Self::Own(reservation) => reservation.scope(),
            Self::Joined(handle) => handle.scope(),
        };
        kept.as_deref()
            .or_else(of_reservation)
            .expect("kept if the reservation does not know it")
    }

    /// Returns true if the head of a success at `at` has nothing new for the limiter.
    pub(super) fn can_skip_head(&self, at: Instant) -> bool {
        match self {
            Self::Own(reservation) => reservation.can_skip_head(at),
            Self::Joined(handle) => handle.can_skip_head(at),
        }
    }

    /// Corrects the limits by the headers of a response.
    pub(super) fn observe(&self, observation: &Observation<'_>) -> Option<LimitWarning> {
        match self {
            Self::Own(reservation) => reservation.observe(observation),
            Self::Joined(handle) => handle.observe(observation),
        }
    }

    /// Pauses the scope, and returns the duration of the pause.
    pub(super) fn pause(&self, retry_after: Option<Duration>, now: Instant) -> Duration {
        match self {
            Self::Own(reservation) => reservation.pause(retry_after, now),
            Self::Joined(handle) => handle.pause(retry_after, now),
        }
    }
}
