//! Who waits for more of a shared answer.

use std::sync::Arc;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// The wakers of all who wait for one answer, and one waker for them all, which the inner body gets: whoever polled it
/// last may be gone when it wakes.
#[derive(Debug)]
pub(crate) struct Wakers {
    /// The inner body has something, or was never asked.
    is_due: AtomicBool,
    /// In the order of arrival, so that who came first is asked first.
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl Default for Wakers {
    fn default() -> Self {
        Self {
            is_due: AtomicBool::new(true),
            waiting: Mutex::default(),
        }
    }
}

impl Wakers {
    /// Will be woken, once.
    pub(crate) fn add(&self, seat: u64, waker: &Waker) {
        let mut waiting = self.waiting();
        match waiting.get_mut(&seat) {
            Some(old) => old.clone_from(waker),
            None => {
                waiting.insert(seat, waker.clone());
            }
        }
    }

    /// Will not be woken.
    pub(crate) fn remove(&self, seat: u64) {
        let waker = self.waiting().remove(&seat);
        drop(waker);
    }

    /// Wakes all.
    pub(crate) fn wake_all(&self) {
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_values().for_each(Waker::wake);
    }

    /// Whether the inner body is to be polled; asked after [`add`](Self::add), so that no wake-up is lost in between.
    pub(crate) fn take_due(&self) -> bool {
        self.is_due.swap(false, Ordering::AcqRel)
    }

    /// The inner body is to be polled by whoever comes next.
    pub(crate) fn set_due(&self) {
        self.is_due.store(true, Ordering::Release);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set_due();
        self.wake_all();
    }
}
