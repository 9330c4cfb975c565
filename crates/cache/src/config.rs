//! What every call needs to know, behind one `Arc`.

use std::{sync::Arc, time::Duration};

use tower_claude_core::event::{CacheDecision, Event, EventSink, emit};

use crate::{
    Entry, Key, LAYER, Store,
    flight::seat::{Flights, Home},
    handle::{Counters, count},
    request::policy::Policy,
};

#[derive(Clone)]
pub(crate) struct Config<T> {
    pub(crate) policy: Policy,
    pub(crate) ttl: Duration,
    pub(crate) stale_for: Duration,
    pub(crate) tool_use: bool,
    /// At least one.
    pub(crate) max_waiters: usize,
    pub(crate) entry_limit: usize,
    pub(crate) body_limit: usize,
    pub(crate) observers: EventSink,
    pub(crate) store: T,
    pub(crate) state: Arc<State>,
}

/// What all copies of the configuration share.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) flights: Flights,
    pub(crate) counters: Counters,
}

impl<T> Config<T> {
    /// Counts a decision and says it.
    pub(crate) fn decided(&self, decision: CacheDecision, because: &'static str) {
        let counters = &self.state.counters;
        count(match decision {
            CacheDecision::Hit => &counters.hits,
            CacheDecision::Miss => &counters.misses,
            CacheDecision::Stale => &counters.stale,
            CacheDecision::Joined => &counters.joined,
            CacheDecision::Stored => &counters.stored,
            CacheDecision::TakenOver => &counters.takeovers,
            _ => &counters.bypassed,
        });
        self.say(decision, because);
    }

    fn say(&self, decision: CacheDecision, because: &'static str) {
        let layer = LAYER;
        emit(
            &self.observers,
            &Event::Cache {
                layer,
                decision,
                because,
            },
        );
    }
}

impl<T: Store> Home for Config<T> {
    fn flights(&self) -> &Flights {
        &self.state.flights
    }

    fn settled(&self, key: Key, entry: Result<Entry, &'static str>) {
        match entry {
            Ok(entry) => {
                self.store.insert(key, entry);
                self.decided(CacheDecision::Stored, "");
            }
            Err(because) => self.say(CacheDecision::NotStored, because),
        }
    }

    fn cut_off(&self) {
        count(&self.state.counters.cut_off);
    }
}
