//! What a limiter knows, at one instant.

use std::time::Duration;

use tower_claude_core::{Dimension, Priority, Scope};

/// What a limiter knows of one scope, at one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ScopeSnapshot {
    /// The scope.
    pub scope: Scope,
    /// Requests admitted and not settled.
    pub in_flight: u64,
    /// Requests waiting.
    pub queued: usize,
    /// How long admissions stay paused after a 429; zero when they are not.
    pub paused_for: Duration,
    /// Output tokens reserved for requests in flight and not settled.
    pub outstanding_output: u64,
    /// The running mean of output tokens per answer; `None` before the first.
    pub mean_output: Option<f64>,
    /// The running ratio of actual to estimated input tokens; 1 before the first.
    pub input_ratio: f64,
    /// Requests in flight allowed by the slow start; `None` when it is over or was not asked for.
    pub initial_concurrency: Option<u64>,
    /// Whether the limits are taken to be shared with others.
    pub shared: bool,
    /// The limits known; several of one dimension where several limits hold.
    pub dimensions: Vec<DimensionSnapshot>,
    /// The priority classes with requests waiting, the most urgent first.
    pub classes: Vec<ClassSnapshot>,
}

/// The queue of one priority class, at one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClassSnapshot {
    /// The class.
    pub priority: Priority,
    /// Its requests that wait, of all tenants.
    pub queued: usize,
    /// How long a newcomer behind all of them would wait, while the other classes go on waiting.
    pub estimated_wait: Duration,
}

impl ScopeSnapshot {
    /// The queue of one priority class; `None` when none of it waits.
    #[must_use]
    pub fn class(&self, priority: Priority) -> Option<&ClassSnapshot> {
        self.classes.iter().find(|class| class.priority == priority)
    }

    /// The state of one limit, the first where there are several; `None` when none is known for that
    /// dimension.
    #[must_use]
    pub fn dimension(&self, dimension: Dimension) -> Option<&DimensionSnapshot> {
        self.dimensions.iter().find(|d| d.dimension == dimension)
    }
}

/// One limit of a scope, at one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DimensionSnapshot {
    /// What is counted.
    pub dimension: Dimension,
    /// The limit per minute; for [`Dimension::Concurrency`] the most at once, for
    /// [`Dimension::TokensPerDay`] per day.
    pub limit: u64,
    /// The most that can be used at once.
    pub capacity: u64,
    /// What is left, rounded down; negative in debt.
    pub available: i64,
    /// What is held back because the server's level is not known exactly.
    pub safety_margin: u64,
    /// Whether a response header named the limit.
    pub learned: bool,
    /// For [`Dimension::TokensPerDay`], when all of it is there again without further use.
    pub renews_in: Option<Duration>,
}

impl DimensionSnapshot {
    /// Time until everything is available again, without further use. Zero for
    /// [`Dimension::Concurrency`], which time does not refill.
    #[must_use]
    pub fn time_to_full(&self) -> Duration {
        self.time_until(self.capacity).unwrap_or_default()
    }

    /// Time until `amount` is available, without further use; `None` when it never is. For
    /// [`Dimension::TokensPerDay`] the time until all of it is.
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
