//! Rounds of short batches, all cases interleaved, so that a noisy neighbour disturbs all alike.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Runs this many calls in a row.
pub(crate) type Worker = Box<dyn FnMut(u64) + Send>;

/// A case to measure.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Items that one call handles, e.g. events of a stream.
    pub(crate) items: u64,
    /// The number of calls that are enough to count instructions. At zero none are counted.
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

/// The duration of a measurement.
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

    /// Returns the lower quartile. On a quiet machine it is close to the median. On a busy machine
    /// it is still close to the cost of the call itself.
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
    // Spinning, so that all have a processor when they start: two threads that take turns on one do
    // not meet in anything.
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
