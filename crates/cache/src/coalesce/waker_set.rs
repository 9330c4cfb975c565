//! The wakers of all subscribers of one fetch.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Wake, Waker},
};

/// The wakers of all subscribers of one fetch. They act as one waker, which the call or the inner
/// body gets, because the subscriber that polled it last may be gone when it wakes.
pub(crate) struct WakerSet {
    /// The number of times that the call or body has woken, doubled. Odd if it was not polled
    /// since.
    wakes: AtomicU64,
    /// By subscriber id, so that the earliest subscriber is woken first.
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl Default for WakerSet {
    fn default() -> Self {
        Self {
            wakes: AtomicU64::new(1),
            waiting: Mutex::default(),
        }
    }
}

impl WakerSet {
    /// Registers a waker. It is woken once.
    pub(crate) fn add(&self, id: u64, waker: &Waker) {
        let known = lock(&self.waiting);
        if known.get(&id).is_some_and(|known| known.will_wake(waker)) {
            return;
        }
        drop(known);
        // Cloned before the lock and dropped after it, because both may run foreign code.
        let waker = waker.clone();
        let old = lock(&self.waiting).insert(id, waker);
        drop(old);
    }

    pub(crate) fn remove(&self, id: u64) {
        let waker = lock(&self.waiting).remove(&id);
        drop(waker);
    }

    pub(crate) fn wake_all(&self) {
        let waiting = mem::take(&mut *lock(&self.waiting));
        waiting.into_values().for_each(Waker::wake);
    }

    /// Returns true if the call or body must be polled, and records that it is. Call it after
    /// [`add`](Self::add), so that no wake-up is lost in between.
    pub(crate) fn take_woken(&self) -> bool {
        // Only an odd number changes, to the even number above it.
        let next = |wakes: u64| (wakes % 2 == 1).then_some(wakes + 1);
        self.update_wakes(next).is_ok()
    }

    /// Records that the call or body must be polled.
    pub(crate) fn set_woken(&self) {
        let next = |wakes: u64| wakes.is_multiple_of(2).then_some(wakes + 1);
        // An error means that the number is odd already.
        let _ = self.update_wakes(next);
    }

    /// Makes a pending wake-up a new one, if it has this number. Returns false if it does not.
    pub(crate) fn renew(&self, woken: u64) -> bool {
        self.update_wakes(|wakes| (wakes == woken).then_some(wakes + 2))
            .is_ok()
    }

    fn update_wakes(&self, next: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
        self.wakes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
    }

    /// Returns the number of the wake-up after which the call or body was not polled.
    pub(crate) fn woken(&self) -> Option<u64> {
        let wakes = self.wakes.load(Ordering::Acquire);
        (wakes % 2 == 1).then_some(wakes)
    }
}

impl Wake for WakerSet {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set_woken();
        self.wake_all();
    }
}

/// Locks a mutex. A panic under the lock leaves no half-done change.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
