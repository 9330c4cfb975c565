//! A fetch that several callers share: its subscribers, and the leader among them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use http_body::Frame;

use crate::{
    answer::head::Head,
    coalesce::{
        frame_buffer::Lagged,
        state::{ErasedBody, FetchEnd, FetchParams, FetchState, NextFrame, Phase, Update},
        waker_set::WakerSet,
    },
    request::key::{IdentityHasher, Key},
    store::entry::Entry,
};

type FetchTable = HashMap<Key, Arc<SharedFetch>, IdentityHasher>;

/// The fetches of one layer that new callers may join.
#[derive(Debug, Default)]
pub(crate) struct FetchMap {
    map: Mutex<FetchTable>,
}

/// The layer that owns the fetches.
pub(crate) trait FetchHost: Send + Sync {
    fn fetches(&self) -> &FetchMap;
    /// Stores the entry of a fetch that has ended, or records the reason not to.
    fn settled(&self, key: Key, entry: Result<Entry, &'static str>);
    /// Records a reader that fell too far behind.
    fn lagged(&self);
}

impl FetchMap {
    fn lock(&self) -> MutexGuard<'_, FetchTable> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A call to the inner service that several callers share.
#[derive(Debug)]
struct SharedFetch {
    key: Key,
    wakers: Arc<WakerSet>,
    state: Mutex<FetchState>,
}

impl SharedFetch {
    fn lock(&self) -> MutexGuard<'_, FetchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes all subscribers.
    fn change(&self, change: impl FnOnce(&mut FetchState)) {
        change(&mut self.lock());
        self.wakers.wake_all();
    }

    /// Stores the entry of a fetch that has ended, and removes the fetch from the map afterwards.
    /// A caller that comes in between joins the fetch.
    fn settle(self: &Arc<Self>, host: &dyn FetchHost) {
        let settled = self.lock().settle();
        let Some(entry) = settled else {
            return;
        };
        host.settled(self.key, entry);
        let mut map = host.fetches().lock();
        if (map.get(&self.key)).is_some_and(|known| Arc::ptr_eq(known, self)) {
            map.remove(&self.key);
        }
    }

    /// Waits for the next update. With `until_content`, a stream must have begun its content.
    fn poll_update(&self, id: u64, until_content: bool, cx: &mut Context<'_>) -> Poll<Update> {
        let mut state = self.lock();
        loop {
            match state.phase {
                Phase::Over(FetchEnd::LeaderFailed(kind)) => {
                    return Poll::Ready(Update::LeaderFailed(kind));
                }
                Phase::Over(FetchEnd::NotShareable) => return Poll::Ready(Update::NotShareable),
                Phase::NoLeader => {
                    let again = state.lead();
                    return Poll::Ready(Update::Lead { again });
                }
                Phase::Fetching => {
                    self.wakers.add(id, cx.waker());
                    return Poll::Pending;
                }
                Phase::Open | Phase::Over(_) => {}
            }
            if let Some(update) = state.update(until_content) {
                return Poll::Ready(update);
            }
            ready!(self.poll_source(&mut state, id, cx));
        }
    }

    /// Waits for the frame at `index`.
    fn poll_next(&self, id: u64, index: &mut usize, cx: &mut Context<'_>) -> Poll<NextFrame> {
        let mut state = self.lock();
        loop {
            match state.frames.get(*index) {
                Err(Lagged) => return Poll::Ready(NextFrame::Lagged),
                Ok(Some(frame)) => {
                    let frame = Frame::data(frame.clone());
                    *index += 1;
                    if state.subscribers == 1 {
                        state.frames.drop_before(*index);
                    }
                    return Poll::Ready(NextFrame::Frame(frame));
                }
                Ok(None) => {}
            }
            if let Phase::Over(end) = state.phase {
                return Poll::Ready(state.last(end, index));
            }
            ready!(self.poll_source(&mut state, id, cx));
        }
    }

    /// Reads the inner body to its end, or until it no longer fits the buffer.
    fn poll_drain(&self, id: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        while state.phase == Phase::Open && !state.frames.is_over() {
            ready!(self.poll_source(&mut state, id, cx));
        }
        Poll::Ready(())
    }

    /// Polls the inner body for all subscribers. Ready when the state has changed.
    fn poll_source(&self, state: &mut FetchState, id: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.wakers.add(id, cx.waker());
        let Some(mut source) = state.source.take() else {
            // The body panicked while another subscriber polled it.
            state.end(FetchEnd::Broken);
            self.wakers.wake_all();
            return Poll::Ready(());
        };
        if !self.wakers.take_poll_pending() {
            state.source = Some(source);
            return Poll::Pending;
        }
        let waker = Waker::from(self.wakers.clone());
        let frame = source.poll(&mut Context::from_waker(&waker));
        let is_end = source.is_end();
        state.source = Some(source);
        let frame = ready!(frame);
        self.wakers.set_poll_pending();
        state.record(frame, is_end);
        self.wakers.remove(id);
        self.wakers.wake_all();
        Poll::Ready(())
    }
}

/// A caller that waits for a shared fetch or reads its body. The inner call ends with its last
/// subscriber.
pub(crate) struct Subscriber {
    host: Arc<dyn FetchHost>,
    fetch: Arc<SharedFetch>,
    id: u64,
}

impl Subscriber {
    /// Subscribes to the fetch of this key, or to a new fetch if there is none and `stored` finds
    /// no entry. Returns `None` if `most` callers share the fetch already.
    pub(crate) fn join<E>(
        host: Arc<dyn FetchHost>,
        key: Key,
        most: usize,
        limit: usize,
        stored: impl FnOnce() -> Option<E>,
    ) -> Result<Option<Self>, E> {
        let mut map = host.fetches().lock();
        let fetch = match map.get(&key) {
            Some(fetch) if fetch.lock().is_joinable() => fetch.clone(),
            _ => {
                // A fetch may have ended since the caller looked into the store.
                if let Some(stored) = stored() {
                    return Err(stored);
                }
                let fetch = Arc::new(SharedFetch {
                    key,
                    wakers: Arc::default(),
                    state: Mutex::new(FetchState::new(limit)),
                });
                map.insert(key, fetch.clone());
                fetch
            }
        };
        let mut state = fetch.lock();
        if state.is_full(most) {
            return Ok(None);
        }
        let id = state.subscribe();
        drop(state);
        drop(map);
        Ok(Some(Self { host, fetch, id }))
    }

    /// Returns another subscriber of the same fetch, for the detached task that makes the call.
    pub(crate) fn for_task(&self) -> Self {
        Self {
            host: self.host.clone(),
            fetch: self.fetch.clone(),
            id: self.fetch.lock().subscribe_task(),
        }
    }

    /// Waits for the next update. With `until_content`, a stream must have begun its content.
    pub(crate) fn poll_update(&self, until_content: bool, cx: &mut Context<'_>) -> Poll<Update> {
        let update = self.fetch.poll_update(self.id, until_content, cx);
        self.fetch.settle(&*self.host);
        update
    }

    /// Waits for the frame at `index`, and advances `index`.
    pub(crate) fn poll_next(&self, index: &mut usize, cx: &mut Context<'_>) -> Poll<NextFrame> {
        let next = self.fetch.poll_next(self.id, index, cx);
        self.fetch.settle(&*self.host);
        if matches!(next, Poll::Ready(NextFrame::Lagged)) {
            self.host.lagged();
        }
        next
    }

    /// Reads the inner body to its end, or until it no longer fits the buffer.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.fetch.poll_drain(self.id, cx);
        self.fetch.settle(&*self.host);
        end
    }

    /// Returns true if a reader at `index` has read the complete body.
    pub(crate) fn is_at_end(&self, index: usize) -> bool {
        let state = self.fetch.lock();
        matches!(state.phase, Phase::Over(FetchEnd::Complete))
            && index >= state.frames.end() + usize::from(state.trailers.is_some())
    }

    /// Returns the guard of the leader, which [`Update::Lead`] made this subscriber.
    pub(crate) fn leader_guard(&self) -> LeaderGuard {
        LeaderGuard {
            host: self.host.clone(),
            fetch: self.fetch.clone(),
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // No caller can join while the map is locked.
        let map = self.host.fetches().lock();
        let mut state = self.fetch.lock();
        let was_over = state.is_over();
        let source = state.unsubscribe();
        let ended = state.is_over() && !was_over;
        drop((state, map));
        self.fetch.wakers.remove(self.id);
        drop(source);
        if ended {
            self.fetch.wakers.wake_all();
        }
        self.fetch.settle(&*self.host);
    }
}

/// The leadership of a shared fetch. If it is dropped before a response, another subscriber
/// becomes the leader.
pub(crate) struct LeaderGuard {
    host: Arc<dyn FetchHost>,
    fetch: Arc<SharedFetch>,
}

impl LeaderGuard {
    /// Publishes the head, and hands the body over to the fetch.
    pub(crate) fn open(self, head: Head, params: FetchParams, source: Box<dyn ErasedBody>) {
        self.fetch.change(|state| state.open(head, params, source));
        self.fetch.settle(&*self.host);
    }

    /// Ends the fetch without a head.
    pub(crate) fn fail(self, end: FetchEnd) {
        self.fetch.change(|state| state.end(end));
        self.fetch.settle(&*self.host);
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        let mut state = self.fetch.lock();
        if state.phase == Phase::Fetching {
            state.phase = Phase::NoLeader;
            drop(state);
            self.fetch.wakers.wake_all();
        }
    }
}
