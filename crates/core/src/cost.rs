//! What a request will use.

mod estimate;
mod heuristic;

use std::num::NonZeroU64;

pub use estimate::{EstimateCost, PendingEstimate, UsageListener};
pub use heuristic::HeuristicCost;

use crate::{CacheReads, Workload};

/// What a request uses of a rate limit, estimated before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Requests; 1 unless a layer sends several.
    pub requests: u64,
    /// Input tokens that count against the input limit (cache reads do not).
    pub input_tokens: u64,
    /// Output tokens expected, not the most that are allowed.
    pub output_tokens: u64,
    /// The most output tokens the request allows (`max_tokens`), if known.
    pub max_output_tokens: Option<u64>,
    /// What kind of request it is: answers of one kind say what the next will use.
    pub workload: Workload,
    /// The input was counted, not estimated: it is charged as it is, and no ratio is learned from it.
    pub counted: bool,
    /// Tokens expected to be read from the prompt cache, beside the input tokens. `None` where nobody
    /// foresees them.
    pub cached_tokens: Option<u64>,
    /// By what the estimator knows the request when it learns of its use; its own affair.
    pub estimate_id: Option<NonZeroU64>,
}

impl Cost {
    /// One request of this many input tokens and expected output tokens.
    #[must_use]
    pub const fn new(input_tokens: u64, output_tokens: u64) -> Self {
        Self {
            requests: 1,
            input_tokens,
            output_tokens,
            max_output_tokens: None,
            workload: Workload::NONE,
            counted: false,
            cached_tokens: None,
            estimate_id: None,
        }
    }

    /// The same cost with the most output tokens the request allows.
    #[must_use]
    pub const fn with_max_output_tokens(mut self, max: Option<u64>) -> Self {
        self.max_output_tokens = max;
        self
    }

    /// The same cost of a request of this kind.
    #[must_use]
    pub const fn with_workload(mut self, workload: Workload) -> Self {
        self.workload = workload;
        self
    }

    /// The same cost with a whole input of this many tokens by count; what is expected to be read from the
    /// prompt cache is taken off.
    #[must_use]
    pub const fn with_counted_input(mut self, tokens: u64) -> Self {
        let cached = match self.cached_tokens {
            Some(cached) => cached,
            None => 0,
        };
        self.input_tokens = tokens.saturating_sub(cached);
        self.counted = true;
        self
    }

    /// The same cost with what will be read from the prompt cache. The input tokens are those of the rest.
    #[must_use]
    pub const fn with_cache_reads(mut self, reads: CacheReads) -> Self {
        self.cached_tokens = Some(reads.tokens);
        self.estimate_id = Some(reads.id);
        self
    }
}

impl Default for Cost {
    /// One request of unknown size: no tokens.
    fn default() -> Self {
        Self::new(0, 0)
    }
}
