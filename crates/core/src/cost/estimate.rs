//! Cost estimators, and the actual usage that is reported to them.

use std::{fmt, sync::Arc};

use http::Request;
use tokio::time::Instant;
use tower_claude_wire::Usage;

use super::{Cost, Settle};
use crate::request_body::RequestBody;

/// An estimator of the cost of requests.
///
/// A limiter corrects the estimates. It takes the input as an affine function of the estimate,
/// which it learns from the actual tokens, and replaces the output by the running mean of earlier
/// responses. Both are kept for each [`Workload`](crate::Workload). When the response reports its
/// usage, the usage replaces the estimate.
///
/// The cost of a closure is in units of its own: it is charged as it is, and no usage in the
/// response changes it. A closure that estimates Claude's tokens sets [`Settle::ByUsage`]:
///
/// ```
/// use http::Request;
/// use tower_claude_core::{Cost, RequestBody, Settle, estimate_fn};
///
/// let credits = estimate_fn(|_| Cost::new(10, 0));
/// let tokens = estimate_fn(|request| {
///     let bytes = request.body().bytes().map_or(0, |body| body.len() as u64);
///     Cost::new(bytes / 3, 500).with_settle(Settle::ByUsage)
/// });
/// # let _ = (credits, tokens);
/// ```
pub trait EstimateCost {
    /// Returns the estimated cost of a request.
    fn estimate(&self, request: &Request<RequestBody>) -> Cost;

    /// Returns the listener that is notified of the actual usage of this estimate. `None` by
    /// default.
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
        let mut cost = self(request);
        cost.settle.get_or_insert(Settle::AsCharged);
        cost
    }
}

/// Returns the closure, whose argument then needs no type annotation.
///
/// ```
/// use tower_claude_core::{Cost, estimate_fn};
///
/// let estimate = estimate_fn(|request| {
///     Cost::new(request.headers().len() as u64, 100)
/// });
/// # let _ = estimate;
/// ```
pub const fn estimate_fn<F>(estimate: F) -> F
where
    F: Fn(&Request<RequestBody>) -> Cost,
{
    estimate
}

/// A listener that is notified of the actual usage of requests.
///
/// The methods are called inside the layers, possibly in a destructor. They must be fast, and they
/// must not panic.
pub trait UsageListener: Send + Sync {
    /// Records the usage of the request with this estimate.
    ///
    /// Called at most once for each request, when the response has begun. The input tokens are
    /// known by then, the output tokens possibly not.
    fn learn(&self, cost: &Cost, usage: &Usage, now: Instant);

    /// Returns the estimate by what is known now, without a second look at the request.
    ///
    /// Called repeatedly for a request that is waiting in a queue. `None`, the default, makes the
    /// limiter estimate the request again.
    fn revise(&self, cost: &Cost, now: Instant) -> Option<Cost> {
        let _ = (cost, now);
        None
    }

    /// Discards an estimate without a known usage. The request was rejected, failed, or was
    /// estimated again. Does nothing by default.
    fn forget(&self, cost: &Cost) {
        let _ = cost;
    }
}

/// The tokens that a limiter charged for a request before its usage was known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EstimatedTokens {
    /// The input tokens. `None` if the usage does not replace them.
    pub input: Option<u64>,
    /// The output tokens. `None` if the usage does not replace them, or if the server reserves
    /// `max_tokens` and the charge is no expectation.
    pub output: Option<u64>,
}

impl EstimatedTokens {
    /// The greatest ratio. A single request with a tiny estimate would otherwise outweigh all
    /// others in a mean.
    pub const MAX_RATIO: f64 = 10.0;

    /// Returns the used tokens divided by the estimated ones, of input and output, at most
    /// [`MAX_RATIO`](Self::MAX_RATIO). `None` where one of the two is unknown or the estimate is 0.
    #[must_use]
    pub fn ratios(&self, usage: &Usage) -> [Option<f64>; 2] {
        let ratio = |estimated: Option<u64>, used: Option<u64>| {
            let estimated = estimated.filter(|estimated| *estimated > 0)?;
            Some((used? as f64 / estimated as f64).min(Self::MAX_RATIO))
        };
        [
            ratio(self.input, usage.limited_input()),
            ratio(self.output, usage.limited_output()),
        ]
    }
}

/// An estimate with a listener that expects the actual usage.
///
/// Dropping it discards the estimate with [`UsageListener::forget`].
pub struct PendingEstimate {
    listener: Arc<dyn UsageListener>,
    cost: Cost,
    reported: bool,
}

impl PendingEstimate {
    /// Returns the pending estimate of this cost, or `None` if the estimator has no listener for
    /// it.
    #[must_use]
    pub fn of(estimate: &(impl EstimateCost + ?Sized), cost: &Cost) -> Option<Self> {
        let listener = estimate.learner(cost)?;
        Some(Self {
            listener,
            cost: *cost,
            reported: false,
        })
    }

    /// Returns the estimate.
    #[must_use]
    pub const fn cost(&self) -> &Cost {
        &self.cost
    }

    /// Updates the estimate and returns it, or returns `None` if the request must be estimated
    /// again.
    pub fn revise(&mut self, now: Instant) -> Option<Cost> {
        self.cost = self.listener.revise(&self.cost, now)?;
        Some(self.cost)
    }

    /// Reports the actual usage to the listener.
    pub fn give(mut self, usage: &Usage, now: Instant) {
        self.reported = true;
        self.listener.learn(&self.cost, usage, now);
    }
}

impl Drop for PendingEstimate {
    fn drop(&mut self) {
        if !self.reported {
            self.listener.forget(&self.cost);
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
