//! Runner of all tasks on two threads, the longest first.

use std::{
    cmp::Reverse,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    client::StrategyKind,
    scenario::Scenario,
    setup::Setup,
    simulation::{Simulation, Tally},
};

const THREADS: usize = 2;

/// Tallies, indexed by scenario, line, and seed with scope.
pub(crate) type TallyTable = Vec<Vec<Vec<Tally>>>;

struct Task {
    place: (usize, usize),
    setup: Setup,
    weight: u64,
}

/// Runs every line of every scenario with every seed.
pub(crate) fn run(scenarios: &[Scenario], seeds: &[u64]) -> TallyTable {
    let mut tasks = Vec::new();
    for (row, scenario) in scenarios.iter().enumerate() {
        for (line, wanted) in scenario.lines.iter().enumerate() {
            for seed in seeds {
                let mut setup = wanted.setup.clone();
                setup.seed = *seed;
                tasks.extend(setup.of_scopes().map(|setup| Task {
                    place: (row, line),
                    weight: weight(&setup),
                    setup,
                }));
            }
        }
    }
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.sort_by_key(|index| Reverse(tasks[*index].weight));
    let results: Vec<Mutex<Option<Tally>>> = tasks.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tally = Simulation::new(tasks[*index].setup.clone()).run();
                    let mut slot = results[*index]
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    *slot = Some(tally);
                }
            });
        }
    });
    let mut all: TallyTable = scenarios
        .iter()
        .map(|scenario| vec![Vec::new(); scenario.lines.len()])
        .collect();
    for (task, result) in tasks.iter().zip(results) {
        let (row, line) = task.place;
        let tally = result.into_inner().unwrap_or_else(PoisonError::into_inner);
        all[row][line].extend(tally);
    }
    all
}

/// Returns an estimate of the work of a run.
fn weight(setup: &Setup) -> u64 {
    let attempts = match setup.clients.first().map(|party| party.kind) {
        Some(StrategyKind::SdkDefault) => 50,
        Some(StrategyKind::HeaderNaive) => 20,
        _ => 5,
    };
    setup.end() / 1_000_000_000 * setup.quota.0[1] / 1_000 * attempts
}
