//! The configuration of a limiter, apart from the limits themselves.

use std::{num::NonZeroU32, time::Duration};

use crate::pool::queue::flow::FairShares;

/// The server's accounting of output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputAccounting {
    /// Output is counted as it is produced, independent of `max_tokens`. Claude does this.
    #[default]
    AsProduced,
    /// `max_tokens` is charged at admission, and the unused part is refunded at the end.
    MaxTokensReserved,
}

/// The use of the same limits by other processes.
///
/// A shared level is held in the middle of its bucket instead of near empty. Each process paces
/// itself by the level that the headers show, and sends more slowly at a lower level. So all
/// processes get the same share, and neither full buckets nor 429s waste capacity. The price is
/// that a burst is spread out, to at most four times the limit's rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// Like [`Exclusive`](Self::Exclusive), until an unexpected 429 or a decrease of a level that
    /// own use does not explain. Then like [`Shared`](Self::Shared) for at least ten minutes.
    #[default]
    Auto,
    /// No other use. All that the levels allow is used at once.
    Exclusive,
    /// Use by other processes or users, without a common store.
    Shared,
}

/// A slow start after idling: the pace begins at a quarter of the limit's rate and doubles until it
/// reaches the limit's rate. For servers that reject a sharp rise in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowStart {
    /// The time in which the pace doubles. Default 5 s, so a slow start takes 10 s.
    pub doubles_in: Duration,
    /// The idle time before a slow start. Default 60 s. A pause after a 429 always counts as
    /// idling.
    pub after_idle: Duration,
}

impl SlowStart {
    /// Returns the recommendation.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            doubles_in: Duration::from_secs(5),
            after_idle: Duration::from_secs(60),
        }
    }

    /// Sets [`after_idle`](Self::after_idle).
    #[must_use]
    pub const fn with_after_idle(mut self, time: Duration) -> Self {
        self.after_idle = time;
        self
    }
}

impl Default for SlowStart {
    fn default() -> Self {
        Self::new()
    }
}

/// The configuration of a limiter, apart from the limits themselves. [`Default`] is the
/// recommendation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LimiterConfig {
    /// The most requests that may wait in one scope. Default 10,000. Over it, requests are
    /// rejected: the last of the tenant and class with the longest estimated wait. With 0 no
    /// request waits.
    pub queue_limit: usize,
    /// The most bytes of request bodies that may wait in one scope. Default 256 MiB. Over it,
    /// requests are rejected in the same order, by the bytes of each tenant. A request may always
    /// wait alone, whatever its size is.
    pub queue_bytes: u64,
    /// The longest pause after a 429 without `retry-after`, and the longest time for which a limit
    /// that only a header named holds requests back. Default 5 minutes.
    ///
    /// An explicit `retry-after` is honoured up to
    /// [`MAX_EXPLICIT_PAUSE`](Self::MAX_EXPLICIT_PAUSE). It is raised to at least 2 s by a second
    /// 429 in a row, and to 4 s by each after that.
    pub max_pause: Duration,
    /// The most scopes kept. Default 1,024, at least 1. Over it, idle scopes are evicted: first the
    /// scopes with full limits, the longest unused first, then the least spent. An evicted scope
    /// begins anew with full limits. Scopes in use are never evicted.
    pub max_scopes: usize,
    /// Reserves the running mean of output instead of the estimate. Default true.
    pub learn_output: bool,
    /// Corrects input estimates by what earlier responses used: an offset and a slope for each
    /// workload and variant of its prompts. Default true.
    pub calibrate_input: bool,
    /// The part of its requests that a workload must not exceed with the input charged for them, in
    /// percent, while a limit on input is nearly used up: less than a quarter of it is left. From
    /// 50 to 99, and other values are clamped. Default 50, which is the expected input.
    ///
    /// With 95, a request is charged what 95 % of the latest requests of its workload used, and at
    /// least 1.35 times its estimate while fewer than 16 are known, but no more than the limit. The
    /// rest is given back when its usage is known. This avoids more of the 429s, and admits fewer
    /// requests at once. The default relies on the safety margin, which covers the usual error of
    /// all workloads together.
    pub near_limit_percentile: u8,
    /// Takes limits from response headers, up and down. Default true. A configured limit is a cap:
    /// the smaller of it and the limit in the headers holds. If false, configured limits and
    /// capacities stay, and headers only correct the levels.
    ///
    /// A 429 that no header explains shows a limit as well: the server names none, or enforces
    /// another. Its rate of requests is then learned from the times of such 429s, once there are at
    /// least four in five minutes, and one for each 60 successes beyond the first three. It is
    /// forgotten after eight hours without use of the whole rate.
    pub learn_limits: bool,
    /// Uses configured limits only until headers name the limits of the server, which may be
    /// higher. Default false. The limits of a [tier](crate::Limits::tier) are always used so.
    pub limits_as_hint: bool,
    /// The most requests in flight before the first rate-limit headers. Each response without them
    /// raises it by one, so that it doubles with each round trip. The server may allow less at once
    /// than the configured limits.
    ///
    /// The default `None` is [`INITIAL_CONCURRENCY`](Self::INITIAL_CONCURRENCY) if a layer reads
    /// headers ([`Limiter::expect_headers`](crate::Limiter::expect_headers)), and unlimited
    /// otherwise. Values from 4,096 on, like [`NonZeroU32::MAX`], are always unlimited.
    pub initial_concurrency: Option<NonZeroU32>,
    /// The server's accounting of output tokens. Default [`OutputAccounting::AsProduced`].
    pub output_accounting: OutputAccounting,
    /// The use of the limits by other processes. Default [`Sharing::Auto`].
    pub sharing: Sharing,
    /// A slow start of the pace after idling, and after a pause by a 429. Default `None`.
    pub slow_start: Option<SlowStart>,
    /// The weights of priority classes and tenants while requests wait. Default interactive 8,
    /// normal 4, batch 1, and each tenant 1.
    pub shares: FairShares,
}

impl LimiterConfig {
    /// The initial concurrency if a layer reads headers.
    pub const INITIAL_CONCURRENCY: NonZeroU32 = NonZeroU32::new(8).expect("8 is not 0");

    /// The longest `retry-after` that is honoured.
    pub const MAX_EXPLICIT_PAUSE: Duration = Duration::from_secs(3_600);

    /// Returns the recommendation.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue_limit: 10_000,
            queue_bytes: 256 << 20,
            max_pause: Duration::from_secs(300),
            max_scopes: 1_024,
            learn_output: true,
            calibrate_input: true,
            near_limit_percentile: 50,
            learn_limits: true,
            limits_as_hint: false,
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

    /// Sets [`queue_bytes`](Self::queue_bytes).
    #[must_use]
    pub const fn with_queue_bytes(mut self, bytes: u64) -> Self {
        self.queue_bytes = bytes;
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

    /// Sets [`near_limit_percentile`](Self::near_limit_percentile).
    #[must_use]
    pub const fn with_near_limit_percentile(mut self, percent: u8) -> Self {
        self.near_limit_percentile = percent;
        self
    }

    /// Sets [`learn_limits`](Self::learn_limits).
    #[must_use]
    pub const fn with_learn_limits(mut self, learn: bool) -> Self {
        self.learn_limits = learn;
        self
    }

    /// Sets [`limits_as_hint`](Self::limits_as_hint).
    #[must_use]
    pub const fn with_limits_as_hint(mut self, hint: bool) -> Self {
        self.limits_as_hint = hint;
        self
    }

    /// Sets [`initial_concurrency`](Self::initial_concurrency).
    #[must_use]
    pub const fn with_initial_concurrency(mut self, limit: Option<NonZeroU32>) -> Self {
        self.initial_concurrency = limit;
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
