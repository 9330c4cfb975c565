//! The wakers of all subscribers of one fetch.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// A set of wakers that acts as one waker, which the inner body gets. The subscriber that polled
/// the body last may be gone when the body wakes.
#[derive(Debug)]
pub(crate) struct WakerSet {
    /// True if the inner body has woken since it was last pending, or was never polled.
    poll_pending: AtomicBool,
    /// By subscriber id, so that the earliest subscriber is woken first.
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl Default for WakerSet {
    fn default() -> Self {
        Self {
            poll_pending: AtomicBool::new(true),
            waiting: Mutex::default(),
        }
    }
}

impl WakerSet {
    /// Registers a waker. It is woken once.
    pub(crate) fn add(&self, id: u64, waker: &Waker) {
        let mut waiting = self.waiting();
        match waiting.get_mut(&id) {
            Some(old) => old.clone_from(waker),
            None => {
                waiting.insert(id, waker.clone());
            }
        }
    }

    pub(crate) fn remove(&self, id: u64) {
        // Dropped after the lock: a waker's destructor may run foreign code.
        let waker = self.waiting().remove(&id);
        drop(waker);
    }

    pub(crate) fn wake_all(&self) {
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_values().for_each(Waker::wake);
    }

    /// Returns true if the inner body must be polled, and resets the flag. Call it after
    /// [`add`](Self::add), so that no wake-up is lost in between.
    pub(crate) fn take_poll_pending(&self) -> bool {
        self.poll_pending.swap(false, Ordering::AcqRel)
    }

    /// Lets the next subscriber poll the inner body.
    pub(crate) fn set_poll_pending(&self) {
        self.poll_pending.store(true, Ordering::Release);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for WakerSet {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set_poll_pending();
        self.wake_all();
    }
}
