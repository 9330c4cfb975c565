//! The classification of an attempt.

use std::time::Duration;

/// The kind of an outcome.
///
/// One set of kinds covers responses of the server, rejections by a layer, transport errors and
/// errors inside a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The server answered. For a stream, this holds for the part that was read.
    Success,
    /// 429 for requests, tokens or concurrency. The server charged nothing, and waiting helps.
    RateLimited,
    /// 429 with `ramp_limit_exceeded`. Traffic rose too sharply, and waiting helps.
    RampLimited,
    /// A spend limit, an empty credit balance or another billing problem. Waiting does not help.
    SpendLimit,
    /// 529, or `overloaded_error` with any status or inside a stream.
    Overloaded,
    /// 500, 502, 503 and other 5xx, 424, or a 200 that is not the expected response.
    ServerError,
    /// 408, 504, 524, or a timer of a layer.
    Timeout,
    /// The connection failed before or during the response, or was the wrong one (421, 425).
    Transport,
    /// 409. A state conflict that another attempt resolves.
    Conflict,
    /// 400, 422 and other 4xx. The request itself is invalid. Also a redirect in place of a
    /// message, which no layer follows.
    BadRequest,
    /// 401. The credential is invalid or expired.
    Unauthorized,
    /// 403, or an account on hold.
    Forbidden,
    /// 404. The resource or the model does not exist, or the model is retired.
    NotFound,
    /// 413, or a prompt that is longer than the context window. The body, or the cost of the
    /// request, exceeds a limit.
    TooLarge,
    /// 200 with `stop_reason: "refusal"`. The model declined to answer.
    ModelRefusal,
    /// A stream that ended without stop reason and `message_stop`, or an empty or incomplete body.
    Truncated,
}

impl Kind {
    /// All kinds, in the order of their definition.
    #[cfg(feature = "metrics")]
    pub(crate) const ALL: [Self; 16] = [
        Self::Success,
        Self::RateLimited,
        Self::RampLimited,
        Self::SpendLimit,
        Self::Overloaded,
        Self::ServerError,
        Self::Timeout,
        Self::Transport,
        Self::Conflict,
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::TooLarge,
        Self::ModelRefusal,
        Self::Truncated,
    ];

    /// Returns the name for logs, metrics and headers, in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::RateLimited => "rate_limited",
            Self::RampLimited => "ramp_limited",
            Self::SpendLimit => "spend_limit",
            Self::Overloaded => "overloaded",
            Self::ServerError => "server_error",
            Self::Timeout => "timeout",
            Self::Transport => "transport",
            Self::Conflict => "conflict",
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::TooLarge => "too_large",
            Self::ModelRefusal => "refusal",
            Self::Truncated => "truncated",
        }
    }

    /// Returns the extent of a failure of this kind, unless the response says otherwise.
    const fn reach(self) -> Reach {
        match self {
            Self::RateLimited | Self::RampLimited => Reach::Group,
            Self::SpendLimit | Self::Unauthorized => Reach::Credential,
            Self::Overloaded
            | Self::ServerError
            | Self::Timeout
            | Self::Transport
            | Self::Truncated => Reach::Model,
            Self::Success
            | Self::Conflict
            | Self::BadRequest
            | Self::Forbidden
            | Self::NotFound
            | Self::TooLarge
            | Self::ModelRefusal => Reach::Request,
        }
    }

    /// Returns true if a server that answers with this kind has not processed the request.
    const fn is_unprocessed(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::RampLimited
                | Self::SpendLimit
                | Self::Overloaded
                | Self::BadRequest
                | Self::Unauthorized
                | Self::Forbidden
                | Self::NotFound
                | Self::TooLarge
        )
    }
}

/// The extent of a failure: the requests that fail for the same reason at the same time.
///
/// Each value includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reach {
    /// This request only. No layer may delay or reject another request because of it.
    Request,
    /// The requests to this model, at this endpoint and host.
    Model,
    /// The requests of this credential to the models that share a rate limit with this one.
    Group,
    /// All requests of this credential. Another model does not help.
    Credential,
}

/// The classification of one attempt.
///
/// Retry, circuit breaker, fallback, cache and alerts base their decisions on this value alone, so
/// they always agree. The innermost layer that classifies a failed response inserts the `Class`
/// into its extensions, and outer layers reuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Class {
    /// The kind of the outcome.
    pub kind: Kind,
    /// The wait before another attempt, from the server or from the layer that rejected the
    /// request.
    pub retry_after: Option<Duration>,
    /// The value of `x-should-retry`. `None` if the header is absent, or if an `error_code`
    /// overrules it.
    pub should_retry: Option<bool>,
    /// True if a layer in this process rejected the request, so it was not sent.
    pub local: bool,
    /// The extent of the failure.
    pub reach: Reach,
    /// True if the server has certainly not processed the request. Such a request may be sent again
    /// even if it creates something. False if the server may have processed it.
    pub unprocessed: bool,
}

impl Class {
    /// Creates a class of this kind, without a wait or advice, for a request that was sent.
    ///
    /// The kind determines the reach and whether the request was processed.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            retry_after: None,
            should_retry: None,
            local: false,
            reach: kind.reach(),
            unprocessed: kind.is_unprocessed(),
        }
    }

    /// The class of a successful attempt.
    pub const SUCCESS: Self = Self::new(Kind::Success);

    /// The class of an attempt that the server did not take, because its connection or stream was
    /// going away. Another attempt may follow at once, and the server is not to blame.
    pub const NOT_TAKEN: Self = Self::new(Kind::Transport)
        .into_unprocessed()
        .with_reach(Reach::Request);

    /// Replaces the kind, and what it determines. The wait and the advice of the server stay.
    #[must_use]
    pub(crate) const fn with_kind(self, kind: Kind) -> Self {
        Self::new(kind)
            .with_retry_after(self.retry_after)
            .with_should_retry(self.should_retry)
    }

    /// Sets the wait before another attempt.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Sets the server's advice on retrying.
    #[must_use]
    pub const fn with_should_retry(mut self, advice: Option<bool>) -> Self {
        self.should_retry = advice;
        self
    }

    /// Sets the extent of the failure.
    #[must_use]
    pub const fn with_reach(mut self, reach: Reach) -> Self {
        self.reach = reach;
        self
    }

    /// Marks the request as one that the server has not processed.
    #[must_use]
    pub const fn into_unprocessed(mut self) -> Self {
        self.unprocessed = true;
        self
    }

    /// Marks the class as local, for a request that was not sent.
    #[must_use]
    pub const fn into_local(mut self) -> Self {
        self.local = true;
        self.unprocessed = true;
        self
    }

    /// Returns true if the server answered. A refusal by the model counts as an answer.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.kind, Kind::Success | Kind::ModelRefusal)
    }

    /// Returns true if the server did not take the request, for a reason that concerns no other
    /// request. See [`NOT_TAKEN`](Self::NOT_TAKEN).
    #[must_use]
    pub const fn is_not_taken(&self) -> bool {
        self.unprocessed
            && !self.local
            && self.retry_after.is_none()
            && matches!(self.kind, Kind::Transport)
            && matches!(self.reach, Reach::Request)
    }

    /// Returns true for a 429 that passes with time and reaches other requests. A limiter then
    /// slows down.
    #[must_use]
    pub const fn is_rate_limit(&self) -> bool {
        matches!(self.kind, Kind::RateLimited | Kind::RampLimited)
            && !matches!(self.reach, Reach::Request)
    }

    /// Returns the shortest time for which failures of this class are not probed: the server's
    /// `retry_after`. `None` for a spend limit, which can be raised at any time.
    #[must_use]
    pub const fn least_cool_down(&self) -> Option<Duration> {
        match self.kind {
            Kind::SpendLimit => None,
            _ => self.retry_after,
        }
    }

    /// Returns true if the same request may succeed when it is sent again.
    ///
    /// `x-should-retry` overrules the kind. A local rejection and a spend limit are never
    /// retryable.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        if self.local || self.is_success() || matches!(self.kind, Kind::SpendLimit) {
            return false;
        }
        match self.should_retry {
            Some(advice) => advice,
            None => self.kind_is_retryable(),
        }
    }

    /// Returns true if the kind alone is retryable. See [`is_retryable`](Self::is_retryable).
    #[must_use]
    pub(crate) const fn kind_is_retryable(&self) -> bool {
        matches!(
            self.kind,
            Kind::RateLimited
                | Kind::RampLimited
                | Kind::Overloaded
                | Kind::ServerError
                | Kind::Timeout
                | Kind::Transport
                | Kind::Conflict
                | Kind::Truncated
        )
    }
}
