//! What an admitted request holds.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{
    Call, Ledger, LimitWarning, LimiterId, Observation, ReservationHandle, Scope,
};

use crate::{Settlement, sync};

/// The books behind reservations: a [`Ledger`] that can also settle. Ids that are settled are ignored.
pub trait Books: Ledger {
    /// Corrects the input tokens of a reservation once the server's count is known.
    fn true_up_input(&self, reservation: u64, actual: u64, now: Instant);

    /// Reports the output tokens produced so far.
    fn produced(&self, reservation: u64, output: u64, now: Instant);

    /// Ends a reservation.
    fn settle(&self, reservation: u64, settlement: Settlement, now: Instant);
}

/// What an admitted request holds until it is settled. Dropping it settles: nothing is kept when it
/// was not [`sent`](Self::sent), else what the server may have counted.
#[must_use = "dropping a reservation gives it back"]
pub struct Reservation {
    books: Arc<dyn Books>,
    id: u64,
    sent: bool,
    settled: bool,
    /// In nanoseconds: it is moved with the response.
    waited: u64,
    left_in: Option<Arc<Call>>,
}

impl Reservation {
    /// Reservation `id` in these books, given after a wait.
    pub fn new(books: Arc<dyn Books>, id: u64, waited: Duration) -> Self {
        Self {
            books,
            id,
            sent: false,
            settled: false,
            waited: u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX),
            left_in: None,
        }
    }

    /// How long the request waited in the queue.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited)
    }

    /// Whether this limiter made the reservation.
    #[must_use]
    pub fn is_of(&self, limiter: LimiterId) -> bool {
        self.books.limiter() == limiter
    }

    /// The pool of limits it draws on. See [`Ledger::scope`].
    #[must_use]
    pub fn scope(&self) -> Option<&Scope> {
        self.books.scope()
    }

    /// A handle for inner layers. It keeps nothing reserved.
    #[must_use]
    pub fn handle(&self) -> ReservationHandle {
        let ledger: Arc<dyn Ledger> = self.books.clone();
        ReservationHandle::new(ledger, self.id)
    }

    /// Leaves a handle where inner layers find it, until this reservation ends: a request that another
    /// library sends once more, with the same context, must be admitted once more.
    pub fn leave_in(&mut self, context: Arc<Call>) {
        context.add_reservation(self.handle());
        self.left_in = Some(context);
    }

    /// Notes that the request is being handed to the inner service: from now on the server may have
    /// counted it. Takes no lock.
    pub const fn sent(&mut self) {
        self.sent = true;
    }

    /// Corrects the input tokens once the server's count is known (cache reads excluded).
    pub fn true_up_input(&self, actual: u64, now: Instant) {
        self.books.true_up_input(self.id, actual, now);
    }

    /// Reports the output tokens produced so far; a long answer extends its reservation.
    pub fn produced(&self, output: u64, now: Instant) {
        self.books.produced(self.id, output, now);
    }

    /// See [`Ledger::is_calm`].
    #[must_use]
    pub fn is_calm(&self, at: Instant) -> bool {
        self.books.is_calm(at)
    }

    /// Corrects the levels by what the server said. See [`Ledger::observe`].
    pub fn observe(&self, seen: &Observation<'_>) -> Option<LimitWarning> {
        self.books.observe(self.id, seen)
    }

    /// Stops admissions for a while after a 429. See [`Ledger::pause`].
    pub fn pause(&self, retry_after: Option<Duration>, now: Instant) -> Duration {
        self.books.pause(self.id, retry_after, now)
    }

    /// Ends the reservation.
    pub fn settle(mut self, settlement: Settlement) {
        self.finish(settlement);
    }

    /// Ends the reservation at this time.
    pub fn settle_at(mut self, settlement: Settlement, now: Instant) {
        self.finish_at(settlement, || now);
    }

    fn finish(&mut self, settlement: Settlement) {
        self.finish_at(settlement, sync::now);
    }

    fn finish_at(&mut self, settlement: Settlement, now: impl FnOnce() -> Instant) {
        if !self.settled {
            self.settled = true;
            if let Some(context) = self.left_in.take() {
                context.forget_reservation(&*self.books, self.id);
            }
            self.books.settle(self.id, settlement, now());
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let settlement = if self.sent {
            Settlement::dropped()
        } else {
            Settlement::NotSent
        };
        self.finish(settlement);
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
