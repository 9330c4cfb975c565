//! Who estimates, and what comes back to it.

use std::{fmt, sync::Arc};

use http::Request;
use tokio::time::Instant;
use tower_claude_wire::Usage;

use super::Cost;
use crate::RequestBody;

/// Estimates the cost of a request before it is sent.
///
/// A limiter corrects the estimate: the input by the running ratio of actual to estimated tokens,
/// the output by the running mean of what answers used, both by [`Workload`](crate::Workload).
pub trait EstimateCost {
    /// The cost of this request.
    fn estimate(&self, request: &Request<RequestBody>) -> Cost;

    /// Who is to be told what the request of this estimate used; by default nobody.
    fn learner(&self, cost: &Cost) -> Option<Arc<dyn UsageListener>> {
        let _ = cost;
        None
    }
}

impl<F> EstimateCost for F
where
    F: Fn(&Request<RequestBody>) -> Cost,
{
    fn estimate(&self, request: &Request<RequestBody>) -> Cost {
        self(request)
    }
}

/// Learns what requests really used.
pub trait UsageListener: Send + Sync {
    /// The answer to the request of this estimate has begun: its input is known, its output perhaps not.
    /// Called at most once for each request, inside the layers, perhaps in a drop: be quick, and do not
    /// panic.
    fn learn(&self, cost: &Cost, usage: &Usage, now: Instant);

    /// The same estimate by what is known now, where that takes no other look at the request: the request
    /// has waited, and is asked about whenever its place in the queue is looked at. `None`, the default,
    /// has it estimated anew. Otherwise as [`learn`](Self::learn).
    fn revise(&self, cost: &Cost, now: Instant) -> Option<Cost> {
        let _ = (cost, now);
        None
    }

    /// Nothing will be known of the use of this estimate: it was refused, failed, or made anew. Otherwise as
    /// [`learn`](Self::learn).
    fn forget(&self, cost: &Cost) {
        let _ = cost;
    }
}

/// An estimate whose outcome somebody waits for. Dropping it says that there is none.
pub struct PendingEstimate {
    learner: Arc<dyn UsageListener>,
    cost: Cost,
    given: bool,
}

impl PendingEstimate {
    /// What `estimate` wants to be told of this cost, if anything.
    #[must_use]
    pub fn of(estimate: &(impl EstimateCost + ?Sized), cost: &Cost) -> Option<Self> {
        let learner = estimate.learner(cost)?;
        Some(Self {
            learner,
            cost: *cost,
            given: false,
        })
    }

    /// The estimate.
    #[must_use]
    pub const fn cost(&self) -> &Cost {
        &self.cost
    }

    /// Brings the estimate up to date and returns it; `None` when it must be made anew.
    pub fn revise(&mut self, now: Instant) -> Option<Cost> {
        self.cost = self.learner.revise(&self.cost, now)?;
        Some(self.cost)
    }

    /// Tells it.
    pub fn give(mut self, usage: &Usage, now: Instant) {
        self.given = true;
        self.learner.learn(&self.cost, usage, now);
    }
}

impl Drop for PendingEstimate {
    fn drop(&mut self) {
        if !self.given {
            self.learner.forget(&self.cost);
        }
    }
}

impl fmt::Debug for PendingEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingEstimate")
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}
