//! The state of a limiter as metrics.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tower_claude_core::{Dimension, Priority, metrics::MetricsObserver};

use crate::snapshot::ScopeSnapshot;

/// All priority classes. An empty queue has a length of 0, and no missing one.
const PRIORITIES: [Priority; 3] = [Priority::Batch, Priority::Normal, Priority::Interactive];

/// The state of the scopes that share a label.
#[derive(Default)]
struct Sum {
    in_flight: u64,
    is_paused: bool,
    queues: [(usize, Duration); PRIORITIES.len()],
    /// The level and the capacity of the fullest limit.
    levels: BTreeMap<Dimension, (i64, u64)>,
}

impl Sum {
    fn add(&mut self, scope: &ScopeSnapshot) {
        self.in_flight += scope.in_flight;
        self.is_paused |= !scope.paused_for.is_zero();
        for ((queued, wait), priority) in self.queues.iter_mut().zip(PRIORITIES) {
            if let Some(class) = scope.class(priority) {
                *queued += class.queued;
                *wait = class.estimated_wait.max(*wait);
            }
        }
        for limit in &scope.dimensions {
            let new = (limit.available, limit.capacity);
            let level = self.levels.entry(limit.dimension).or_insert(new);
            if share(new) < share(*level) {
                *level = new;
            }
        }
    }
}

/// Returns the part of the capacity that is available.
fn share((available, capacity): (i64, u64)) -> f64 {
    available as f64 / capacity.max(1) as f64
}

/// Records the state of scopes as gauges: levels, queues, requests in flight and pauses. Needs the
/// feature `metrics`.
///
/// `scopes` is the [`snapshot`](crate::Limiter::snapshot) of a limiter. Call this before each
/// scrape, or every few seconds. Scopes with the same label are added up, and the fullest of their
/// limits counts.
///
/// ```
/// use tower_claude_core::metrics::MetricsObserver;
/// use tower_claude_limiter::{Limiter, Limits, LocalLimiter, record_metrics};
///
/// let metrics = MetricsObserver::new();
/// let limiter = LocalLimiter::new(Limits::new());
/// record_metrics(&metrics, &limiter.snapshot());
/// ```
pub fn record_metrics(metrics: &MetricsObserver, scopes: &[ScopeSnapshot]) {
    let mut sums: BTreeMap<Arc<str>, Sum> = BTreeMap::new();
    for scope in scopes {
        let label = metrics.scope_label(&scope.scope);
        sums.entry(label).or_default().add(scope);
    }
    for (label, sum) in &sums {
        metrics.record_in_flight(label, sum.in_flight, sum.is_paused);
        for ((queued, wait), priority) in sum.queues.into_iter().zip(PRIORITIES) {
            metrics.record_queue(label, priority, queued, wait);
        }
        for (dimension, (level, capacity)) in &sum.levels {
            metrics.record_level(label, *dimension, *level, *capacity);
        }
    }
}
