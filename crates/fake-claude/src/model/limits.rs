//! The limits of one rate group.

use std::time::Duration;

use super::ramp::Ramp;

/// The limits of one rate group. The default is the Start tier of most models: 1,000 requests,
/// 2,000,000 input tokens and 400,000 output tokens per minute, in buckets that hold one minute's
/// refill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Requests per minute (RPM).
    pub requests_per_minute: u64,
    /// Input tokens per minute (ITPM), cache reads not counted.
    pub input_tokens_per_minute: u64,
    /// Output tokens per minute (OTPM), counted as they are produced.
    pub output_tokens_per_minute: u64,
    /// Input and output tokens together per minute, as Amazon Bedrock counts them. `None` for no
    /// such limit, the default. Cache reads are not counted.
    pub combined_tokens_per_minute: Option<u64>,
    /// Tokens that one token of output costs in the combined limit. 1 by default.
    pub output_weight: u64,
    /// True to hold `max_tokens` in the combined limit from the start of a request until its end.
    /// The output is charged at the end then, and as it is produced otherwise. False by default.
    pub holds_max_tokens: bool,
    /// Maximum number of concurrent requests. `None` for no limit.
    pub concurrency: Option<u32>,
    /// Capacity of each bucket, as the time of a full refill. 60 s by default. A shorter time
    /// enforces a per-minute limit over a shorter interval, as the API may do. A bucket has a
    /// capacity of at least one token.
    pub burst: Duration,
    /// The acceleration limit. `None` for no limit.
    pub ramp: Option<Ramp>,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self {
            requests_per_minute: 1_000,
            input_tokens_per_minute: 2_000_000,
            output_tokens_per_minute: 400_000,
            combined_tokens_per_minute: None,
            output_weight: 1,
            holds_max_tokens: false,
            concurrency: None,
            burst: Duration::from_secs(60),
            ramp: None,
        }
    }
}

impl GroupLimits {
    /// Returns the default limits, like [`GroupLimits::default`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns limits that no test reaches.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::requests_only(1_000_000_000_000)
    }

    /// Returns a limit on requests only.
    #[must_use]
    pub fn requests_only(per_minute: u64) -> Self {
        Self {
            requests_per_minute: per_minute,
            input_tokens_per_minute: 1_000_000_000_000_000,
            output_tokens_per_minute: 1_000_000_000_000_000,
            ..Self::default()
        }
    }

    /// Sets the requests per minute.
    #[must_use]
    pub fn with_requests_per_minute(mut self, limit: u64) -> Self {
        self.requests_per_minute = limit;
        self
    }

    /// Sets the input tokens per minute.
    #[must_use]
    pub fn with_input_tokens_per_minute(mut self, limit: u64) -> Self {
        self.input_tokens_per_minute = limit;
        self
    }

    /// Sets the output tokens per minute.
    #[must_use]
    pub fn with_output_tokens_per_minute(mut self, limit: u64) -> Self {
        self.output_tokens_per_minute = limit;
        self
    }

    /// Adds a limit on input and output tokens together, per minute.
    #[must_use]
    pub fn with_combined_tokens_per_minute(mut self, limit: u64) -> Self {
        self.combined_tokens_per_minute = Some(limit);
        self
    }

    /// Sets the tokens that one token of output costs in the combined limit.
    #[must_use]
    pub fn with_output_weight(mut self, weight: u64) -> Self {
        self.output_weight = weight;
        self
    }

    /// Sets if the combined limit holds `max_tokens` from the start of a request.
    #[must_use]
    pub fn with_held_max_tokens(mut self, holds: bool) -> Self {
        self.holds_max_tokens = holds;
        self
    }

    /// Sets the maximum number of concurrent requests.
    #[must_use]
    pub fn with_concurrency(mut self, limit: u32) -> Self {
        self.concurrency = Some(limit);
        self
    }

    /// Sets the capacity of each bucket, as the time of a full refill.
    #[must_use]
    pub fn with_burst(mut self, burst: Duration) -> Self {
        self.burst = burst;
        self
    }

    /// Adds an acceleration limit.
    #[must_use]
    pub fn with_ramp(mut self, ramp: Ramp) -> Self {
        self.ramp = Some(ramp);
        self
    }
}
