//! Who is out: one circuit for each model, one for each pool of limits. Synchronous; time and chance come in as
//! arguments.

mod ending;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::time::Instant;
use tower_claude_core::{
    Class,
    breaker::{Admission, Breaker, BreakerConfig, BreakerSnapshot, Permit, Transition, Verdict},
};

use self::ending::Ending;
use crate::policy::{Findings, Shut};

/// The most circuits kept of either kind. Only what has failed lately has one.
const MOST_CIRCUITS: usize = 1024;

/// A pool of limits: a credential (hashed), a rate group, and whether it is the group's fast one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pool {
    pub(crate) credential: u64,
    pub(crate) group: Arc<str>,
    pub(crate) fast: bool,
}

/// All circuits. What has not failed lately has none, so that a healthy call touches one atomic and no lock.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    /// Circuits in the tables.
    kept: AtomicUsize,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    models: HashMap<Arc<str>, Circuit>,
    pools: HashMap<Pool, Circuit>,
    /// Tells a circuit from one that was forgotten and made anew.
    next: u64,
}

#[derive(Debug)]
struct Circuit {
    number: u64,
    breaker: Breaker,
    why: Class,
}

/// The right to ask a target, to be settled. Nothing in it where nothing has failed.
#[derive(Debug, Default)]
pub(crate) struct Leave {
    model: Option<(u64, Permit)>,
    pool: Option<(u64, Permit)>,
}

impl Leave {
    /// Whether the call finds out if an outage is over.
    pub(crate) fn is_probe(&self) -> bool {
        let probes = |held: &Option<(u64, Permit)>| {
            held.as_ref().is_some_and(|(_, permit)| permit.is_probe())
        };
        probes(&self.model) || probes(&self.pool)
    }

    /// The part for the pool, taken out.
    pub(crate) const fn take_pool(&mut self) -> Self {
        Self {
            model: None,
            pool: self.pool.take(),
        }
    }
}

/// What became of the two circuits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turns {
    pub(crate) model: Option<Transition>,
    pub(crate) pool: Option<Transition>,
}

impl Outages {
    /// Whether nothing has failed lately.
    pub(crate) fn is_quiet(&self) -> bool {
        self.kept.load(Ordering::Acquire) == 0
    }

    /// Asks for the right to ask this model, whose limits are this pool's. The request leaves at once.
    pub(crate) fn admit(
        &self,
        model: &str,
        pool: &Pool,
        now: Instant,
        chance: f64,
    ) -> Result<Leave, Shut> {
        if self.is_quiet() {
            return Ok(Leave::default());
        }
        let mut tables = self.tables();
        let Tables { models, pools, .. } = &mut *tables;
        let mut of_pool = admit(pools.get_mut(pool), now, chance)?;
        match admit(models.get_mut(model), now, chance) {
            Ok(mut of_model) => {
                sent(models.get_mut(model), &mut of_model, now);
                sent(pools.get_mut(pool), &mut of_pool, now);
                Ok(Leave {
                    model: of_model,
                    pool: of_pool,
                })
            }
            Err(shut) => {
                if let (Some(circuit), Some((_, permit))) = (pools.get_mut(pool), of_pool) {
                    circuit
                        .breaker
                        .settle(now, permit, Verdict::Ignored, chance);
                }
                Err(shut)
            }
        }
    }

    /// Ends what was admitted. `why` is what is remembered of a failure.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn settle(
        &self,
        model: &Arc<str>,
        pool: &Pool,
        leave: Leave,
        findings: Findings,
        why: Class,
        config: &BreakerConfig,
        now: Instant,
        chance: f64,
    ) -> Turns {
        let Findings {
            model: of_model,
            group: of_pool,
        } = findings;
        let nothing_held = leave.model.is_none() && leave.pool.is_none();
        if nothing_held && !is_failure(of_model) && !is_failure(of_pool) {
            return Turns::default();
        }
        let mut tables = self.tables();
        let Tables {
            models,
            pools,
            next,
        } = &mut *tables;
        let mut end = Ending {
            why,
            config,
            now,
            chance,
            next,
        };
        let turns = Turns {
            model: end.settle(models, model, leave.model, of_model),
            pool: end.settle(pools, pool, leave.pool, of_pool),
        };
        let kept = tables.models.len() + tables.pools.len();
        self.kept.store(kept, Ordering::Release);
        turns
    }

    /// All circuits of models.
    pub(crate) fn models(&self, now: Instant) -> Vec<(Arc<str>, BreakerSnapshot, Class)> {
        let tables = self.tables();
        let all = tables.models.iter();
        all.map(|(model, circuit)| (model.clone(), circuit.breaker.snapshot(now), circuit.why))
            .collect()
    }

    /// All circuits of pools, without saying whose.
    pub(crate) fn pools(&self, now: Instant) -> Vec<(Arc<str>, BreakerSnapshot)> {
        let tables = self.tables();
        let all = tables.pools.iter();
        all.map(|(pool, circuit)| (pool.group.clone(), circuit.breaker.snapshot(now)))
            .collect()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn is_failure(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Failure { .. } | Verdict::Fatal { .. })
}

fn admit(
    circuit: Option<&mut Circuit>,
    now: Instant,
    chance: f64,
) -> Result<Option<(u64, Permit)>, Shut> {
    let Some(circuit) = circuit else {
        return Ok(None);
    };
    match circuit.breaker.admit(now, chance) {
        Admission::Pass(permit) => Ok(Some((circuit.number, permit))),
        Admission::Rejected { retry_after, .. } => Err(Shut {
            until: retry_after.and_then(|wait| now.checked_add(wait)),
            why: circuit.why,
        }),
    }
}

fn sent(circuit: Option<&mut Circuit>, held: &mut Option<(u64, Permit)>, now: Instant) {
    if let (Some(circuit), Some((_, permit))) = (circuit, held) {
        circuit.breaker.sent(now, permit);
    }
}
