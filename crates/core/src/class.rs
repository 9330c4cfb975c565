//! What the outcome of one attempt means.

use std::time::Duration;

use http::Response;

use crate::ClassifyResponse;

/// The kind of outcome, the same for a remote answer, a local refusal, a transport error and an
/// error inside a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Answered. For a stream: so far.
    Success,
    /// 429 for requests, tokens or concurrency: the server took nothing, waiting helps.
    RateLimited,
    /// 429 with `ramp_limit_exceeded`: traffic rose too sharply, waiting helps.
    RampLimited,
    /// A spend cap, a credit balance or another billing stop: waiting does not help.
    SpendLimit,
    /// 529, or `overloaded_error` inside a stream.
    Overloaded,
    /// 500, 502, 503 and other 5xx.
    ServerError,
    /// 408, 504, or one of our own timers.
    Timeout,
    /// The connection failed before or during the response.
    Transport,
    /// 409: a state conflict, gone when tried again.
    Conflict,
    /// 400, 422 and other 4xx: the request itself is wrong.
    BadRequest,
    /// 401: the credential is wrong or expired.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404: resource or model missing, or the model is retired.
    NotFound,
    /// 413: the body, or what it would cost, can never fit.
    TooLarge,
    /// 200 with `stop_reason: "refusal"`: the model declined.
    ModelRefusal,
    /// A stream that ended without `message_stop`, or a body that broke off.
    Truncated,
}

impl Kind {
    /// The name used in logs, metrics and headers: lower case, words joined by `_`.
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
}

/// What an outcome means. Retry, breaker, fallback, cache and alerts read this and nothing else,
/// so they agree by construction.
///
/// A layer that had to read an error body leaves the `Class` in the response's extensions; outer
/// layers reuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Class {
    /// What happened.
    pub kind: Kind,
    /// How long the server (or the refusing layer) asks to wait.
    pub retry_after: Option<Duration>,
    /// `x-should-retry`, unless an `error_code` has already decided.
    pub should_retry: Option<bool>,
    /// Made by a layer on this side: the request was not sent.
    pub local: bool,
}

impl Class {
    /// A class of this kind, remote, without any advice.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            retry_after: None,
            should_retry: None,
            local: false,
        }
    }

    /// An answered request.
    pub const SUCCESS: Self = Self::new(Kind::Success);

    /// What the head of a response means; `None` when the body must be read first, which that of a success never is:
    /// to read a whole answer would hold back a stream.
    ///
    /// A class that a layer further in has left stands with `reuse`; without it, as for a layer that was given a
    /// classifier of its own, only where that layer refused on this side: that is a fact.
    pub fn by_head<C, B>(classifier: &C, reuse: bool, response: &Response<B>) -> Option<Self>
    where
        C: ClassifyResponse,
    {
        let (status, left) = (response.status(), response.extensions().get::<Self>());
        left.copied()
            .filter(|class| class.local || reuse)
            .or_else(|| classifier.head(status, response.headers()))
            .or_else(|| status.is_success().then_some(Self::SUCCESS))
    }

    /// The same class with the server's wait.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// The same class with the server's word on retrying.
    #[must_use]
    pub const fn with_should_retry(mut self, advice: Option<bool>) -> Self {
        self.should_retry = advice;
        self
    }

    /// The same class, marked as made on this side.
    #[must_use]
    pub const fn into_local(mut self) -> Self {
        self.local = true;
        self
    }

    /// Whether the attempt got an answer (a refusal by the model is one).
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.kind, Kind::Success | Kind::ModelRefusal)
    }

    /// Whether a limiter should slow down: a 429 that waiting cures.
    #[must_use]
    pub const fn is_rate_limit(&self) -> bool {
        matches!(self.kind, Kind::RateLimited | Kind::RampLimited)
    }

    /// Whether the same request may succeed when sent again.
    ///
    /// `x-should-retry` beats the status, but never a local refusal or a spend limit.
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

    /// [`is_retryable`](Self::is_retryable) by kind alone.
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
