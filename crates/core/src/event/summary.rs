//! The end of an attempt, and the end of a call.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Request, StatusCode};
use tower_claude_wire::{self as wire, ApiError, Bill, Billing, Peek, RateLimits, Usage};

use crate::{
    class::{Class, Kind},
    cost::{EstimateCost, HeuristicCost},
    endpoint::Endpoint,
    rejection::Rejection,
    request_body::RequestBody,
    scope::Scope,
    workload::Workload,
};

/// The longest wait of an ordinary call.
pub(super) const LONG_WAIT: Duration = Duration::from_secs(1);

/// The time from which a first content is slow.
const SLOW: Duration = Duration::from_secs(10);

/// The way in which an attempt or a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The whole response arrived.
    Answered,
    /// It failed before any content reached the caller.
    Failed,
    /// It failed after content had reached the caller.
    Broken,
    /// The caller dropped the future or the body of the response.
    Dropped,
}

impl Ending {
    /// Returns the name for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Broken => "broken",
            Self::Dropped => "dropped",
        }
    }
}

/// Facts about a request that only some observers want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestDetails {
    /// The greatest number of output tokens that the request allows.
    pub max_tokens: Option<u64>,
    /// True for fast mode.
    pub fast: bool,
    /// The estimated input tokens. `None` for a request of unknown size, and for one that uses the
    /// prompt cache, most of whose tokens may be cache reads.
    pub estimated_input: Option<u64>,
}

/// Facts about a response that only some observers want.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ResponseDetails {
    /// The rate-limit headers.
    pub limits: RateLimits,
    /// The server's clock (`date`).
    pub date: Option<SystemTime>,
    /// The header `retry-after`.
    pub retry_after: Option<Duration>,
    /// The workspace of the credential.
    pub workspace: Option<Box<str>>,
    /// The type of the error, if its body was read.
    pub error_type: Option<Box<str>>,
    /// The `error_code` of the error, if its body was read.
    pub error_code: Option<Box<str>>,
    /// True if the error names the number of concurrent connections as its reason.
    pub is_concurrency: bool,
}

impl RequestDetails {
    pub(crate) fn of(request: &Request<RequestBody>) -> Self {
        let peek = request.body().peek();
        // The estimate would count what the prompt cache provides.
        let is_cached = peek.is_none_or(Peek::mentions_cache_control);
        let estimator = HeuristicCost::new(0).without_cache_reads();
        let estimate = (!is_cached).then(|| estimator.estimate(request).input_tokens);
        Self {
            max_tokens: peek.and_then(Peek::max_tokens),
            fast: peek.is_some_and(Peek::fast),
            estimated_input: estimate.filter(|tokens| *tokens > 0),
        }
    }
}

impl ResponseDetails {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let date = wire::date(headers);
        let now = date.unwrap_or_else(SystemTime::now);
        Self {
            limits: RateLimits::from_headers(headers),
            date,
            retry_after: wire::retry_after(headers, now),
            workspace: wire::workspace_id(headers).map(Box::from),
            error_type: None,
            error_code: None,
            is_concurrency: false,
        }
    }

    /// Adds the names in an error, if the body of the response has one. Its message is left out.
    pub(crate) fn add_error(&mut self, body: &[u8]) {
        if let Some(error) = ApiError::parse_any(body) {
            self.is_concurrency = error.is_concurrency();
            self.error_type = (!error.kind.is_empty()).then(|| error.kind.into());
            self.error_code = error.error_code.map(Into::into);
        }
    }
}

/// The end of an attempt: one request that was sent.
///
/// A request that a layer has rejected, or that was dropped in a queue, is no attempt. See
/// [`Event::AttemptEnded`](super::Event::AttemptEnded).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttemptEnd<'a> {
    /// The name of the layer that reports the attempt, the innermost one.
    pub layer: &'static str,
    /// The number of the call, which no other call of this process has. All its attempts have the
    /// same.
    pub call: u64,
    /// The number of the attempt in its call, from 1.
    pub attempt: u32,
    /// The way in which it ended.
    pub ending: Ending,
    /// The class of the failure. [`Class::SUCCESS`] if there was none.
    pub class: Class,
    /// The family of the endpoint.
    pub endpoint: Endpoint,
    /// The model in the request that was sent, so the stand-in after a fallback.
    pub model: Option<&'a str>,
    /// The pool of limits, if a limiter in this driver knows it.
    pub scope: Option<&'a Scope>,
    /// The keyed hash of the credential, as [`Scope::credential`](crate::Scope::credential). 0 if
    /// it is not known.
    pub credential: u64,
    /// The tenant of the call.
    pub tenant: Option<&'a str>,
    /// The workload of the call.
    pub workload: Workload,
    /// The status of the response, if there was one.
    pub status: Option<StatusCode>,
    /// The facts about the request that the observer
    /// [wants](super::Observer::wants_details).
    pub request: Option<&'a RequestDetails>,
    /// The facts about the response, if there was one and the observer
    /// [wants them](super::Observer::wants_details).
    pub response: Option<&'a ResponseDetails>,
    /// The time from the start of the attempt until it was sent: the wait for a limiter, or for an
    /// inner service that was not ready.
    pub wait: Duration,
    /// The time from sending until the first content of a stream, or the first data of another
    /// body.
    pub first_content: Option<Duration>,
    /// The time from sending until the end.
    pub duration: Duration,
    /// The usage that the response reported. Empty if it reported none.
    pub usage: &'a Usage,
    /// The properties of the request that change its price. `None` if the price of such a request
    /// is not known: of another endpoint than Messages, or of a response without any output, which
    /// may be a refusal that is not billed.
    pub billing: Option<Billing>,
    /// The bill of the usage, by the [catalog of the observer](super::Observer::catalog). `None` if
    /// no usage was reported, or if its price is not known.
    /// See [`Prices::bill`](tower_claude_wire::Prices::bill).
    pub bill: Option<Bill>,
    /// The `request-id` of the response.
    pub request_id: Option<&'a str>,
    /// The cause of a transport error. See [`Classify::cause`](crate::Classify::cause).
    pub cause: Option<&'a str>,
}

/// The end of a call, with the sum of its attempts.
///
/// See [`Event::CallEnded`](super::Event::CallEnded).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CallEnd<'a> {
    /// The name of the layer that reports the call, the outermost one.
    pub layer: &'static str,
    /// The number of the call. See [`AttemptEnd::call`].
    pub call: u64,
    /// The way in which it ended.
    pub ending: Ending,
    /// The class of the failure. [`Class::SUCCESS`] if there was none.
    pub class: Class,
    /// The family of the endpoint.
    pub endpoint: Endpoint,
    /// The model that the caller asked for.
    pub asked: Option<&'a str>,
    /// The model that the last attempt was sent to. It has answered if the call was answered.
    /// Absent if no request was sent.
    pub model: Option<&'a str>,
    /// The pool of limits of the last attempt, if known.
    pub scope: Option<&'a Scope>,
    /// The keyed hash of the credential, as [`Scope::credential`](crate::Scope::credential). 0 if
    /// it is not known.
    pub credential: u64,
    /// The tenant of the call.
    pub tenant: Option<&'a str>,
    /// The workload of the call.
    pub workload: Workload,
    /// The status of the response for the caller, if there is one. A
    /// [`RejectionLayer`](crate::RejectionLayer) outside may replace that of a rejection.
    pub status: Option<StatusCode>,
    /// The number of requests that were sent.
    pub attempts: u32,
    /// The sum of the waits before the attempts. See [`AttemptEnd::wait`].
    pub wait: Duration,
    /// The sum of the delays between attempts.
    pub backoff: Duration,
    /// The time from the arrival of the request until the first content for the caller.
    pub first_content: Option<Duration>,
    /// The time from the arrival of the request until the end.
    pub duration: Duration,
    /// The usage of all attempts. Empty if none was reported.
    pub usage: &'a Usage,
    /// The sum of the bills of all attempts that reported a usage. `None` if the price of one of
    /// them is not known, or if none reported a usage. See [`AttemptEnd::bill`].
    pub bill: Option<Bill>,
    /// The `request-id` of the last response.
    pub request_id: Option<&'a str>,
    /// The facts about the request of the caller that the observer
    /// [wants](super::Observer::wants_details).
    pub request: Option<&'a RequestDetails>,
    /// The rejection, if a layer has refused the call.
    pub rejection: Option<Rejection>,
    /// The cause of the last transport error. See [`Classify::cause`](crate::Classify::cause).
    pub cause: Option<&'a str>,
    /// The failure for which the call was sent to another model. `None` if it was not. The first
    /// one if several models failed.
    pub fallback: Option<Kind>,
}

impl CallEnd<'_> {
    /// Returns true if another model than the requested one was sent the last request.
    #[must_use]
    pub fn fell_back(&self) -> bool {
        self.asked.is_some() && self.model.is_some() && self.asked != self.model
    }

    /// Returns true if the call was answered at the first attempt, by the model asked for, within
    /// the usual time: it waited for less than 1 s, and its first content came in less than 10 s.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        self.ending == Ending::Answered
            && self.attempts <= 1
            && self.wait < LONG_WAIT
            && self.first_content.unwrap_or(self.duration) < SLOW
            && !self.fell_back()
    }
}
