//! A handle to inspect a layer.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{config::Config, store::Store};

/// A handle to one [`CacheLayer`](crate::CacheLayer) and all services made from it. Cheap to clone.
pub struct CacheHandle<T> {
    config: Arc<Config<T>>,
}

/// The state of a layer at one moment. The counters start at zero when the layer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheSnapshot {
    /// Requests answered with a fresh stored response.
    pub hits: u64,
    /// Calls to the inner service that fill the cache.
    pub misses: u64,
    /// Requests answered with a stale stored response in place of an error.
    pub stale: u64,
    /// Requests answered with the response to an equal request in flight.
    pub joined: u64,
    /// Responses stored.
    pub stored: u64,
    /// Requests with a cache marker that could not use the cache, because of `no-store`, a body
    /// without a key, or too many waiters.
    pub bypassed: u64,
    /// Calls made because the previous leader was cancelled before it got a response.
    pub takeovers: u64,
    /// Readers that fell so far behind the fastest reader that their next frame was no longer kept.
    pub lagged: u64,
    /// Calls in flight that equal requests may join.
    pub in_flight: u64,
    /// Bytes stored now, as the store counts them.
    pub bytes: u64,
}

impl<T: Store> CacheHandle<T> {
    pub(crate) const fn new(config: Arc<Config<T>>) -> Self {
        Self { config }
    }

    /// Returns the current state.
    #[must_use]
    pub fn snapshot(&self) -> CacheSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = &self.config.state;
        let counters = &state.counters;
        CacheSnapshot {
            hits: read(&counters.hits),
            misses: read(&counters.misses),
            stale: read(&counters.stale),
            joined: read(&counters.joined),
            stored: read(&counters.stored),
            bypassed: read(&counters.bypassed),
            takeovers: read(&counters.takeovers),
            lagged: read(&counters.lagged),
            in_flight: state.fetches.len() as u64,
            bytes: self.config.store.bytes(),
        }
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &T {
        &self.config.store
    }
}

impl<T> Clone for CacheHandle<T> {
    fn clone(&self) -> Self {
        let config = self.config.clone();
        Self { config }
    }
}

impl<T> fmt::Debug for CacheHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheHandle").finish_non_exhaustive()
    }
}
