//! Snapshots of a limiter's state.

use std::time::Duration;

use tower_claude_core::{Dimension, Priority, Scope, Workload};

use crate::pool::statistics::quantile;

/// The state of one scope at one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ScopeSnapshot {
    /// The scope.
    pub scope: Scope,
    /// Requests admitted and not settled.
    pub in_flight: u64,
    /// Requests waiting.
    pub queued: usize,
    /// The remaining pause after a 429, or 0.
    pub paused_for: Duration,
    /// Output tokens reserved for the requests in flight.
    pub outstanding_output: u64,
    /// The running mean of output tokens per response, or `None` before the first.
    pub mean_output: Option<f64>,
    /// The mean ratio of actual to estimated input tokens, 1 before the first response.
    pub input_ratio: f64,
    /// The calibrations of input estimates, of the 64 latest workloads and variants of their
    /// prompts. Empty before the first response.
    pub estimates: Vec<EstimateSnapshot>,
    /// The current limit of [`initial_concurrency`](crate::LimiterConfig::initial_concurrency), or
    /// `None` if it has ended or is unlimited.
    pub initial_concurrency: Option<u64>,
    /// True if the limits are taken to be shared with other processes.
    pub shared: bool,
    /// The known limits. A dimension with additional limits appears several times.
    pub dimensions: Vec<DimensionSnapshot>,
    /// The priority classes with queued requests, the most urgent first.
    pub classes: Vec<ClassSnapshot>,
}

/// The calibration of the input estimates of one workload, and the errors that remain.
///
/// A request is expected to have `offset + slope · estimate` input tokens. While a workload has
/// fewer than 16 samples, this is blended with the calibration of the whole scope.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EstimateSnapshot {
    /// The workload.
    pub workload: Workload,
    /// The [variant](tower_claude_core::Cost::variant) of the prompts.
    pub variant: u8,
    /// The number of responses that were learned from. Those with fewer than 500 tokens hardly
    /// count beside larger ones.
    pub samples: u32,
    /// The tokens that each request has beside those that were estimated, e.g. frames and the
    /// prompt of tools. At least 0.
    pub offset: f64,
    /// The tokens for each estimated one beyond the offset.
    pub slope: f64,
    /// The ratios of actual to expected tokens of the 64 latest samples, in ascending order. Each
    /// was expected by what had been learned before it.
    pub errors: Box<[f32]>,
}

impl EstimateSnapshot {
    /// Returns the ratio of actual to expected tokens that this share of requests does not exceed,
    /// from 0 to 1. So 90 % of requests are between the quantiles 0.05 and 0.95. `None` before the
    /// first sample.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        quantile(&self.errors, share)
    }
}

/// The queue of one priority class at one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClassSnapshot {
    /// The class.
    pub priority: Priority,
    /// The number of queued requests, of all tenants.
    pub queued: usize,
    /// The estimated wait of a new request behind them, if the other classes stay busy.
    pub estimated_wait: Duration,
}

impl ScopeSnapshot {
    /// Returns the queue of one priority class, or `None` if it is empty.
    #[must_use]
    pub fn class(&self, priority: Priority) -> Option<&ClassSnapshot> {
        self.classes.iter().find(|class| class.priority == priority)
    }

    /// Returns the state of the first limit of a dimension, or `None` if none is known.
    #[must_use]
    pub fn dimension(&self, dimension: Dimension) -> Option<&DimensionSnapshot> {
        self.dimensions.iter().find(|d| d.dimension == dimension)
    }
}

/// One limit of a scope at one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DimensionSnapshot {
    /// The dimension that is limited.
    pub dimension: Dimension,
    /// The limit per minute. For [`Dimension::Concurrency`] it is the most at once, for
    /// [`Dimension::TokensPerDay`] the limit per day.
    pub limit: u64,
    /// The most that can be used at once.
    pub capacity: u64,
    /// The amount left, rounded down. It is negative in debt.
    pub available: i64,
    /// The amount that is not used, because the server's level is not known exactly.
    pub safety_margin: u64,
    /// True if a response header named the limit, or if it was learned from 429s. What was learned
    /// from 429s is a limit on requests beside those that headers name.
    pub learned: bool,
    /// For [`Dimension::TokensPerDay`], the time until it is full again without further use.
    pub renews_in: Option<Duration>,
}

impl DimensionSnapshot {
    /// Returns the time until the limit is full again without further use. It is 0 for
    /// [`Dimension::Concurrency`], which time does not refill.
    #[must_use]
    pub fn time_to_full(&self) -> Duration {
        self.time_until(self.capacity).unwrap_or_default()
    }

    /// Returns the time until `amount` is available without further use, or `None` if it never is.
    /// For [`Dimension::TokensPerDay`] it is the time until the limit is full.
    #[must_use]
    pub fn time_until(&self, amount: u64) -> Option<Duration> {
        if amount > self.capacity {
            return None;
        }
        let missing = i128::from(amount) - i128::from(self.available);
        if missing <= 0 || self.dimension == Dimension::Concurrency {
            return (missing <= 0).then_some(Duration::ZERO);
        }
        if let Some(renews_in) = self.renews_in {
            return Some(renews_in);
        }
        let nanos = missing.saturating_mul(60_000_000_000) / i128::from(self.limit.max(1)) + 1;
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }
}
