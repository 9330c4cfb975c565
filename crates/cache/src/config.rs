//! The settings and the shared state of a layer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tower_claude_core::event::{CacheDecision, Event, EventSink, InactiveNotice, emit};

use crate::{
    coalesce::shared_fetch::{FetchHost, FetchMap},
    request::{
        key::Key,
        policy::{NO_CREDENTIAL, NO_ENDPOINT, Policy},
    },
    store::{Store, entry::Entry},
};

/// The layer's name in events and headers.
pub(crate) const LAYER: &str = "cache";

/// The settings, store and state of a layer, which all its services share.
#[derive(Clone)]
pub(crate) struct Config<T> {
    pub(crate) settings: Settings,
    pub(crate) store: T,
    pub(crate) state: Arc<State>,
}

/// The settings of a layer, without its store.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    pub(crate) ttl: Duration,
    pub(crate) stale_for: Duration,
    pub(crate) tool_use: bool,
    /// At least one.
    pub(crate) max_waiters: usize,
    pub(crate) entry_limit: usize,
    pub(crate) body_limit: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) store_timeout: Duration,
    pub(crate) observers: EventSink,
}

/// The fetches and counters of a layer.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) fetches: FetchMap,
    pub(crate) counters: Counters,
    /// Emitted if a request asks for the cache at an unknown endpoint.
    pub(crate) other_endpoint: InactiveNotice,
    /// Emitted if a request asks for the cache without a known credential.
    pub(crate) no_credential: InactiveNotice,
}

/// The counters behind a [`CacheSnapshot`](crate::CacheSnapshot).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) joined: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) bypassed: AtomicU64,
    pub(crate) takeovers: AtomicU64,
    pub(crate) lagged: AtomicU64,
}

impl<T> Config<T> {
    /// Counts a bypass and emits its event, with a notice if the cause is the set-up of the caller.
    pub(crate) fn bypass(&self, because: &'static str) {
        self.record(CacheDecision::Bypass, because);
        let notice = match because {
            NO_ENDPOINT => &self.state.other_endpoint,
            NO_CREDENTIAL => &self.state.no_credential,
            _ => return,
        };
        notice.emit(&self.settings.observers, LAYER, because);
    }

    /// Counts a decision and emits its event.
    pub(crate) fn record(&self, decision: CacheDecision, because: &'static str) {
        let counters = &self.state.counters;
        let counter = match decision {
            CacheDecision::Hit => Some(&counters.hits),
            CacheDecision::Miss => Some(&counters.misses),
            CacheDecision::Stale => Some(&counters.stale),
            CacheDecision::Joined => Some(&counters.joined),
            CacheDecision::Stored => Some(&counters.stored),
            CacheDecision::TakenOver => Some(&counters.takeovers),
            CacheDecision::Bypass => Some(&counters.bypassed),
            _ => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let event = Event::Cache {
            layer: LAYER,
            decision,
            because,
        };
        emit(&self.settings.observers, &event);
    }
}

impl<T: Store> FetchHost for Config<T> {
    fn fetches(&self) -> &FetchMap {
        &self.state.fetches
    }

    fn settled(&self, key: Key, entry: Result<Entry, &'static str>) {
        match entry {
            Ok(entry) => {
                self.store.insert(key, entry);
                self.record(CacheDecision::Stored, "");
            }
            Err(because) => self.record(CacheDecision::NotStored, because),
        }
    }

    fn lagged(&self) {
        let lagged = &self.state.counters.lagged;
        lagged.fetch_add(1, Ordering::Relaxed);
    }
}
