//! Looking at a layer from outside.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::RetryBudget;

/// What only rare paths count, so that the ordinary one shares nothing.
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

/// A view of one [`RetryLayer`](crate::RetryLayer) and all services made from it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RetryHandle {
    budget: RetryBudget,
    counters: Arc<Counters>,
}

/// The state of a layer at one moment. Counts are since the layer was made.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetrySnapshot {
    /// Tokens in the retry budget.
    pub budget_tokens: f64,
    /// Retries decided on.
    pub retries: u64,
    /// Calls whose last attempt failed: not retryable, or no attempt, time or budget was left.
    pub gave_up: u64,
    /// Attempts and streams that one of the timers ended.
    pub timed_out: u64,
    /// Responses that broke off after their content had begun.
    pub broken: u64,
}

impl RetryHandle {
    pub(crate) const fn new(budget: RetryBudget, counters: Arc<Counters>) -> Self {
        Self { budget, counters }
    }

    /// The state now.
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

    /// The budget, to share it with another layer.
    pub const fn budget(&self) -> &RetryBudget {
        &self.budget
    }
}
