//! The reservations of a call.

use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::ledger::{Ledger, LimiterId, ReservationHandle};

/// The list of reservations of a call.
///
/// Every layer reads it in every call, so only a second reservation takes a lock or allocates. The
/// handle of the first reservation stays here until the call is over, even if the reservation has
/// ended.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    first: OnceLock<ReservationHandle>,
    first_ended: AtomicBool,
    /// The length of `rest`, which is read without the lock.
    rest_count: AtomicUsize,
    rest: Mutex<Vec<ReservationHandle>>,
}

impl Reservations {
    pub(crate) fn add(&self, handle: ReservationHandle) {
        if let Err(handle) = self.first.set(handle) {
            let mut rest = self.rest();
            rest.push(handle);
            self.rest_count.store(rest.len(), Ordering::Release);
        }
    }

    pub(crate) fn any(&self) -> bool {
        self.first().is_some() || self.has_rest()
    }

    pub(crate) fn forget(&self, ledger: &dyn Ledger, reservation: u64) {
        let ended = |handle: &ReservationHandle| handle.is_to(ledger, reservation);
        if self.first().is_some_and(ended) {
            self.first_ended.store(true, Ordering::Release);
        }
        if self.has_rest() {
            let mut rest = self.rest();
            rest.retain(|handle| !ended(handle));
            self.rest_count.store(rest.len(), Ordering::Release);
        }
    }

    /// Returns the last reservation of this limiter.
    pub(crate) fn of(&self, limiter: LimiterId) -> Option<ReservationHandle> {
        let is_of = |handle: &&ReservationHandle| handle.is_of(limiter);
        if self.has_rest()
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

    fn has_rest(&self) -> bool {
        self.rest_count.load(Ordering::Acquire) > 0
    }

    fn rest(&self) -> MutexGuard<'_, Vec<ReservationHandle>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
