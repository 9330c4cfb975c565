//! The state that a layer shares with its services.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::{sync::Notify, time::Instant};
use tower_claude_core::{
    event::{Event, EventSink, emit},
    toolkit::SavedRequest,
};
use tower_claude_wire::{Money, Usage};

use crate::{
    kept::{Kept, KeptPrefixes},
    miss::MissCause,
    options::PlannerOptions,
    outline::Outline,
    planner::{GateState, Planner, Started},
    rules::CacheRules,
    snapshot::PromptCacheSnapshot,
    usage::CacheUsage,
};

/// The name in events and logs.
pub(crate) const LAYER: &str = "prompt-cache";

/// The settings of a layer.
#[derive(Clone, Default)]
pub(crate) struct Config {
    pub(crate) options: PlannerOptions,
    /// Rules by the name of the model in the request, for models that the catalog does not list.
    pub(crate) rules: HashMap<Arc<str>, CacheRules>,
    pub(crate) events: EventSink,
    pub(crate) body_limit: Option<usize>,
    /// True if the classifier is the user's, and so overrules the class of an inner layer.
    pub(crate) is_own_classifier: bool,
    /// Notified when the time of the next renewal changes, and at the end. Present if prefixes are
    /// kept alive.
    pub(crate) renewals: Option<Arc<Notify>>,
}

/// The settings and the state, shared by all calls.
pub(crate) struct Shared {
    pub(crate) config: Config,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    planner: Planner,
    /// The wakers of requests that wait at the gate.
    wakers: HashMap<u64, Waker, RandomState>,
    kept: KeptPrefixes,
    totals: PromptCacheSnapshot,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let state = State {
            planner: Planner::new(config.options),
            ..State::default()
        };
        Arc::new(Self {
            config,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans the markers of a request.
    pub(crate) fn start(&self, outline: &mut Outline, rules: &CacheRules, now: Instant) -> Started {
        // The extensions of a kept request may be dropped only after the lock.
        let mut used_again = Vec::new();
        let mut state = self.state();
        if !state.kept.is_empty() {
            for block in outline.blocks() {
                used_again.extend(state.kept.remove(block.prefix));
            }
        }
        let started = state.planner.start(outline, rules, now);
        let totals = &mut state.totals;
        totals.requests += u64::from(started.id.is_some());
        totals.marked += u64::from(!started.plan.markers.is_empty());
        totals.held += u64::from(started.gate != GateState::Pass);
        drop(state);
        started
    }

    /// Limits the wait of a request at the gate.
    pub(crate) fn limit_hold(&self, id: u64, until: Instant) {
        self.state().planner.limit_hold(id, until);
    }

    /// Records that no limiter keeps the request any longer.
    pub(crate) fn on_sent(&self, id: u64, now: Instant) {
        self.state().planner.on_sent(id, now);
    }

    /// Returns the state of a request at the gate, and keeps the waker if it waits.
    pub(crate) fn poll_gate(&self, id: u64, now: Instant, waker: &Waker) -> GateState {
        // A waker may own a task, whose drop must not find the state locked.
        let (gate, _old) = {
            let mut state = self.state();
            let gate = state.planner.poll_gate(id, now);
            let waits = gate != GateState::Pass;
            let old = waits.then(|| state.wakers.insert(id, waker.clone()));
            (gate, old)
        };
        gate
    }

    /// Counts the wait of a request that is sent now.
    pub(crate) fn end_wait(&self, id: u64, waited: Duration) {
        let _waker = {
            let mut state = self.state();
            state.totals.waited += waited;
            state.wakers.remove(&id)
        };
    }

    /// Calls the planner, and wakes the requests that it releases.
    pub(crate) fn release(&self, decide: impl FnOnce(&mut Planner) -> Vec<u64>) {
        let wakers: Vec<Waker> = {
            let mut state = self.state();
            let released = decide(&mut state.planner);
            let wakers = released.iter().filter_map(|id| state.wakers.remove(id));
            wakers.collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Reads or changes the prefixes that are kept alive.
    pub(crate) fn kept<T>(&self, change: impl FnOnce(&mut KeptPrefixes) -> T) -> T {
        change(&mut self.state().kept)
    }

    /// Records the usage of a renewal that was sent at `since`.
    pub(crate) fn on_renewed(&self, hash: u64, kept: &Kept, usage: &Usage, since: Instant) {
        let Some(usage) = cache_usage(usage) else {
            return;
        };
        // It costs what it uses, and saves nothing itself.
        let rates = &kept.rules.rates;
        let cost = usage.cost(rates);
        {
            let mut state = self.state();
            state.planner.on_renewed(hash, usage.read, since);
            state.totals.renewals += 1;
            state.totals.saved -= cost;
        }
        self.report(&kept.model, &usage, -cost, None);
    }

    fn report(&self, model: &str, usage: &CacheUsage, saved: Money, miss: Option<MissCause>) {
        emit(
            &self.config.events,
            &Event::PromptCache {
                layer: LAYER,
                model,
                plain: usage.plain,
                read: usage.read,
                written: usage.written_5m.saturating_add(usage.written_1h),
                saved,
                miss: miss.map(MissCause::as_str),
                block: miss.and_then(|miss| miss.block()),
            },
        );
    }

    /// Records the end of a request. `saved` is the request with its markers, if the prefix may be
    /// kept alive.
    pub(crate) fn end(
        &self,
        id: u64,
        model: &Arc<str>,
        saved: Option<(Arc<SavedRequest>, CacheRules)>,
        usage: &Usage,
        now: Instant,
    ) {
        let Some(usage) = cache_usage(usage) else {
            self.forget(id, now);
            return;
        };
        let learned = {
            let mut state = self.state();
            let State {
                planner, totals, ..
            } = &mut *state;
            let learned = planner.on_usage(id, &usage, now);
            if let Some(learned) = &learned {
                totals.add(&usage, learned);
            }
            learned
        };
        let Some(learned) = learned else {
            return;
        };
        self.report(model, &usage, learned.saved, learned.miss);
        if let (Some((hash, sent_at, time)), Some((request, rules))) = (learned.keep_alive, saved) {
            let kept = Kept::new(request, rules, model.clone(), sent_at, time);
            drop(self.kept(|all| all.insert(hash, kept)));
            if let Some(renewals) = &self.config.renewals {
                renewals.notify_one();
            }
        }
        if let Some((boundary, saved)) = learned.switched_off {
            let event = Event::PromptCacheOff {
                layer: LAYER,
                boundary: boundary.as_str(),
                saved,
            };
            emit(&self.config.events, &event);
        }
    }

    /// Discards a request whose usage will not be known, and releases its followers.
    pub(crate) fn forget(&self, id: u64, now: Instant) {
        let waker = self.state().wakers.remove(&id);
        self.release(|planner| planner.on_dropped(id, now));
        drop(waker);
    }

    /// Returns the counters and the classes.
    pub(crate) fn snapshot(&self, now: Instant) -> PromptCacheSnapshot {
        let state = self.state();
        PromptCacheSnapshot {
            waiting: state.planner.waiting(),
            kept_alive: state.kept.len(),
            known_prefixes: state.planner.known_prefixes(),
            classes: state.planner.classes(now),
            ..state.totals.clone()
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Ends the driver.
        if let Some(renewals) = &self.config.renewals {
            renewals.notify_one();
        }
    }
}

/// Returns the input of a usage by its price. `None` if the usage does not report it.
fn cache_usage(usage: &Usage) -> Option<CacheUsage> {
    let plain = usage.input_tokens?;
    let written = usage.cache_creation_input_tokens.unwrap_or(0);
    let hour = usage
        .cache_creation_1h_input_tokens
        .unwrap_or(0)
        .min(written);
    Some(CacheUsage {
        plain,
        read: usage.cache_read_input_tokens.unwrap_or(0),
        written_5m: written - hour,
        written_1h: hour,
    })
}
