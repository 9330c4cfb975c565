//! What is reserved for one call.

use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{Ledger, LimiterId, ReservationHandle};

/// Every layer asks here at every call, so nothing but a second reservation takes a lock or allocates. The
/// handle of the first stays here until the call is over, though its reservation may have ended.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    first: OnceLock<ReservationHandle>,
    first_ended: AtomicBool,
    others: AtomicUsize,
    rest: Mutex<Vec<ReservationHandle>>,
}

impl Reservations {
    pub(crate) fn add(&self, handle: ReservationHandle) {
        if let Err(handle) = self.first.set(handle) {
            let mut rest = self.rest();
            rest.push(handle);
            self.others.store(rest.len(), Ordering::Release);
        }
    }

    pub(crate) fn any(&self) -> bool {
        self.first().is_some() || self.has_others()
    }

    pub(crate) fn forget(&self, ledger: &dyn Ledger, reservation: u64) {
        let ended = |handle: &ReservationHandle| handle.is_to(ledger, reservation);
        if self.first().is_some_and(ended) {
            self.first_ended.store(true, Ordering::Release);
        }
        if self.has_others() {
            let mut rest = self.rest();
            rest.retain(|handle| !ended(handle));
            self.others.store(rest.len(), Ordering::Release);
        }
    }

    /// The last one of this limiter.
    pub(crate) fn of(&self, limiter: LimiterId) -> Option<ReservationHandle> {
        let is_of = |handle: &&ReservationHandle| handle.is_of(limiter);
        if self.has_others()
            && let Some(found) = self.rest().iter().rev().find(is_of)
        {
            return Some(found.clone());
        }
        self.first().filter(is_of).cloned()
    }

    fn first(&self) -> Option<&ReservationHandle> {
        let first = self.first.get()?;
        (!self.first_ended.load(Ordering::Acquire)).then_some(first)
    }

    fn has_others(&self) -> bool {
        self.others.load(Ordering::Acquire) > 0
    }

    fn rest(&self) -> MutexGuard<'_, Vec<ReservationHandle>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
