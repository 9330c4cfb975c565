//! What can go wrong on script.

use std::time::Duration;

use http::StatusCode;

/// One way to fail. The first group is answered before the request reaches the limits and costs nothing; the second
/// befalls a request that was admitted and is charged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// 529 `overloaded_error`.
    Overloaded,
    /// 500 `api_error`.
    ServerError,
    /// 503 `api_error`.
    Unavailable,
    /// 504 `timeout_error`.
    Timeout504,
    /// 429 `rate_limit_error`, whatever the buckets say.
    RateLimited {
        /// Sent in whole seconds, rounded up, at least 1.
        retry_after: Duration,
    },
    /// 429 `rate_limit_error` without `retry-after` and without rate-limit headers; only `x-should-retry` says what it is.
    RateLimitedBare,
    /// 429 with `error_code` `ramp_limit_exceeded`.
    Ramp {
        /// Sent in whole seconds, rounded up, at least 1.
        retry_after: Duration,
    },
    /// 429 with `error_code` `enforced_spend_limit_reached`, without `retry-after`.
    SpendCap,
    /// 400 for a spend limit the organization set itself; only the text tells it from other 400s.
    OwnSpendLimit,
    /// The connection is reset before any byte of the answer.
    Reset,
    /// A page of HTML with this status, as a proxy in front of the API would send it.
    NonJson(StatusCode),

    /// The head comes this much later; all else is well.
    SlowHead(Duration),
    /// Stream: `message_start`, `ping`, then an `error` event (`overloaded_error`). JSON: 529.
    ErrorBeforeContent,
    /// Stream: an `error` event (`overloaded_error`) after so much output. JSON: 500 after producing it.
    ErrorMidStream {
        /// Output tokens before the error; 0 is just after the first `content_block_start`.
        after_tokens: u64,
    },
    /// The body ends cleanly, but early: no `message_stop`, half a JSON message.
    Truncated {
        /// Output tokens before the end.
        after_tokens: u64,
    },
    /// The connection breaks in the middle of the body.
    Cut {
        /// Output tokens before the break.
        after_tokens: u64,
    },
    /// Silence in the middle of the body, then it goes on.
    Stall {
        /// Output tokens before the silence.
        after_tokens: u64,
        /// Length of the silence.
        duration: Duration,
    },
    /// The body ends cleanly before any content: after `message_start` in a stream, empty in JSON.
    TruncatedBeforeContent,
    /// Not a failure but a decline: status 200, `stop_reason` `refusal`.
    Refusal {
        /// Output tokens before the refusal.
        after_tokens: u64,
    },
}

impl Fault {
    /// A short name for logs and assertions.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::ServerError => "server_error",
            Self::Unavailable => "unavailable",
            Self::Timeout504 => "timeout_504",
            Self::RateLimited { .. } => "rate_limited",
            Self::RateLimitedBare => "rate_limited_bare",
            Self::Ramp { .. } => "ramp",
            Self::SpendCap => "spend_cap",
            Self::OwnSpendLimit => "own_spend_limit",
            Self::Reset => "reset",
            Self::NonJson(_) => "non_json",
            Self::SlowHead(_) => "slow_head",
            Self::ErrorBeforeContent => "error_before_content",
            Self::ErrorMidStream { .. } => "error_mid_stream",
            Self::Truncated { .. } => "truncated",
            Self::Cut { .. } => "cut",
            Self::Stall { .. } => "stall",
            Self::TruncatedBeforeContent => "truncated_before_content",
            Self::Refusal { .. } => "refusal",
        }
    }

    /// Whether it befalls only a request that was admitted.
    pub(crate) fn needs_admission(&self) -> bool {
        match self {
            Self::Overloaded
            | Self::ServerError
            | Self::Unavailable
            | Self::Timeout504
            | Self::RateLimited { .. }
            | Self::RateLimitedBare
            | Self::Ramp { .. }
            | Self::SpendCap
            | Self::OwnSpendLimit
            | Self::Reset
            | Self::NonJson(_) => false,
            Self::SlowHead(_)
            | Self::ErrorBeforeContent
            | Self::ErrorMidStream { .. }
            | Self::Truncated { .. }
            | Self::Cut { .. }
            | Self::Stall { .. }
            | Self::TruncatedBeforeContent
            | Self::Refusal { .. } => true,
        }
    }
}

/// A window of trouble: while it lasts, each matching Messages request meets `fault` with `probability`.
///
/// Several may overlap; the first whose die falls that way wins, in the order they were added.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// Begin, since the server's start.
    pub from: Duration,
    /// End (exclusive), since the server's start.
    pub until: Duration,
    /// 0 never, 1 always.
    pub probability: f64,
    /// What happens.
    pub fault: Fault,
    /// Only to requests that ask for a stream.
    pub stream_only: bool,
    /// Only to requests of this rate group.
    pub group: Option<String>,
}

impl Incident {
    /// Every Messages request between `from` and `until` meets `fault`.
    #[must_use]
    pub fn new(from: Duration, until: Duration, fault: Fault) -> Self {
        Self {
            from,
            until,
            probability: 1.0,
            fault,
            stream_only: false,
            group: None,
        }
    }

    /// Only this share of the requests, 0 to 1.
    #[must_use]
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// Only streams.
    #[must_use]
    pub fn with_stream_only(mut self) -> Self {
        self.stream_only = true;
        self
    }

    /// Only this rate group.
    #[must_use]
    pub fn with_group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    pub(crate) fn covers(&self, at: Duration) -> bool {
        self.from <= at && at < self.until
    }

    pub(crate) fn matches(&self, group: &str, stream: bool) -> bool {
        (stream || !self.stream_only) && self.group.as_deref().is_none_or(|wanted| wanted == group)
    }
}
