//! What a response head, or the lack of one, means for the limiter.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tower_claude_core::{
    Class, Kind, LimitWarning, Observation, ReservationHandle, Scope,
    event::{Event, emit, is_debug_heard},
};
use tower_claude_wire::{self as wire, RateLimits};

use super::Gate;
use crate::{Reservation, Settlement};

/// How a request came to be admitted.
#[derive(Debug)]
pub(super) enum Admission {
    /// By a reservation of this gate's own.
    Own(Reservation),
    /// By the reservation of an outer layer with the same limiter, which also settles it.
    Joined(ReservationHandle),
}

impl Admission {
    /// The pool of limits, for events: the one that was kept because the ledger does not tell, or the
    /// ledger's.
    pub(super) fn scope<'a>(&'a self, kept: &'a Option<Box<Scope>>) -> &'a Scope {
        let of_ledger = || match self {
            Self::Own(reservation) => reservation.scope(),
            Self::Joined(handle) => handle.scope(),
        };
        kept.as_deref()
            .or_else(of_ledger)
            .expect("kept where the ledger does not tell")
    }

    fn is_calm(&self, at: Instant) -> bool {
        match self {
            Self::Own(reservation) => reservation.is_calm(at),
            Self::Joined(handle) => handle.is_calm(at),
        }
    }

    fn observe(&self, seen: &Observation<'_>) -> Option<LimitWarning> {
        match self {
            Self::Own(reservation) => reservation.observe(seen),
            Self::Joined(handle) => handle.observe(seen),
        }
    }

    fn pause(&self, retry_after: Option<Duration>, now: Instant) -> Duration {
        match self {
            Self::Own(reservation) => reservation.pause(retry_after, now),
            Self::Joined(handle) => handle.pause(retry_after, now),
        }
    }

    /// Settles an attempt that brought no answer.
    pub(super) fn settle(self, class: &Class) {
        if let Self::Own(reservation) = self {
            reservation.settle(settlement(class));
        }
    }
}

/// What the server has counted of an attempt that brought no answer.
fn settlement(class: &Class) -> Settlement {
    if class.local {
        return Settlement::NotSent;
    }
    match class.kind {
        Kind::RateLimited | Kind::RampLimited | Kind::SpendLimit => Settlement::Rejected,
        Kind::BadRequest
        | Kind::Unauthorized
        | Kind::Forbidden
        | Kind::NotFound
        | Kind::TooLarge => Settlement::Invalid,
        _ => Settlement::Failed {
            usage: Default::default(),
        },
    }
}

impl<L, E, C> Gate<L, E, C> {
    /// Pauses the scope for a 429 that came at `at`, which the first gate to see it does.
    pub(super) fn pause(
        &self,
        class: Class,
        scope: &Scope,
        admission: &Admission,
        at: Option<Instant>,
    ) -> Duration {
        let at = at.unwrap_or_else(Instant::now);
        let pause = admission.pause(class.retry_after, at);
        emit(
            &self.observers,
            &Event::Paused {
                layer: self.layer,
                scope,
                pause,
            },
        );
        pause
    }

    /// Learns from headers that arrived at `at`.
    pub(super) fn learn(
        &self,
        headers: &HeaderMap,
        class: Class,
        scope: &Scope,
        admission: &Admission,
        at: Option<Instant>,
    ) {
        let at = at.unwrap_or_else(Instant::now);
        if class.is_success() && admission.is_calm(at) && !is_debug_heard(&self.observers) {
            return;
        }
        let limits = RateLimits::from_headers(headers);
        let seen = Observation::new(&limits, wire::date(headers), class, at)
            .with_warn_percent(self.warn_percent);
        let crossing = admission.observe(&seen);
        if is_debug_heard(&self.observers) {
            emit(
                &self.observers,
                &Event::Headroom {
                    layer: self.layer,
                    scope,
                    limits: &limits,
                    request_id: wire::request_id(headers),
                },
            );
        }
        if let Some(crossing) = crossing {
            emit(
                &self.observers,
                &Event::Threshold {
                    layer: self.layer,
                    scope,
                    crossing,
                },
            );
        }
        if class.kind == Kind::Unauthorized && self.is_news(scope.credential) {
            emit(
                &self.observers,
                &Event::Unauthorized {
                    layer: self.layer,
                    scope,
                },
            );
        }
    }
}
