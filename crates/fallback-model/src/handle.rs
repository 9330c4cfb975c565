//! The handle of a layer, and the state that it shows.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicBool},
    time::Duration,
};

use tokio::time::Instant;
use tower_claude_core::{Class, event::InactiveNotice};

use crate::{
    chains::{HostModel, RateGroup},
    cooldown::{CoolDownSnapshot, CoolDownTable},
};

/// The most names that are known to have been served although the catalog does not list them.
const MAX_SERVED_NAMES: usize = 1024;

/// The state that all clones of a layer share.
#[derive(Debug, Default)]
pub(crate) struct SharedState {
    /// The models that failed lately, by host.
    pub(crate) models: Arc<CoolDownTable<HostModel>>,
    /// The rate groups that answered with 429 lately.
    pub(crate) groups: Arc<CoolDownTable<RateGroup>>,
    /// Emitted if a model is requested at an endpoint without fallback.
    pub(crate) inactive: InactiveNotice,
    /// True if the configured names that may be mistakes were reported.
    pub(crate) names_reported: AtomicBool,
    /// The requested names that are not in the catalog and that a model has served.
    served: RwLock<HashSet<Box<str>>>,
    tallies: Mutex<TallyTable>,
}

/// The counts of stand-ins. Only fallbacks count, so that healthy calls share nothing.
#[derive(Debug, Default)]
struct TallyTable {
    /// By canonical id. Only configured models stand in for others, so the table stays small.
    models: HashMap<Arc<str>, Tally>,
    exhausted: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    served: u64,
    failed: u64,
    /// The least time of recent responses, of streams and of whole ones.
    min_latency: [Option<Duration>; 2],
}

impl SharedState {
    /// Returns true if nothing has failed lately. Takes no lock.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.models.is_empty() && self.groups.is_empty()
    }

    /// Records that a model of this name, which is not in the catalog, has served a request. At the
    /// limit another name is forgotten.
    pub(crate) fn set_served(&self, name: &str) {
        if name.is_empty() || self.has_served(name) {
            return;
        }
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        if served.len() >= MAX_SERVED_NAMES
            && let Some(other) = served.iter().next().cloned()
        {
            served.remove(&other);
        }
        served.insert(name.into());
    }

    /// Returns true if a model of this name has served a request.
    pub(crate) fn has_served(&self, name: &str) -> bool {
        let served = self.served.read();
        served
            .unwrap_or_else(PoisonError::into_inner)
            .contains(name)
    }

    /// Counts a response of a stand-in, and the time it took.
    pub(crate) fn count_success(&self, id: &Arc<str>, streams: bool, took: Duration) {
        let mut tallies = self.tallies();
        let tally = tallies.models.entry(id.clone()).or_default();
        tally.served += 1;
        let least = &mut tally.min_latency[usize::from(streams)];
        // Down at once and up slowly: the lower edge of recent times.
        *least = Some(match *least {
            Some(before) if before < took => before + (took - before) / 16,
            _ => took,
        });
    }

    /// Counts a failure of a stand-in.
    pub(crate) fn count_failure(&self, id: &Arc<str>) {
        self.tallies().models.entry(id.clone()).or_default().failed += 1;
    }

    /// Counts a call that failed at every model.
    pub(crate) fn count_exhausted(&self) {
        self.tallies().exhausted += 1;
    }

    /// Returns the least time of a model's recent responses, or zero if it is not known.
    pub(crate) fn min_latency(&self, id: &str, streams: bool) -> Duration {
        let tallies = self.tallies();
        let known = tallies.models.get(id);
        known
            .and_then(|tally| tally.min_latency[usize::from(streams)])
            .unwrap_or_default()
    }

    fn tallies(&self) -> MutexGuard<'_, TallyTable> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle to inspect one [`FallbackModelLayer`](crate::FallbackModelLayer) and all services made
/// from it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FallbackHandle {
    stand_ins: Arc<[Arc<str>]>,
    shared: Arc<SharedState>,
}

/// The state of a layer at one moment. Counts start when the layer is made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FallbackSnapshot {
    /// All stand-ins, and all other models that failed lately, by name. A model that failed at
    /// several hosts has an entry for each.
    pub targets: Vec<TargetSnapshot>,
    /// The rate groups that answered with 429 lately, with an entry for each credential.
    pub pools: Vec<PoolSnapshot>,
    /// The number of calls that failed although a fallback was tried or considered.
    pub exhausted: u64,
}

/// The state of one model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TargetSnapshot {
    /// The canonical id.
    pub model: Arc<str>,
    /// The host at which the model has failed. Empty if it has not failed lately, or if the
    /// requests name no host.
    pub host: Arc<str>,
    /// The cool-down. `None` if the model has not failed lately.
    pub cool_down: Option<CoolDownSnapshot>,
    /// The last failure, if the model has failed lately.
    pub why: Option<Class>,
    /// The number of calls that it served in place of another model.
    pub served: u64,
    /// The number of calls that it failed in place of another model.
    pub failed: u64,
}

impl TargetSnapshot {
    /// Returns true if requests skip the model, except for probes.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.cool_down
            .is_some_and(|state| state.remaining.is_some())
    }
}

/// The state of one rate group of a credential.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PoolSnapshot {
    /// The rate group.
    pub group: Arc<str>,
    /// The host. Empty if the requests name none.
    pub host: Arc<str>,
    /// The cool-down.
    pub cool_down: CoolDownSnapshot,
}

impl FallbackHandle {
    pub(crate) fn new(stand_ins: Vec<Arc<str>>, shared: Arc<SharedState>) -> Self {
        Self {
            stand_ins: stand_ins.into(),
            shared,
        }
    }

    /// Returns the present state.
    #[must_use]
    pub fn snapshot(&self) -> FallbackSnapshot {
        let now = Instant::now();
        let failed = self.shared.models.snapshot(now);
        let pools = self.shared.groups.snapshot(now).into_iter();
        let tallies = self.shared.tallies();
        let healthy = self.stand_ins.iter().chain(tallies.models.keys());
        let healthy = healthy.filter(|id| failed.iter().all(|(key, ..)| key.id != **id));
        let mut models: Vec<_> = healthy
            .map(|id| (id.clone(), Arc::default(), None))
            .collect();
        models.extend(failed.iter().map(|(key, cool_down, why)| {
            (key.id.clone(), key.host.clone(), Some((*cool_down, *why)))
        }));
        models.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        models.dedup_by(|a, b| (&a.0, &a.1) == (&b.0, &b.1));
        let targets = models.into_iter().map(|(model, host, state)| {
            let tally = tallies.models.get(&model).copied().unwrap_or_default();
            TargetSnapshot {
                cool_down: state.map(|(cool_down, _)| cool_down),
                why: state.map(|(_, why)| why),
                served: tally.served,
                failed: tally.failed,
                model,
                host,
            }
        });
        FallbackSnapshot {
            targets: targets.collect(),
            pools: pools
                .map(|(key, cool_down, _)| PoolSnapshot {
                    group: key.group,
                    host: key.host,
                    cool_down,
                })
                .collect(),
            exhausted: tallies.exhausted,
        }
    }
}
