//! The queue of scopes that have a message to the store of a shared limiter.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::pool::share_message::SharePolicy;

/// The queue between the scopes of a limiter and the driver of its store.
pub(crate) struct Hub<T> {
    policy: SharePolicy,
    is_down: AtomicBool,
    /// The number of scopes so far.
    scopes: AtomicU64,
    state: Mutex<HubState<T>>,
}

struct HubState<T> {
    scopes: VecDeque<Arc<T>>,
    waker: Option<Waker>,
    /// The limiter or the driver was dropped.
    is_closed: bool,
}

impl<T> Hub<T> {
    pub(crate) fn new(policy: SharePolicy) -> Self {
        Self {
            policy,
            is_down: AtomicBool::new(false),
            scopes: AtomicU64::new(0),
            state: Mutex::new(HubState {
                scopes: VecDeque::new(),
                waker: None,
                is_closed: false,
            }),
        }
    }

    pub(crate) const fn policy(&self) -> &SharePolicy {
        &self.policy
    }

    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::SeqCst)
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.is_down.store(down, Ordering::SeqCst);
    }

    /// Returns a number for a new scope.
    pub(crate) fn next_number(&self) -> u64 {
        self.scopes.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a scope that has a message.
    pub(crate) fn push(&self, scope: Arc<T>) {
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        state.scopes.push_back(scope);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns the next scope, or `None` once the hub is closed.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Arc<T>>> {
        let waker = cx.waker().clone();
        let mut state = self.lock();
        if let Some(scope) = state.scopes.pop_front() {
            return Poll::Ready(Some(scope));
        }
        if state.is_closed {
            return Poll::Ready(None);
        }
        let _old = state.waker.replace(waker);
        Poll::Pending
    }

    /// Ends the queue. Scopes that are in it are dropped.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let scopes = std::mem::take(&mut state.scopes);
        let waker = state.waker.take();
        drop(state);
        drop(scopes);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HubState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
