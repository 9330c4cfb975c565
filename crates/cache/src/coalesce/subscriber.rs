//! The callers of a shared fetch: subscribers, and the leader among them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use crate::{
    answer::head::Head,
    coalesce::{
        shared_fetch::SharedFetch,
        state::{ErasedBody, FetchEnd, FetchParams, NextFrame, Update},
    },
    request::key::{IdentityHasher, Key},
    store::entry::Entry,
};

type Map = HashMap<Key, Arc<SharedFetch>, IdentityHasher>;

/// The fetches of one layer that new callers may join.
#[derive(Debug, Default)]
pub(crate) struct FetchMap {
    map: Mutex<Map>,
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
    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn remove(&self, fetch: &Arc<SharedFetch>) {
        let mut map = self.lock();
        if (map.get(&fetch.key)).is_some_and(|known| Arc::ptr_eq(known, fetch)) {
            map.remove(&fetch.key);
        }
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
    /// Subscribes to the fetch of this key, or to a new one if there is none and `stored` finds no
    /// entry. Returns `None` if `most` callers share the fetch already.
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
                let fetch = Arc::new(SharedFetch::new(key, limit));
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

    pub(crate) fn poll_update(&self, until_content: bool, cx: &mut Context<'_>) -> Poll<Update> {
        let update = self.fetch.poll_update(self.id, until_content, cx);
        self.settle();
        update
    }

    pub(crate) fn poll_next(&self, index: &mut usize, cx: &mut Context<'_>) -> Poll<NextFrame> {
        let next = self.fetch.poll_next(self.id, index, cx);
        self.settle();
        if matches!(next, Poll::Ready(NextFrame::Lagged)) {
            self.host.lagged();
        }
        next
    }

    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.fetch.poll_drain(self.id, cx);
        self.settle();
        end
    }

    pub(crate) fn is_at_end(&self, index: usize) -> bool {
        self.fetch.is_at_end(index)
    }

    /// Returns the guard of the leader, which [`Update::Lead`] made this subscriber.
    pub(crate) fn leader_guard(&self) -> LeaderGuard {
        LeaderGuard {
            host: self.host.clone(),
            fetch: self.fetch.clone(),
        }
    }

    fn settle(&self) {
        settle(&*self.host, &self.fetch);
    }
}

/// Stores the entry of a fetch that has ended, and removes the fetch from the map afterwards. A
/// caller that comes in between joins the fetch.
fn settle(host: &dyn FetchHost, fetch: &Arc<SharedFetch>) {
    let settled = fetch.lock().settle();
    let Some(entry) = settled else {
        return;
    };
    host.settled(fetch.key, entry);
    host.fetches().remove(fetch);
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
        self.settle();
    }
}

/// The leadership of a shared fetch. If it is dropped before a response, another subscriber becomes
/// the leader.
pub(crate) struct LeaderGuard {
    host: Arc<dyn FetchHost>,
    fetch: Arc<SharedFetch>,
}

impl LeaderGuard {
    pub(crate) fn open(self, head: Head, params: FetchParams, source: Box<dyn ErasedBody>) {
        self.fetch.open(head, params, source);
        settle(&*self.host, &self.fetch);
    }

    pub(crate) fn fail(self, end: FetchEnd) {
        self.fetch.fail(end);
        settle(&*self.host, &self.fetch);
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        self.fetch.abandon();
    }
}
