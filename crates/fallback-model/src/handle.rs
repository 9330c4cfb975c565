//! The handle of a layer, and the state that it shows.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tower_claude_core::Class;

use crate::{
    chains::RateGroup,
    cooldown::{CoolDownSnapshot, CoolDownTable},
};

/// The state that all clones of a layer share.
#[derive(Debug, Default)]
pub(crate) struct SharedState {
    /// The models that failed lately, by canonical id.
    pub(crate) models: Arc<CoolDownTable<Arc<str>>>,
    /// The rate groups that answered with 429 lately.
    pub(crate) groups: Arc<CoolDownTable<RateGroup>>,
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
    /// All stand-ins, and all other models that failed lately, by name.
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
        let mut models: Vec<Arc<str>> = self.stand_ins.to_vec();
        models.extend(failed.iter().map(|(model, ..)| model.clone()));
        models.extend(tallies.models.keys().cloned());
        models.sort_unstable();
        models.dedup();
        let targets = models.into_iter().map(|model| {
            let state = failed.iter().find(|(of, ..)| *of == model);
            let tally = tallies.models.get(&model).copied().unwrap_or_default();
            TargetSnapshot {
                cool_down: state.map(|(_, cool_down, _)| *cool_down),
                why: state.map(|(.., why)| *why),
                served: tally.served,
                failed: tally.failed,
                model,
            }
        });
        FallbackSnapshot {
            targets: targets.collect(),
            pools: pools
                .map(|(key, cool_down, _)| PoolSnapshot {
                    group: key.group,
                    cool_down,
                })
                .collect(),
            exhausted: tallies.exhausted,
        }
    }
}
