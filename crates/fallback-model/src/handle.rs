//! Looking at a layer from outside.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tower_claude_core::{Class, breaker::BreakerSnapshot, breaker::BreakerState};

use crate::outage::Outages;

/// What all clones of a layer share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) outages: Outages,
    tallies: Mutex<Tallies>,
}

/// What only fallbacks count, so that a healthy call shares nothing.
#[derive(Debug, Default)]
struct Tallies {
    /// By model id. Only configured models stand in for others, so that the table stays small.
    models: HashMap<Arc<str>, Tally>,
    exhausted: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    served: u64,
    failed: u64,
    /// The least time to an answer, streamed and whole.
    quickest: [Option<Duration>; 2],
}

impl Shared {
    /// A stand-in has answered, after so much time.
    pub(crate) fn served(&self, id: &Arc<str>, streams: bool, took: Duration) {
        let mut tallies = self.tallies();
        let tally = tallies.models.entry(id.clone()).or_default();
        tally.served += 1;
        let quickest = &mut tally.quickest[usize::from(streams)];
        // Down at once, up slowly: the lower edge of what it takes lately.
        *quickest = Some(match *quickest {
            Some(before) if before < took => before + (took - before) / 16,
            _ => took,
        });
    }

    /// A stand-in has failed.
    pub(crate) fn failed(&self, id: &Arc<str>) {
        self.tallies().models.entry(id.clone()).or_default().failed += 1;
    }

    /// A call failed at every model.
    pub(crate) fn exhausted(&self) {
        self.tallies().exhausted += 1;
    }

    /// The least time in which a model has lately answered; zero when that is not known.
    pub(crate) fn quickest(&self, id: &str, streams: bool) -> Duration {
        let tallies = self.tallies();
        let known = tallies.models.get(id);
        known
            .and_then(|tally| tally.quickest[usize::from(streams)])
            .unwrap_or_default()
    }

    fn tallies(&self) -> MutexGuard<'_, Tallies> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A view of one [`FallbackModelLayer`](crate::FallbackModelLayer) and all services made from it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FallbackHandle {
    stand_ins: Arc<[Arc<str>]>,
    shared: Arc<Shared>,
}

/// The state of a layer at one moment. Counts are since the layer was made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FallbackSnapshot {
    /// Every model that stands in for others, and every other that has failed lately; by name.
    pub targets: Vec<TargetSnapshot>,
    /// The pools of limits that have answered with 429 lately, one entry for each credential.
    pub pools: Vec<PoolSnapshot>,
    /// Calls that failed although another model was, or might have been, asked.
    pub exhausted: u64,
}

/// One model, as a target of requests.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TargetSnapshot {
    /// Its canonical id.
    pub model: Arc<str>,
    /// Its circuit; `None` when it has not failed lately.
    pub circuit: Option<BreakerSnapshot>,
    /// How it failed last, when it has a circuit.
    pub why: Option<Class>,
    /// Calls that it served in the place of another model.
    pub served: u64,
    /// Calls that it failed in the place of another model.
    pub failed: u64,
}

impl TargetSnapshot {
    /// Whether requests pass it over now.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.circuit.is_some_and(|circuit| {
            !matches!(
                circuit.state,
                BreakerState::Closed | BreakerState::Ramping | BreakerState::ForcedClosed
            )
        })
    }
}

/// One pool of limits.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PoolSnapshot {
    /// The rate group.
    pub group: Arc<str>,
    /// Its circuit.
    pub circuit: BreakerSnapshot,
}

impl FallbackHandle {
    pub(crate) fn new(stand_ins: Vec<Arc<str>>, shared: Arc<Shared>) -> Self {
        Self {
            stand_ins: stand_ins.into(),
            shared,
        }
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> FallbackSnapshot {
        let now = Instant::now();
        let circuits = self.shared.outages.models(now);
        let tallies = self.shared.tallies();
        let mut models: Vec<Arc<str>> = self.stand_ins.to_vec();
        models.extend(circuits.iter().map(|(model, ..)| model.clone()));
        models.extend(tallies.models.keys().cloned());
        models.sort_unstable();
        models.dedup();
        let targets = models.into_iter().map(|model| {
            let circuit = circuits.iter().find(|(of, ..)| *of == model);
            let tally = tallies.models.get(&model).copied().unwrap_or_default();
            TargetSnapshot {
                circuit: circuit.map(|(_, circuit, _)| *circuit),
                why: circuit.map(|(.., why)| *why),
                served: tally.served,
                failed: tally.failed,
                model,
            }
        });
        let pools = self.shared.outages.pools(now).into_iter();
        FallbackSnapshot {
            targets: targets.collect(),
            pools: pools
                .map(|(group, circuit)| PoolSnapshot { group, circuit })
                .collect(),
            exhausted: tallies.exhausted,
        }
    }
}
