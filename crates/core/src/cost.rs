//! The estimated cost of a request.

mod bound;
mod estimate;
mod heuristic;

use std::num::NonZeroU64;

pub use bound::UsageBound;
pub use estimate::{EstimateCost, EstimatedTokens, PendingEstimate, UsageListener, estimate_fn};
pub use heuristic::HeuristicCost;

use crate::{prefix::CacheReads, workload::Workload};

/// The settlement of a cost when the response reports its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settle {
    /// The usage replaces the estimate, and later estimates are corrected by it.
    ByUsage,
    /// The input stays as charged. The usage replaces and corrects the output.
    OutputByUsage,
    /// The cost stays as charged, and nothing is learned. For units other than Claude's tokens.
    AsCharged,
}

/// The estimated use of the rate limits by a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// The number of requests. 1, unless a layer sends several.
    pub requests: u64,
    /// The input tokens that count against the input limit. Cache reads do not count.
    pub input_tokens: u64,
    /// The expected output tokens, which are fewer than the request allows.
    pub output_tokens: u64,
    /// The greatest number of output tokens that the request allows (`max_tokens`), if known.
    pub max_output_tokens: Option<u64>,
    /// The workload of the request. Estimates improve with the responses of the same workload.
    pub workload: Workload,
    /// The variant of the prompt within its workload, like its tokenizer or the presence of images.
    /// Estimates of different variants are wrong by different ratios. 0 if there is only one.
    pub variant: u8,
    /// True if the input was counted and not estimated. It is then charged as it is, and the
    /// limiter learns no ratio from it. A count of `CountTokensLayer` includes what the prompt
    /// cache will provide, so the usage settles it. Any other count stays as charged.
    pub counted: bool,
    /// The tokens that are expected to be read from the prompt cache, in addition to the input
    /// tokens. `None` if there is no prediction.
    pub cached_tokens: Option<u64>,
    /// An opaque id that the estimator uses to match this estimate with the actual usage.
    pub estimate_id: Option<NonZeroU64>,
    /// The settlement. `None`, the default, is [`Settle::AsCharged`] for the cost of a closure,
    /// [`Settle::OutputByUsage`] for input that an estimator has counted, and [`Settle::ByUsage`]
    /// otherwise.
    pub settle: Option<Settle>,
    /// The most that the response can truly report. Usage over it is charged as the bound, and
    /// nothing is learned from it. The default is [`UsageBound::UNKNOWN`], which the limiter layers
    /// replace by [`UsageBound::of`] the request.
    pub bound: UsageBound,
}

impl Cost {
    /// Creates the cost of one request with these input tokens and expected output tokens.
    #[must_use]
    pub const fn new(input_tokens: u64, output_tokens: u64) -> Self {
        Self {
            requests: 1,
            input_tokens,
            output_tokens,
            max_output_tokens: None,
            workload: Workload::NONE,
            variant: 0,
            counted: false,
            cached_tokens: None,
            estimate_id: None,
            settle: None,
            bound: UsageBound::UNKNOWN,
        }
    }

    /// Sets the most that the response can truly report.
    #[must_use]
    pub const fn with_bound(mut self, bound: UsageBound) -> Self {
        self.bound = bound;
        self
    }

    /// Sets the greatest number of output tokens that the request allows.
    #[must_use]
    pub const fn with_max_output_tokens(mut self, max: Option<u64>) -> Self {
        self.max_output_tokens = max;
        self
    }

    /// Sets the workload.
    #[must_use]
    pub const fn with_workload(mut self, workload: Workload) -> Self {
        self.workload = workload;
        self
    }

    /// Sets the variant of the prompt within its workload.
    #[must_use]
    pub const fn with_variant(mut self, variant: u8) -> Self {
        self.variant = variant;
        self
    }

    /// Sets the input tokens to a counted number, less the expected cache reads.
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

    /// Sets the settlement, for example [`Settle::ByUsage`] for a closure that estimates tokens.
    #[must_use]
    pub const fn with_settle(mut self, settle: Settle) -> Self {
        self.settle = Some(settle);
        self
    }

    /// Returns true if the reported usage replaces the input.
    #[must_use]
    pub const fn settles_input(&self) -> bool {
        matches!(self.settle, None | Some(Settle::ByUsage))
    }

    /// Returns true if the reported usage replaces the output.
    #[must_use]
    pub const fn settles_output(&self) -> bool {
        !matches!(self.settle, Some(Settle::AsCharged))
    }

    /// Sets the expected cache reads. The input tokens must not include them.
    #[must_use]
    pub const fn with_cache_reads(mut self, reads: CacheReads) -> Self {
        self.cached_tokens = Some(reads.tokens);
        self.estimate_id = Some(reads.id);
        self
    }
}

impl Default for Cost {
    /// Returns the cost of one request without tokens, for a request of unknown size.
    fn default() -> Self {
        Self::new(0, 0)
    }
}
