//! Looking at a layer from outside.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{Store, config::Config};

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) joined: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) bypassed: AtomicU64,
    pub(crate) takeovers: AtomicU64,
    pub(crate) cut_off: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A view of one [`CacheLayer`](crate::CacheLayer) and all services made from it. Cheap to clone.
pub struct CacheHandle<T> {
    config: Arc<Config<T>>,
}

/// The state of a layer at one moment. Counts are since the layer was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheSnapshot {
    /// Requests answered from the store while the answer was fresh.
    pub hits: u64,
    /// Calls to the inner service made to fill the cache.
    pub misses: u64,
    /// Requests answered by a stored answer past its time, in place of an error.
    pub stale: u64,
    /// Requests that got the answer to another one under way.
    pub joined: u64,
    /// Answers stored.
    pub stored: u64,
    /// Requests that asked for the cache and passed it by: `no-store`, a body without a key, too many waiting.
    pub bypassed: u64,
    /// Calls made because the one who made the first was gone before there was an answer.
    pub takeovers: u64,
    /// Readers that fell so far behind that what they were to read was not kept any more.
    pub cut_off: u64,
    /// Calls under way that others may join.
    pub flights: u64,
    /// Bytes stored now, as the store counts them.
    pub bytes: u64,
}

impl<T: Store> CacheHandle<T> {
    pub(crate) const fn new(config: Arc<Config<T>>) -> Self {
        Self { config }
    }

    /// The state now.
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
            cut_off: read(&counters.cut_off),
            flights: state.flights.len() as u64,
            bytes: self.config.store.bytes(),
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &T {
        &self.config.store
    }
}

impl<T> Clone for CacheHandle<T> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
        }
    }
}

impl<T> fmt::Debug for CacheHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheHandle").finish_non_exhaustive()
    }
}
