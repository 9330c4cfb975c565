//! State that a store and its driver share.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tower_claude_cache::Key;

use crate::{config::RedisConfig, error::RedisError};

/// Misses whose time is remembered.
const MISSES: usize = 4096;
/// Time without a failure after which the store counts as usable again.
const QUIET: Duration = Duration::from_secs(5);

/// State that a store and its driver share.
pub(crate) struct Shared {
    pub(crate) config: RedisConfig,
    /// Value of this process's locks.
    pub(crate) token: [u8; 16],
    pub(crate) counters: Counters,
    /// The times of misses whose response is to come.
    misses: Mutex<HashMap<Key, Instant>>,
}

/// Counters of a [`RedisStore`](crate::RedisStore), since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStoreSnapshot {
    /// Responses that were not in memory and were found in Redis.
    pub hits: u64,
    /// Lookups in Redis that found no response.
    pub misses: u64,
    /// Lookups and writes that failed, because Redis did not answer or answered with an error.
    pub failures: u64,
    /// Values that were damaged or foreign.
    pub invalid: u64,
    /// Responses written to Redis.
    pub written: u64,
    /// Lookups and writes that were left out, because the driver was behind, or because the
    /// response was larger than the limit.
    pub dropped: u64,
    /// Lookups that waited for another process.
    pub waited: u64,
}

impl Shared {
    pub(crate) fn new(config: RedisConfig) -> Self {
        Self {
            config,
            token: fastrand::u128(..).to_le_bytes(),
            counters: Counters::default(),
            misses: Mutex::default(),
        }
    }

    /// Records a miss, after which the caller makes the call.
    pub(crate) fn began_miss(&self, key: Key) {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        if misses.len() >= MISSES {
            // Calls that failed leave their time behind.
            misses.clear();
        }
        misses.insert(key, Instant::now());
    }

    /// Returns the time since the miss, which the call took.
    pub(crate) fn ended_miss(&self, key: &Key) -> Duration {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        misses
            .remove(key)
            .map_or(Duration::ZERO, |began| began.elapsed())
    }
}

/// The counters of a store, and the time of its last failure.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    failures: AtomicU64,
    pub(crate) invalid: AtomicU64,
    pub(crate) written: AtomicU64,
    dropped: AtomicU64,
    pub(crate) waited: AtomicU64,
    failed_at: Mutex<Option<Instant>>,
}

impl Counters {
    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> RedisStoreSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RedisStoreSnapshot {
            hits: read(&self.hits),
            misses: read(&self.misses),
            failures: read(&self.failures),
            invalid: read(&self.invalid),
            written: read(&self.written),
            dropped: read(&self.dropped),
            waited: read(&self.waited),
        }
    }

    /// Two lines for each outage at most, also if calls succeed in between.
    pub(crate) fn record(&self, error: Option<&RedisError>) {
        let now = Instant::now();
        let mut failed_at = self
            .failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match (error, *failed_at) {
            (Some(error), before) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                *failed_at = Some(now);
                drop(failed_at);
                if before.is_none() {
                    tracing::warn!(
                        target: "tower_claude",
                        layer = "cache",
                        decision = "store_unavailable",
                        because = error.cause(),
                        "the cache goes on in memory: {error}"
                    );
                }
            }
            (None, Some(before)) if now.saturating_duration_since(before) >= QUIET => {
                *failed_at = None;
                drop(failed_at);
                tracing::info!(
                    target: "tower_claude",
                    layer = "cache",
                    decision = "store_available",
                    "the cache uses Redis again"
                );
            }
            _ => {}
        }
    }
}
