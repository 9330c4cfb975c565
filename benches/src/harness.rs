//! Rounds of short batches, all cases interleaved, so that a noisy neighbour disturbs all alike.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Runs this many calls in a row.
pub(crate) type Worker = Box<dyn FnMut(u64) + Send>;

/// Something to measure.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Items that one call handles, e.g. events of a stream.
    pub(crate) items: u64,
    /// Calls that are enough to count instructions; none are counted at zero.
    pub(crate) probe: u64,
    make: Box<dyn Fn() -> Worker>,
}

impl Case {
    /// All workers that `make` gives share the state under test.
    pub(crate) fn new(name: impl Into<String>, make: impl Fn() -> Worker + 'static) -> Self {
        Self {
            name: name.into(),
            items: 1,
            probe: 500,
            make: Box::new(make),
        }
    }

    /// A synchronous function without state.
    pub(crate) fn of<R>(
        name: impl Into<String>,
        call: impl Fn() -> R + Copy + Send + 'static,
    ) -> Self {
        Self::new(name, move || {
            Box::new(move |calls| {
                for _ in 0..calls {
                    std::hint::black_box(call());
                }
            })
        })
    }

    pub(crate) const fn with_items(mut self, items: u64) -> Self {
        self.items = items;
        self
    }

    /// Zero where start and warm-up take a different number of instructions each time.
    pub(crate) const fn with_probe(mut self, calls: u64) -> Self {
        self.probe = calls;
        self
    }

    pub(crate) fn worker(&self) -> Worker {
        (self.make)()
    }
}

/// How long to measure.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) batch: Duration,
}

/// Nanoseconds per item, the lower quartile of all rounds, for each case in order.
pub(crate) fn measure(cases: &[Case], threads: usize, effort: Effort) -> Vec<f64> {
    let mut running: Vec<Running> = cases
        .iter()
        .map(|case| Running::new(case, threads, effort))
        .collect();
    for _ in 0..effort.rounds {
        for case in &mut running {
            case.round();
        }
    }
    running.into_iter().map(Running::lower_quartile).collect()
}

struct Running {
    workers: Vec<Worker>,
    calls: u64,
    items: u64,
    nanos: Vec<f64>,
}

impl Running {
    fn new(case: &Case, threads: usize, effort: Effort) -> Self {
        let mut workers: Vec<Worker> = (0..threads).map(|_| case.worker()).collect();
        let mut calls = 1;
        // Warms up, and finds how many calls fill a batch.
        while batch(&mut workers, calls) < effort.batch {
            calls *= 2;
        }
        Self {
            workers,
            calls,
            items: case.items,
            nanos: Vec::with_capacity(effort.rounds),
        }
    }

    fn round(&mut self) {
        let elapsed = batch(&mut self.workers, self.calls);
        let items = self.calls * self.items;
        self.nanos.push(elapsed.as_nanos() as f64 / items as f64);
    }

    /// On a quiet machine next to the median; on a busy one still near what the call itself takes.
    fn lower_quartile(mut self) -> f64 {
        self.nanos.sort_by(f64::total_cmp);
        self.nanos[self.nanos.len() / 4]
    }
}

/// The time until every thread has made its calls.
fn batch(workers: &mut [Worker], calls: u64) -> Duration {
    if let [worker] = workers {
        let start = Instant::now();
        worker(calls);
        return start.elapsed();
    }
    // Spinning, so that all have a processor when they start: two threads that take turns on one do not
    // meet in anything.
    let missing = &AtomicUsize::new(workers.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                scope.spawn(move || {
                    missing.fetch_sub(1, Ordering::AcqRel);
                    while missing.load(Ordering::Acquire) > 0 {
                        std::hint::spin_loop();
                    }
                    let start = Instant::now();
                    worker(calls);
                    start.elapsed()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a worker does not panic"))
            .max()
            .unwrap_or_default()
    })
}

/// Nanoseconds on a processor of this thread, as the system counts them.
fn on_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next().unwrap_or("0");
    first.parse().unwrap_or(0)
}

/// Two threads at once: only rounds in which neither lost its processor count.
pub(crate) fn two(cases: &[Case], names: &[&String]) {
    let cases: Vec<&Case> = names
        .iter()
        .filter_map(|name| cases.iter().find(|case| case.name == **name))
        .collect();
    let mut running: Vec<(Vec<Worker>, u64, Vec<f64>, Vec<f64>)> = cases
        .iter()
        .map(|case| {
            (
                (0..2).map(|_| case.worker()).collect(),
                2_000,
                vec![],
                vec![],
            )
        })
        .collect();
    for (workers, calls, ..) in &mut running {
        workers.iter_mut().for_each(|worker| worker(*calls));
    }
    for _ in 0..400 {
        for (workers, calls, both, one) in &mut running {
            let calls = *calls;
            let missing = &AtomicUsize::new(2);
            let results: Vec<(u64, u64)> = std::thread::scope(|scope| {
                let threads: Vec<_> = workers
                    .iter_mut()
                    .map(|worker| {
                        scope.spawn(move || {
                            missing.fetch_sub(1, Ordering::AcqRel);
                            while missing.load(Ordering::Acquire) > 0 {
                                std::hint::spin_loop();
                            }
                            let (start, cpu) = (Instant::now(), on_cpu());
                            worker(calls);
                            (start.elapsed().as_nanos() as u64, on_cpu() - cpu)
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|t| t.join().expect("no panic"))
                    .collect()
            });
            // The system's count lags by some microseconds.
            if results.iter().all(|(wall, cpu)| *cpu + 60_000 > *wall) {
                let wall = results.iter().map(|(wall, _)| *wall).max().unwrap_or(0);
                both.push(wall as f64 / calls as f64);
            }
            let start = Instant::now();
            workers[0](calls);
            one.push(start.elapsed().as_nanos() as f64 / calls as f64);
        }
    }
    for (case, (_, _, mut both, mut one)) in cases.iter().zip(running) {
        both.sort_by(f64::total_cmp);
        one.sort_by(f64::total_cmp);
        let at = |list: &[f64], part: f64| {
            list.get((list.len() as f64 * part) as usize)
                .copied()
                .unwrap_or(f64::NAN)
        };
        println!(
            "{:<50} 1T q25 {:8.0}  2T q10 {:8.0} q25 {:8.0} q50 {:8.0} ({} rounds)",
            case.name,
            at(&one, 0.25),
            at(&both, 0.1),
            at(&both, 0.25),
            at(&both, 0.5),
            both.len()
        );
    }
}
