//! How a limiter behaves, apart from the limits themselves.

use std::{num::NonZeroU32, time::Duration};

use crate::{FairShares, Sharing, SlowStart};

/// How the server counts output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputAccounting {
    /// As they are produced; `max_tokens` plays no part. Claude does this.
    #[default]
    AsProduced,
    /// `max_tokens` is taken at the start and what was not produced is given back at the end.
    MaxTokensReserved,
}

/// How a limiter behaves, apart from the limits themselves. [`Default`] is the recommendation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LimiterConfig {
    /// The most requests that may wait in one scope. Default 10,000.
    pub queue_limit: usize,
    /// The longest pause the limiter makes up itself, and the longest time for which a limit that
    /// only a header named may hold everything back. A wait that the server asked for in
    /// `retry-after` is kept up to [`MAX_EXPLICIT_PAUSE`](Self::MAX_EXPLICIT_PAUSE), and lengthened to 2 s
    /// by a second 429 in a row and to 4 s by each after that, where it is shorter. Default 5 minutes.
    pub max_pause: Duration,
    /// Scopes kept at once; over it, idle ones are forgotten: first those whose limits are whole again, the
    /// longest unused first, then the least spent. One that was forgotten begins anew with whole limits.
    /// Scopes in use are never forgotten. Default 1,024.
    pub max_scopes: usize,
    /// Reserve the running mean of output instead of the estimate. Default true.
    pub learn_output: bool,
    /// Correct input estimates by the running ratio of actual to estimated. Default true.
    pub calibrate_input: bool,
    /// Take limits from response headers, up and down. When false, configured limits and their capacity
    /// stay, and headers correct the level within them, up and down. Default true.
    pub learn_limits: bool,
    /// Requests in flight until the first rate-limit headers were seen; doubled with each answer: the
    /// server may allow less at once than the configured limits say. `None`, the default, is
    /// [`INITIAL_CONCURRENCY`](Self::INITIAL_CONCURRENCY) where a layer reads headers
    /// ([`Limiter::expect_headers`](crate::Limiter::expect_headers)) and any number where none does;
    /// [`NonZeroU32::MAX`] is any number everywhere.
    pub initial_concurrency: Option<NonZeroU32>,
    /// How the server counts output tokens. Default as produced.
    pub output_accounting: OutputAccounting,
    /// Who else draws on the limits. Default [`Sharing::Auto`].
    pub sharing: Sharing,
    /// A slow start of the pace after rest and after a pause by a 429. Default none.
    pub slow_start: Option<SlowStart>,
    /// The weights of priority classes and tenants while requests wait. Default interactive 8, normal 4,
    /// batch 1, and all tenants alike.
    pub shares: FairShares,
}

impl LimiterConfig {
    /// Requests let out before the first headers are known.
    pub const INITIAL_CONCURRENCY: NonZeroU32 = NonZeroU32::new(8).expect("8 is not 0");

    /// The longest `retry-after` that is honoured.
    pub const MAX_EXPLICIT_PAUSE: Duration = Duration::from_secs(3_600);

    /// The recommendation.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue_limit: 10_000,
            max_pause: Duration::from_secs(300),
            max_scopes: 1_024,
            learn_output: true,
            calibrate_input: true,
            learn_limits: true,
            initial_concurrency: None,
            output_accounting: OutputAccounting::AsProduced,
            sharing: Sharing::Auto,
            slow_start: None,
            shares: FairShares::new(),
        }
    }

    /// Sets [`queue_limit`](Self::queue_limit).
    #[must_use]
    pub const fn with_queue_limit(mut self, limit: usize) -> Self {
        self.queue_limit = limit;
        self
    }

    /// Sets [`max_pause`](Self::max_pause).
    #[must_use]
    pub const fn with_max_pause(mut self, pause: Duration) -> Self {
        self.max_pause = pause;
        self
    }

    /// Sets [`max_scopes`](Self::max_scopes).
    #[must_use]
    pub const fn with_max_scopes(mut self, scopes: usize) -> Self {
        self.max_scopes = scopes;
        self
    }

    /// Sets [`learn_output`](Self::learn_output).
    #[must_use]
    pub const fn with_learn_output(mut self, learn: bool) -> Self {
        self.learn_output = learn;
        self
    }

    /// Sets [`calibrate_input`](Self::calibrate_input).
    #[must_use]
    pub const fn with_calibrate_input(mut self, calibrate: bool) -> Self {
        self.calibrate_input = calibrate;
        self
    }

    /// Sets [`learn_limits`](Self::learn_limits).
    #[must_use]
    pub const fn with_learn_limits(mut self, learn: bool) -> Self {
        self.learn_limits = learn;
        self
    }

    /// Sets [`initial_concurrency`](Self::initial_concurrency).
    #[must_use]
    pub const fn with_initial_concurrency(mut self, limit: Option<NonZeroU32>) -> Self {
        self.initial_concurrency = limit;
        self
    }

    /// Sets [`output_accounting`](Self::output_accounting).
    #[must_use]
    pub const fn with_output_accounting(mut self, accounting: OutputAccounting) -> Self {
        self.output_accounting = accounting;
        self
    }

    /// Sets [`sharing`](Self::sharing).
    #[must_use]
    pub const fn with_sharing(mut self, sharing: Sharing) -> Self {
        self.sharing = sharing;
        self
    }

    /// Sets [`slow_start`](Self::slow_start).
    #[must_use]
    pub const fn with_slow_start(mut self, slow_start: Option<SlowStart>) -> Self {
        self.slow_start = slow_start;
        self
    }

    /// Sets [`shares`](Self::shares).
    #[must_use]
    pub fn with_shares(mut self, shares: FairShares) -> Self {
        self.shares = shares;
        self
    }
}

impl Default for LimiterConfig {
    fn default() -> Self {
        Self::new()
    }
}
