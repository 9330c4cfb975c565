//! A fetch that several callers share: its lock, its subscribers, and the leader among them.
//!
//! No inner body, waker, store or observer runs while a lock is held, because each of them may call
//! back into the layer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use http_body::Frame;
use tokio::time::Instant;
use tower_claude_core::{Call, Priority};

use crate::{
    answer::head::Head,
    coalesce::{
        frame_buffer::Lagged,
        state::{FetchEnd, FetchParams, FetchState, NextFrame, Phase, Source, Update},
        waker_set::{WakerSet, lock},
    },
    request::key::{IdentityHasher, Key},
    store::entry::Entry,
};

type FetchTable = HashMap<Key, Arc<SharedFetch>, IdentityHasher>;

/// The most frames that one poll reads, so that a body of tiny frames lets other tasks run.
const FRAMES_PER_POLL: usize = 1_024;

/// The fetches of one layer that new callers may join.
#[derive(Default)]
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

/// The limits of a fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchLimits {
    /// The number of callers.
    pub(crate) waiters: usize,
    /// The bytes of one response.
    pub(crate) bytes: usize,
    /// The time without progress.
    pub(crate) idle: Duration,
}

impl FetchMap {
    fn lock(&self) -> MutexGuard<'_, FetchTable> {
        lock(&self.map)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A call to the inner service that several callers share.
struct SharedFetch {
    key: Key,
    wakers: Arc<WakerSet>,
    state: Mutex<FetchState>,
}

impl SharedFetch {
    fn lock(&self) -> MutexGuard<'_, FetchState> {
        lock(&self.state)
    }

    /// Changes the state, and wakes all subscribers.
    fn change<T>(&self, change: impl FnOnce(&mut FetchState) -> T) {
        let garbage = change(&mut self.lock());
        drop(garbage);
        self.wakers.set_woken();
        self.wakers.wake_all();
    }

    /// Stores the entry of a fetch that has ended, and removes the fetch from the map afterwards.
    /// A caller that comes in between joins the fetch.
    fn settle(self: &Arc<Self>, host: &dyn FetchHost) {
        let mut state = self.lock();
        let (settled, calls) = (state.settle(), state.calls);
        drop(state);
        let Some(entry) = settled else {
            return;
        };
        if calls > 0 {
            host.settled(self.key, entry);
        }
        let mut map = host.fetches().lock();
        let known = map.get(&self.key);
        let known = known.is_some_and(|known| Arc::ptr_eq(known, self));
        let removed = known.then(|| map.remove(&self.key));
        drop(map);
        drop(removed);
    }

    /// Polls the inner body for all subscribers. Returns true if the state has changed.
    fn poll_source(&self, source: Source) -> bool {
        let mut polled = PolledSource {
            fetch: self,
            source: Some(source),
        };
        let Some(source) = &mut polled.source else {
            return false;
        };
        let waker = Waker::from(self.wakers.clone());
        let frame = source.poll(&mut Context::from_waker(&waker));
        let is_end = frame.is_ready() && source.is_end();
        let now = Instant::now();
        let mut state = self.lock();
        let received = match frame {
            Poll::Ready(frame) => Some(state.record(frame, is_end, now)),
            Poll::Pending => None,
        };
        let source = polled.source.take();
        let rest = source.and_then(|source| state.put_source(source));
        drop(state);
        let is_changed = received.is_some();
        drop((received, rest));
        if is_changed {
            self.wakers.set_woken();
        } else if self.wakers.woken().is_some() {
            // A subscriber that was woken in between could not poll.
            self.wakers.wake_all();
        }
        is_changed
    }
}

/// An inner body that is polled. If it panics, the fetch is broken.
struct PolledSource<'a> {
    fetch: &'a SharedFetch,
    source: Option<Source>,
}

impl Drop for PolledSource<'_> {
    fn drop(&mut self) {
        if self.source.is_some() {
            self.fetch.change(|state| state.end(FetchEnd::Broken));
        }
    }
}

/// A caller that waits for a shared fetch or reads its body. The inner call ends with its last
/// subscriber.
pub(crate) struct Subscriber {
    host: Arc<dyn FetchHost>,
    fetch: Arc<SharedFetch>,
    id: u64,
    idle: Duration,
    /// True for the subscriber of a detached task.
    is_task: bool,
}

impl Subscriber {
    /// Subscribes to the fetch of this key, or to a new fetch. `None` if too many callers share the
    /// fetch already.
    pub(crate) fn join(
        host: Arc<dyn FetchHost>,
        key: Key,
        limits: FetchLimits,
        priority: Priority,
    ) -> Option<Self> {
        let now = Instant::now();
        let mut map = host.fetches().lock();
        let mut fetch = map.get(&key).cloned();
        let mut joined = (fetch.as_ref()).and_then(|fetch| {
            fetch
                .lock()
                .join(limits.waiters, limits.idle, priority, now)
        });
        let mut replaced = None;
        if joined.is_none() {
            let mut state = FetchState::new(limits.bytes, now);
            joined = state.join(limits.waiters, limits.idle, priority, now);
            let new = Arc::new(SharedFetch {
                key,
                wakers: Arc::default(),
                state: Mutex::new(state),
            });
            replaced = map.insert(key, new.clone());
            fetch = Some(new);
        }
        drop(map);
        drop(replaced);
        let (fetch, joined) = (fetch?, joined?);
        if joined.is_raised {
            // The call reads its priority again when it is polled.
            fetch.wakers.wake_by_ref();
        }
        Some(Self {
            host,
            fetch,
            id: joined.id?,
            idle: limits.idle,
            is_task: false,
        })
    }

    /// Returns another subscriber of the same fetch, for the detached task that makes the call.
    pub(crate) fn for_task(&self) -> Self {
        Self {
            host: self.host.clone(),
            fetch: self.fetch.clone(),
            id: self.fetch.lock().subscribe_task(),
            idle: self.idle,
            is_task: true,
        }
    }

    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// Returns a number that no other live fetch has.
    pub(crate) fn fetch_id(&self) -> usize {
        Arc::as_ptr(&self.fetch).addr()
    }

    /// Returns the wakers that a call of this fetch wakes.
    pub(crate) fn wakers(&self) -> &Arc<WakerSet> {
        &self.fetch.wakers
    }

    /// Registers the waker of a task that makes the call.
    pub(crate) fn register(&self, waker: &Waker) {
        self.fetch.wakers.add(self.id, waker);
    }

    /// Polls the inner body until the check of the state succeeds, and stores the response if the
    /// fetch has ended.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        check: impl FnMut(&mut FetchState) -> Option<T>,
    ) -> Poll<T> {
        let result = self.poll_state(cx, check);
        self.fetch.settle(&*self.host);
        result
    }

    fn poll_state<T>(
        &self,
        cx: &mut Context<'_>,
        mut check: impl FnMut(&mut FetchState) -> Option<T>,
    ) -> Poll<T> {
        let mut registered = false;
        let mut left = FRAMES_PER_POLL;
        loop {
            let mut state = self.fetch.lock();
            if let Some(result) = check(&mut state) {
                return Poll::Ready(result);
            }
            if !registered {
                drop(state);
                self.fetch.wakers.add(self.id, cx.waker());
                registered = true;
                continue;
            }
            // Without a body, there is no head yet, or another subscriber polls the body.
            let Some(source) = state.take_source() else {
                return Poll::Pending;
            };
            if left == 0 {
                state.put_source(source);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            left -= 1;
            if !self.fetch.wakers.take_woken() {
                state.put_source(source);
                return Poll::Pending;
            }
            drop(state);
            if !self.fetch.poll_source(source) {
                return Poll::Pending;
            }
            self.fetch.wakers.remove(self.id);
            self.fetch.wakers.wake_all();
            registered = false;
        }
    }

    /// Waits for the next update. With `until_content`, a stream must have begun its content.
    pub(crate) fn poll_update(&self, until_content: bool, cx: &mut Context<'_>) -> Poll<Update> {
        self.poll(cx, |state| match state.phase {
            Phase::Over(FetchEnd::LeaderFailed(kind)) => Some(Update::LeaderFailed(kind)),
            Phase::Over(FetchEnd::NotShareable) => Some(Update::NotShareable),
            Phase::NoLeader => {
                let again = state.lead(Instant::now());
                Some(Update::Lead { again })
            }
            Phase::Fetching => None,
            Phase::Open | Phase::Over(_) => state.update(until_content),
        })
    }

    /// Waits for the frame at `position`, and advances `position`.
    pub(crate) fn poll_next(&self, position: &mut u64, cx: &mut Context<'_>) -> Poll<NextFrame> {
        let next = self.poll(cx, |state| {
            let frame = match state.frames.get(*position) {
                Err(Lagged) => return Some(NextFrame::Lagged),
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    let Phase::Over(end) = state.phase else {
                        return None;
                    };
                    return Some(state.last(end, position));
                }
            };
            *position += frame.len() as u64;
            if state.subscribers == 1 {
                state.frames.drop_before(*position);
            }
            Some(NextFrame::Frame(Frame::data(frame)))
        });
        if matches!(next, Poll::Ready(NextFrame::Lagged)) {
            self.host.lagged();
        }
        next
    }

    /// Reads the inner body to its end, or until it no longer fits the buffer.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(cx, |state| {
            (state.phase != Phase::Open || state.frames.is_over()).then_some(())
        })
    }

    /// Returns the time at which the fetch has made no progress for too long. `None` if it has
    /// ended, or if the time overflows.
    pub(crate) fn stalls_at(&self) -> Option<Instant> {
        let state = self.fetch.lock();
        let progress_at = (!state.is_over()).then_some(state.progress_at)?;
        progress_at.checked_add(self.idle)
    }

    /// Ends a fetch whose body makes no progress.
    pub(crate) fn stall(&self) {
        self.fetch.change(|state| state.end(FetchEnd::Stalled));
        self.fetch.settle(&*self.host);
    }

    /// Returns the number of the wake-up after which no caller has polled the call that the leader
    /// makes.
    pub(crate) fn unpolled(&self) -> Option<u64> {
        let state = self.fetch.lock();
        let is_leaders = state.phase == Phase::Fetching && !state.has_task;
        is_leaders.then(|| self.fetch.wakers.woken()).flatten()
    }

    /// Makes this subscriber the leader, if the call was still not polled after that wake-up.
    pub(crate) fn take_over(&self, unpolled: u64) -> Option<Update> {
        let mut state = self.fetch.lock();
        // Renewed, so that no other subscriber takes over at once.
        if state.phase != Phase::Fetching || !self.fetch.wakers.renew(unpolled) {
            return None;
        }
        let again = state.lead(Instant::now());
        Some(Update::Lead { again })
    }

    /// Returns true if a reader at `position` has read the complete body.
    pub(crate) fn is_at_end(&self, position: u64) -> bool {
        let state = self.fetch.lock();
        matches!(state.phase, Phase::Over(FetchEnd::Complete))
            && position >= state.frames.end() + u64::from(state.trailers.is_some())
    }

    /// Returns the guard of the leader, which [`Update::Lead`] made this subscriber.
    pub(crate) fn leader_guard(&self) -> LeaderGuard {
        LeaderGuard {
            host: self.host.clone(),
            fetch: self.fetch.clone(),
            call: self.fetch.lock().calls,
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut state = self.fetch.lock();
        let was_over = state.is_over();
        let source = state.unsubscribe(self.is_task);
        let ended = state.is_over() && !was_over;
        drop(state);
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
    /// The number of the call.
    call: u64,
}

impl LeaderGuard {
    /// Returns false if another subscriber has taken over.
    pub(crate) fn is_current(&self) -> bool {
        self.leads(&self.fetch.lock())
    }

    fn leads(&self, state: &FetchState) -> bool {
        state.phase == Phase::Fetching && state.calls == self.call
    }

    /// Records the call that is made.
    pub(crate) fn launch(&self, call: Arc<Call>) {
        let garbage = self.fetch.lock().launch(call);
        drop(garbage);
    }

    /// Publishes the head, and hands the body over to the fetch.
    pub(crate) fn open(self, head: Head, params: FetchParams, source: Source) {
        let is_end = source.is_end();
        let now = Instant::now();
        // Dropped after the lock, if another subscriber has taken over.
        let mut opened = Some((head, params, source));
        self.fetch.change(|state| {
            let (head, params, source) = opened.take_if(|_| self.leads(state))?;
            state.open(head, params, source, is_end, now)
        });
        drop(opened);
        self.fetch.settle(&*self.host);
    }

    /// Ends the fetch without a head.
    pub(crate) fn fail(self, end: FetchEnd) {
        self.fetch
            .change(|state| self.leads(state).then(|| state.end(end)));
        self.fetch.settle(&*self.host);
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        let mut state = self.fetch.lock();
        if self.leads(&state) {
            state.phase = Phase::NoLeader;
            drop(state);
            self.fetch.wakers.set_woken();
            self.fetch.wakers.wake_all();
        }
    }
}
