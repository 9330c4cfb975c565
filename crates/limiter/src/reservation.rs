//! Reservations of admitted requests, and their ends.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, EstimatedTokens, Kind, Outcome, Scope,
    toolkit::{Ledger, LimitWarning, LimiterId, Observation, ReservationHandle},
};
use tower_claude_wire::Usage;

use crate::sync;

/// A [`Ledger`] that also settles the reservations of its scope. Ids that are settled are ignored.
pub trait ReservationBackend: Ledger {
    /// Returns the tokens that are charged for a reservation and that its usage will replace. None
    /// by default.
    fn estimated(&self, reservation: u64) -> EstimatedTokens {
        let _ = reservation;
        EstimatedTokens::default()
    }

    /// Corrects the input tokens of a reservation to the count of the server.
    fn true_up_input(&self, reservation: u64, actual: u64, now: Instant);

    /// Records the output tokens produced so far.
    fn produced(&self, reservation: u64, output: u64, now: Instant);

    /// Ends a reservation.
    fn settle(&self, reservation: u64, settlement: Settlement, now: Instant);

    /// Ends the reservation of a successful response that ended like this. Settles it by
    /// [`Settlement::of`] by default.
    fn settle_outcome(&self, reservation: u64, outcome: &Outcome<'_>, now: Instant) {
        self.settle(reservation, Settlement::of(outcome), now);
    }
}

/// A reservation of one admitted request.
///
/// Dropping it settles it. If the request was not [`sent`](Self::sent), everything is given back,
/// otherwise everything that the server cannot have counted.
#[must_use = "dropping a reservation gives it back"]
pub struct Reservation {
    backend: Arc<dyn ReservationBackend>,
    id: u64,
    sent: bool,
    settled: bool,
    /// In nanoseconds, because it is smaller than a `Duration` and moves with the response.
    waited: u64,
    left_in: Option<Arc<Call>>,
}

impl Reservation {
    /// Creates the reservation with this id in `backend`. `waited` is the time in the queue.
    pub fn new(backend: Arc<dyn ReservationBackend>, id: u64, waited: Duration) -> Self {
        Self {
            backend,
            id,
            sent: false,
            settled: false,
            waited: u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX),
            left_in: None,
        }
    }

    /// Returns the time that the request waited in the queue.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited)
    }

    /// Returns true if this limiter made the reservation.
    #[must_use]
    pub fn is_of(&self, limiter: LimiterId) -> bool {
        self.backend.limiter() == limiter
    }

    /// Returns the scope that it draws on. See [`Ledger::scope`].
    #[must_use]
    pub fn scope(&self) -> Option<&Scope> {
        self.backend.scope()
    }

    /// Returns the tokens that are charged and that the usage will replace.
    #[must_use]
    pub fn estimated(&self) -> EstimatedTokens {
        self.backend.estimated(self.id)
    }

    /// Returns a handle for inner layers. The handle keeps nothing reserved.
    #[must_use]
    pub fn handle(&self) -> ReservationHandle {
        let ledger: Arc<dyn Ledger> = self.backend.clone();
        ReservationHandle::new(ledger, self.id)
    }

    /// Leaves a handle in the call, where inner layers find it until this reservation ends. It ends
    /// with the attempt, so that a library that sends the request again is admitted again.
    pub fn leave_in(&mut self, call: Arc<Call>) {
        call.add_reservation(self.handle());
        self.left_in = Some(call);
    }

    /// Records that the inner service has the request. From now on the server may have counted it.
    /// Takes no lock.
    pub const fn sent(&mut self) {
        self.sent = true;
    }

    /// Corrects the input tokens to the count of the server, without cache reads.
    pub fn true_up_input(&self, actual: u64, now: Instant) {
        self.backend.true_up_input(self.id, actual, now);
    }

    /// Records the output tokens produced so far. A long response extends its reservation.
    pub fn produced(&self, output: u64, now: Instant) {
        self.backend.produced(self.id, output, now);
    }

    /// Returns true if the head of a success need not be read. See [`Ledger::can_skip_head`].
    #[must_use]
    pub fn can_skip_head(&self, at: Instant) -> bool {
        self.backend.can_skip_head(at)
    }

    /// Corrects the levels by a response head. See [`Ledger::observe`].
    pub fn observe(&self, observation: &Observation<'_>) -> Option<LimitWarning> {
        self.backend.observe(self.id, observation)
    }

    /// Stops admissions for a while after a 429. See [`Ledger::pause`].
    pub fn pause(&self, retry_after: Option<Duration>, now: Instant) -> Duration {
        self.backend.pause(self.id, retry_after, now)
    }

    /// Ends the reservation now.
    pub fn settle(self, settlement: Settlement) {
        self.settle_at(settlement, sync::now());
    }

    /// Ends the reservation at this time.
    pub fn settle_at(mut self, settlement: Settlement, now: Instant) {
        self.mark_settled();
        self.backend.settle(self.id, settlement, now);
    }

    /// Ends the reservation of a successful response that ended like this, at this time.
    #[inline]
    pub(crate) fn settle_outcome(&mut self, outcome: &Outcome<'_>, now: Instant) {
        self.mark_settled();
        self.backend.settle_outcome(self.id, outcome, now);
    }

    #[cold]
    fn settle_dropped(&mut self) {
        let settlement = if self.sent {
            Settlement::dropped()
        } else {
            Settlement::NotSent
        };
        self.mark_settled();
        self.backend.settle(self.id, settlement, sync::now());
    }

    /// Marks the reservation as settled, and takes it out of the call. The caller settles it.
    #[inline]
    fn mark_settled(&mut self) {
        self.settled = true;
        if let Some(call) = self.left_in.take() {
            call.forget_reservation(&*self.backend, self.id);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.settled {
            self.settle_dropped();
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("id", &self.id)
            .field("sent", &self.sent)
            .field("waited", &self.waited())
            .finish_non_exhaustive()
    }
}

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
    /// of 2^26 tokens or more is ignored, because it is an underflow in the server's response. A
    /// count over the [`bound`](tower_claude_core::Cost::bound) of the request is charged as the
    /// bound. Usage beyond the estimate takes a level at most 5 minutes of refill below zero.
    Used {
        /// The reported usage, empty if there was none.
        usage: Usage,
    },
}

impl Settlement {
    /// Returns the settlement of a successful response that ended like this.
    #[must_use]
    pub fn of(outcome: &Outcome<'_>) -> Self {
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

/// The reservation under which an attempt is sent.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// A reservation of this layer.
    Own(Reservation),
    /// The reservation of an outer layer with the same limiter, which also settles it.
    Joined(ReservationHandle),
}

impl Admitted {
    /// Returns the scope of the reservation, which is `kept` only if the reservation does not know
    /// it.
    pub(crate) fn scope<'a>(&'a self, kept: &'a Option<Box<Scope>>) -> &'a Scope {
        kept.as_deref()
            .or_else(|| self.known_scope())
            .expect("kept if the reservation does not know it")
    }

    /// Returns the scope that the reservation knows.
    pub(crate) fn known_scope(&self) -> Option<&Scope> {
        match self {
            Self::Own(reservation) => reservation.scope(),
            Self::Joined(handle) => handle.scope(),
        }
    }

    /// Returns true if the head of a success at `at` has nothing new for the limiter.
    pub(crate) fn can_skip_head(&self, at: Instant) -> bool {
        match self {
            Self::Own(reservation) => reservation.can_skip_head(at),
            Self::Joined(handle) => handle.can_skip_head(at),
        }
    }

    /// Corrects the limits by the headers of a response.
    pub(crate) fn observe(&self, observation: &Observation<'_>) -> Option<LimitWarning> {
        match self {
            Self::Own(reservation) => reservation.observe(observation),
            Self::Joined(handle) => handle.observe(observation),
        }
    }

    /// Pauses the scope, and returns the duration of the pause.
    pub(crate) fn pause(&self, retry_after: Option<Duration>, now: Instant) -> Duration {
        match self {
            Self::Own(reservation) => reservation.pause(retry_after, now),
            Self::Joined(handle) => handle.pause(retry_after, now),
        }
    }
}
