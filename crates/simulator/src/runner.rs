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
    let results = in_parallel(&order, |index| {
        Simulation::new(tasks[*index].setup.clone()).run()
    });
    let mut tallies: Vec<Option<Tally>> = tasks.iter().map(|_| None).collect();
    for (index, tally) in order.into_iter().zip(results) {
        tallies[index] = Some(tally);
    }
    let mut all: TallyTable = scenarios
        .iter()
        .map(|scenario| vec![Vec::new(); scenario.lines.len()])
        .collect();
    for (task, tally) in tasks.iter().zip(tallies) {
        let (row, line) = task.place;
        all[row][line].extend(tally);
    }
    all
}

/// Calls `work` for all tasks on two threads, and returns its results in the order of the tasks.
pub(crate) fn in_parallel<T: Sync, R: Send>(tasks: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let results: Vec<Mutex<Option<R>>> = tasks.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(index) else {
                        break;
                    };
                    let result = work(task);
                    let mut slot = results[index]
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    *slot = Some(result);
                }
            });
        }
    });
    let result = |slot: Mutex<Option<R>>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().filter_map(result).collect()
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
