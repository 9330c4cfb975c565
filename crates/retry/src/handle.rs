//! The handle to observe a layer.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::budget::RetryBudget;

/// The counters of a layer. Only rare paths count, so that ordinary calls share no memory.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) retries: AtomicU64,
    pub(crate) gave_up: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) broken: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A handle to one [`RetryLayer`](crate::RetryLayer) and all services made from it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RetryHandle {
    pub(crate) budget: RetryBudget,
    pub(crate) counters: Arc<Counters>,
}

/// The state of a layer at one moment. Counts are since the layer was made.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetrySnapshot {
    /// The tokens in the retry budget, at the host that has the fewest.
    pub budget_tokens: f64,
    /// The number of retries.
    pub retries: u64,
    /// The number of calls whose last attempt failed: the failure was not retryable, or no attempt,
    /// time or budget was left.
    pub gave_up: u64,
    /// The number of attempts and streams that a timer ended.
    pub timed_out: u64,
    /// The number of responses that failed after their content had begun.
    pub broken: u64,
}

impl RetryHandle {
    /// Returns the present state.
    #[must_use]
    pub fn snapshot(&self) -> RetrySnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RetrySnapshot {
            budget_tokens: self.budget.tokens(),
            retries: read(&self.counters.retries),
            gave_up: read(&self.counters.gave_up),
            timed_out: read(&self.counters.timed_out),
            broken: read(&self.counters.broken),
        }
    }

    /// Returns the budget, which other layers may share.
    pub const fn budget(&self) -> &RetryBudget {
        &self.budget
    }
}
