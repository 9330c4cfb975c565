//! Faults that tests can inject or schedule.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

/// A kind of failure. The first group applies before the limits are checked, and the request costs
/// nothing. The second group applies to an admitted request, which is charged.
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
    /// 429 `rate_limit_error`, independent of the buckets.
    RateLimited {
        /// Sent in whole seconds, rounded up, at least 1.
        retry_after: Duration,
    },
    /// 429 `rate_limit_error` with `x-should-retry`, but without `retry-after` and rate-limit
    /// headers.
    RateLimitedBare,
    /// 429 with `error_code` `ramp_limit_exceeded`.
    Ramp {
        /// Sent in whole seconds, rounded up, at least 1.
        retry_after: Duration,
    },
    /// 429 with `error_code` `enforced_spend_limit_reached`, without `retry-after`.
    SpendCap,
    /// 400 for a spend limit that the organization set itself. It differs from other 400s only in
    /// its message.
    OwnSpendLimit,
    /// The connection is reset before the first byte of the response.
    Reset,
    /// A page of HTML with this status, as from a proxy.
    NonJson(StatusCode),
    /// A response with this status, these headers and this body.
    Custom {
        /// The status.
        status: StatusCode,
        /// Replace the headers of the same names.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// The body, as it is.
        body: Bytes,
    },
    /// The connection or its HTTP/2 stream fails. Before the head it applies before the limits are
    /// checked, later to an admitted request.
    Break {
        /// Kind of failure.
        how: BreakKind,
        /// Point of the response at which it fails.
        at: BreakPoint,
    },

    /// The head is delayed by this time.
    SlowHead(Duration),
    /// Stream: `message_start`, `ping`, then an `error` event (`overloaded_error`). JSON: 529.
    ErrorBeforeContent,
    /// Stream: an `error` event (`overloaded_error`) after some output. JSON: 500 after producing
    /// it.
    ErrorMidStream {
        /// Output tokens before the error. 0 is just after the first `content_block_start`.
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
    /// The body stalls in the middle and then continues.
    Stall {
        /// Output tokens before the stall.
        after_tokens: u64,
        /// Length of the stall.
        duration: Duration,
    },
    /// A failure of a frame of an event stream, as InvokeModel sends. In a response without frames,
    /// an exception and an error are an `error` event, what a reader skips is left out, and any
    /// other failure is a body that ends early.
    Frame {
        /// Kind of failure.
        how: FrameFault,
        /// Output tokens before it.
        after_tokens: u64,
    },
    /// The body ends cleanly before any content: after `message_start` in a stream, empty in JSON.
    TruncatedBeforeContent,
    /// Status 200 with the `stop_reason` `refusal`.
    Refusal {
        /// Output tokens before the refusal.
        after_tokens: u64,
    },
}

/// Kind of a failure of a frame of an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameFault {
    /// An exception, which ends the stream.
    Exception {
        /// The name, e.g. `throttlingException`.
        name: String,
        /// The message.
        message: String,
    },
    /// An error that the service does not define, which ends the stream.
    Error {
        /// The code, e.g. `InternalFailure`.
        code: String,
        /// The message.
        message: String,
    },
    /// The next frame has a wrong checksum, and the stream continues.
    BadChecksum,
    /// The prelude of the next frame has a wrong checksum, and the stream continues.
    BadPrelude,
    /// The body ends cleanly in the middle of the next frame.
    Cut,
    /// The next frame has a header of an unknown type, and the stream continues.
    UnknownHeader,
    /// A frame of an unknown event type is sent, which a reader skips.
    UnknownEvent,
    /// A chunk is sent whose JSON has no `type`, which a reader skips.
    Untyped,
}

impl FrameFault {
    /// Creates an exception with a name, e.g. `throttlingException`, and a message.
    #[must_use]
    pub fn exception(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Exception {
            name: name.into(),
            message: message.into(),
        }
    }

    /// Creates an error with a code and a message.
    #[must_use]
    pub fn error(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Error {
            code: code.into(),
            message: message.into(),
        }
    }

    /// Returns the `error.type` of the same error of the Claude API, if it is an error.
    pub(crate) fn error_type(&self) -> Option<&'static str> {
        let (Self::Exception { name, .. } | Self::Error { code: name, .. }) = self else {
            return None;
        };
        Some(match name.as_str() {
            "throttlingException" => "rate_limit_error",
            "serviceUnavailableException" => "overloaded_error",
            "modelTimeoutException" => "timeout_error",
            "validationException" => "invalid_request_error",
            _ => "api_error",
        })
    }

    /// Returns true if the stream continues after it.
    pub(crate) fn continues(&self) -> bool {
        !matches!(
            self,
            Self::Exception { .. } | Self::Error { .. } | Self::Cut
        )
    }

    /// Returns true if a reader of the frames skips it.
    pub(crate) fn is_skipped(&self) -> bool {
        matches!(self, Self::UnknownEvent | Self::Untyped)
    }
}

/// Kind of a failure of the connection. In process, and over HTTP/1 where it has no meaning there,
/// each is a closed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakKind {
    /// The connection is closed, with all its streams.
    Close,
    /// HTTP/2: a `GOAWAY` that excludes all streams, so that the server has taken none of them.
    /// Then the connection is closed.
    GoAwayUntaken,
    /// HTTP/2: a `GOAWAY` that includes all streams. Then the connection is closed.
    GoAwayTaken,
    /// HTTP/2: `RST_STREAM` with this error code from 0 to 13: 0 is `NO_ERROR`, 2 `INTERNAL_ERROR`,
    /// 7 `REFUSED_STREAM`. A larger code counts as 13.
    ResetStream(u32),
}

/// Point of a response at which a connection fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakPoint {
    /// Before the response head.
    BeforeHead,
    /// After the head and before the body.
    AfterHead,
    /// After this many output tokens.
    AfterTokens(u64),
}

impl Fault {
    /// Returns a short name for logs and assertions.
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
            Self::Custom { .. } => "custom",
            Self::Break { .. } => "break",
            Self::SlowHead(_) => "slow_head",
            Self::ErrorBeforeContent => "error_before_content",
            Self::ErrorMidStream { .. } => "error_mid_stream",
            Self::Truncated { .. } => "truncated",
            Self::Cut { .. } => "cut",
            Self::Stall { .. } => "stall",
            Self::Frame { .. } => "frame",
            Self::TruncatedBeforeContent => "truncated_before_content",
            Self::Refusal { .. } => "refusal",
        }
    }

    /// Returns true if the fault applies to admitted requests only.
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
            | Self::NonJson(_)
            | Self::Custom { .. } => false,
            Self::Break { at, .. } => *at != BreakPoint::BeforeHead,
            Self::SlowHead(_)
            | Self::ErrorBeforeContent
            | Self::ErrorMidStream { .. }
            | Self::Truncated { .. }
            | Self::Cut { .. }
            | Self::Stall { .. }
            | Self::Frame { .. }
            | Self::TruncatedBeforeContent
            | Self::Refusal { .. } => true,
        }
    }
}

/// A time window in which `fault` applies to each matching Messages request with `probability`.
///
/// Incidents may overlap. In the order in which they were added, the first that applies is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// Start, as time since the server's start.
    pub from: Duration,
    /// End (exclusive), as time since the server's start.
    pub until: Duration,
    /// Probability of the fault, from 0 (never) to 1 (always).
    pub probability: f64,
    /// The fault.
    pub fault: Fault,
    /// True to apply it to streaming requests only.
    pub stream_only: bool,
    /// Rate group to which it applies. `None` for all.
    pub group: Option<String>,
}

impl Incident {
    /// Creates an incident that applies `fault` to every Messages request between `from` and
    /// `until`.
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

    /// Sets the share of affected requests, 0 to 1. 1 by default.
    #[must_use]
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// Limits the incident to streaming requests.
    #[must_use]
    pub fn with_stream_only(mut self) -> Self {
        self.stream_only = true;
        self
    }

    /// Limits the incident to a rate group.
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
