//! Rejections: responses that a layer makes itself, in Claude's own error shape.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use http_body::Body;
use tower_claude_wire::{ApiError, cloud::Unportable};

use crate::{
    body_failure::BodyFailure,
    class::{Class, Kind},
    dimension::Dimension,
    readable_duration::ReadableDuration,
    response_body::ResponseBody,
};

/// The response header that names the layer which rejected a request.
pub const REJECTED_BY: HeaderName = HeaderName::from_static("x-tower-claude-refused-by");

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The reason of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectReason {
    /// The queue is full.
    QueueFull {
        /// The number of waiting requests.
        waiting: usize,
        /// The greatest number of waiting requests.
        limit: usize,
    },
    /// The waiting requests hold too many bytes.
    QueueBytesFull {
        /// The bytes that the waiting requests and this request hold.
        bytes: u64,
        /// The greatest number of bytes.
        limit: u64,
    },
    /// The wait would be, or was, longer than `max_wait`.
    WaitTooLong {
        /// The estimated wait. Zero if there is no estimate, because the wait depends on other
        /// calls in flight.
        estimated: Duration,
        /// The longest wait allowed.
        max_wait: Duration,
    },
    /// The wait would pass the caller's deadline.
    DeadlineWouldPass {
        /// The estimated wait.
        estimated: Duration,
        /// The time left.
        remaining: Duration,
    },
    /// The request is known to need more than the limit ever allows. An estimate is not enough.
    Oversized {
        /// The dimension of the limit.
        dimension: Dimension,
        /// The amount that the request needs.
        cost: u64,
        /// The limit.
        limit: u64,
    },
    /// The body of the request failed while it was read, so the request was not sent.
    Body {
        /// The failure.
        failure: BodyFailure,
    },
    /// The response did not arrive in time.
    TimedOut {
        /// The time that the layer waited.
        after: Duration,
    },
    /// A cache let this request wait for an equal one, whose call ended without a response.
    SharedCallFailed {
        /// The kind of the failure.
        because: Kind,
    },
    /// The circuit is open, so the request was not sent. A circuit that has just closed also
    /// rejects a share of the calls for a while.
    CircuitOpen {
        /// The kind of failure that opened it. [`Kind::Overloaded`] for a circuit that was forced
        /// open.
        because: Kind,
    },
    /// A header with which the caller sets a layer has no valid value.
    InvalidHeader {
        /// The name of the header.
        name: &'static str,
    },
    /// The target cannot serve this request, so it was not sent.
    Unportable {
        /// The field or header, and the reason.
        reason: Unportable,
    },
    /// No target is left that could serve the request.
    NoTarget {
        /// The kind of the failure: [`Kind::BadRequest`] if no target can ever serve the request.
        because: Kind,
    },
    /// The source of credentials for the target has none at present.
    NoCredential,
    /// The store of a shared limiter does not answer, and the limiter is set to reject requests
    /// without it.
    LimiterUnavailable,
}

/// A request that a layer has rejected. Also the extension on the response that reports it.
///
/// [`into_response`](Self::into_response) makes that response. It looks like an error of the API,
/// so callers need no error type of their own for it.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_claude_core::{Kind, RejectReason, Rejection};
///
/// let rejection = Rejection::new("my-layer", RejectReason::QueueFull { waiting: 9, limit: 9 });
/// let response = rejection.into_response::<Full<Bytes>>();
/// assert_eq!(response.status(), 429);
/// let found = response.extensions().get::<Rejection>().expect("inserted by into_response");
/// assert_eq!(found.by, "my-layer");
/// assert_eq!(found.class().kind, Kind::RateLimited);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The name of the layer, as in the header [`REJECTED_BY`].
    pub by: &'static str,
    /// The reason.
    pub reason: RejectReason,
    /// The time after which another attempt makes sense. `None` if it is not known.
    pub retry_after: Option<Duration>,
    /// The position, from 1, that the request would have had among the waiting requests of its
    /// priority and tenant. `None` if there is no queue, or if the request was queued and then
    /// timed out.
    pub queue_position: Option<usize>,
}

impl Rejection {
    /// Creates a rejection by the layer of this name.
    #[must_use]
    pub const fn new(by: &'static str, reason: RejectReason) -> Self {
        Self {
            by,
            reason,
            retry_after: None,
            queue_position: None,
        }
    }

    /// Sets the queue position that the request would have had.
    #[must_use]
    pub const fn with_queue_position(mut self, position: Option<usize>) -> Self {
        self.queue_position = position;
        self
    }

    /// Sets the time after which another attempt makes sense.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Replaces the name of the layer.
    #[must_use]
    pub const fn in_name_of(mut self, by: &'static str) -> Self {
        self.by = by;
        self
    }

    /// Returns the class of the response. It is `local` if the request was not sent.
    #[must_use]
    pub const fn class(&self) -> Class {
        let class = match self.reason {
            RejectReason::QueueFull { .. }
            | RejectReason::QueueBytesFull { .. }
            | RejectReason::WaitTooLong { .. } => Class::new(Kind::RateLimited),
            RejectReason::Oversized { .. } => Class::new(Kind::TooLarge),
            RejectReason::Body { failure } => failure.class(),
            RejectReason::InvalidHeader { .. } | RejectReason::Unportable { .. } => {
                Class::new(Kind::BadRequest)
            }
            RejectReason::DeadlineWouldPass { .. } => Class::new(Kind::Timeout),
            // An invalid or unfunded credential, or an account on hold, fails for every model, so
            // report 401, 402 or 403 instead of 529.
            RejectReason::CircuitOpen {
                because: because @ (Kind::Unauthorized | Kind::SpendLimit | Kind::Forbidden),
            }
            | RejectReason::NoTarget {
                because:
                    because @ (Kind::BadRequest
                    | Kind::RateLimited
                    | Kind::Unauthorized
                    | Kind::SpendLimit
                    | Kind::Forbidden),
            } => Class::new(because),
            RejectReason::NoTarget { .. }
            | RejectReason::CircuitOpen { .. }
            | RejectReason::NoCredential
            | RejectReason::LimiterUnavailable => Class::new(Kind::Overloaded),
            // The request was sent and may be billed, so the class is not local.
            RejectReason::TimedOut { .. } => {
                return Class::new(Kind::Timeout).with_retry_after(self.retry_after);
            }
            RejectReason::SharedCallFailed { because } => {
                return Class::new(because).with_retry_after(self.retry_after);
            }
        };
        class.with_retry_after(self.retry_after).into_local()
    }

    /// Returns the status of the response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.wire().0
    }

    /// Returns the status and the `error.type` that Claude uses for such an error.
    const fn wire(&self) -> (StatusCode, &'static str) {
        match self.reason {
            RejectReason::QueueFull { .. }
            | RejectReason::QueueBytesFull { .. }
            | RejectReason::WaitTooLong { .. }
            | RejectReason::NoTarget {
                because: Kind::RateLimited,
            } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
            RejectReason::Oversized { .. }
            | RejectReason::Body {
                failure: BodyFailure::TooLong,
            } => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
            RejectReason::InvalidHeader { .. }
            | RejectReason::Unportable { .. }
            | RejectReason::NoTarget {
                because: Kind::BadRequest,
            }
            | RejectReason::Body {
                failure: BodyFailure::Broken,
            } => (StatusCode::BAD_REQUEST, "invalid_request_error"),
            RejectReason::DeadlineWouldPass { .. }
            | RejectReason::TimedOut { .. }
            | RejectReason::Body {
                failure: BodyFailure::TimedOut,
            } => (StatusCode::GATEWAY_TIMEOUT, "timeout_error"),
            RejectReason::SharedCallFailed { .. } => (StatusCode::BAD_GATEWAY, "api_error"),
            RejectReason::CircuitOpen {
                because: Kind::Unauthorized,
            }
            | RejectReason::NoTarget {
                because: Kind::Unauthorized,
            } => (StatusCode::UNAUTHORIZED, "authentication_error"),
            RejectReason::CircuitOpen {
                because: Kind::SpendLimit,
            }
            | RejectReason::NoTarget {
                because: Kind::SpendLimit,
            } => (StatusCode::PAYMENT_REQUIRED, "billing_error"),
            RejectReason::CircuitOpen {
                because: Kind::Forbidden,
            }
            | RejectReason::NoTarget {
                because: Kind::Forbidden,
            } => (StatusCode::FORBIDDEN, "permission_error"),
            RejectReason::CircuitOpen { .. }
            | RejectReason::NoTarget { .. }
            | RejectReason::NoCredential
            | RejectReason::LimiterUnavailable => (overloaded(), "overloaded_error"),
        }
    }

    /// Returns the response that reports this rejection.
    ///
    /// It has Claude's error shape, `retry-after` in whole seconds (rounded up), the header
    /// [`REJECTED_BY`], and this rejection and its [`Class`] as extensions. For another shape, see
    /// [`RejectionLayer`](crate::RejectionLayer).
    #[must_use]
    pub fn into_response<B: Body<Data = Bytes>>(self) -> Response<ResponseBody<B>> {
        self.into_response_with(None)
    }

    /// Returns the response, with details after the text of the rejection.
    pub(crate) fn into_response_with<B: Body<Data = Bytes>>(
        self,
        details: Option<&str>,
    ) -> Response<ResponseBody<B>> {
        let (status, kind) = self.wire();
        let mut text = self.to_string();
        if let Some(details) = details {
            text.push_str(": ");
            text.push_str(details);
        }
        let body = Bytes::from(ApiError::body(kind, &text, None));
        let class = self.class();
        let length = body.len();
        let mut response = Response::new(ResponseBody::full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        // A name that is not a valid header value is a mistake of the layer's author. It does not
        // justify a panic.
        let by = HeaderValue::from_str(self.by);
        headers.insert(
            REJECTED_BY,
            by.unwrap_or(const { HeaderValue::from_static("unnamed") }),
        );
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        let extensions = response.extensions_mut();
        extensions.insert(class);
        extensions.insert(self);
        response
    }
}

/// Returns status 529, which has no constant because only Claude uses it.
const fn overloaded() -> StatusCode {
    match StatusCode::from_u16(529) {
        Ok(status) => status,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Returns the wait in whole seconds, rounded up so that nothing is sent too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs()
        .saturating_add(u64::from(wait.subsec_nanos() > 0))
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.by, self.reason)?;
        match (self.reason, self.retry_after) {
            (RejectReason::CircuitOpen { .. }, Some(wait)) => {
                write!(f, "; try again in {}", ReadableDuration(wait))
            }
            _ => Ok(()),
        }
    }
}

impl RejectReason {
    /// Returns the reason in one word, for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "queue_full",
            Self::QueueBytesFull { .. } => "queue_bytes_full",
            Self::WaitTooLong { .. } => "wait_too_long",
            Self::DeadlineWouldPass { .. } => "deadline",
            Self::Oversized { .. } => "oversized",
            Self::Body { .. } => "body",
            Self::TimedOut { .. } => "timed_out",
            Self::SharedCallFailed { .. } => "shared_call_failed",
            Self::CircuitOpen { .. } => "circuit_open",
            Self::InvalidHeader { .. } => "invalid_header",
            Self::Unportable { .. } => "unportable",
            Self::NoTarget { .. } => "no_target",
            Self::NoCredential => "no_credential",
            Self::LimiterUnavailable => "limiter_unavailable",
        }
    }
}

impl fmt::Display for RejectReason {
    /// Writes a sentence for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::QueueFull { waiting, limit } => {
                write!(
                    f,
                    "{waiting} requests wait already, the queue holds {limit}"
                )
            }
            Self::QueueBytesFull { bytes, limit } => write!(
                f,
                "this and the waiting requests hold {bytes} bytes, the queue holds {limit}"
            ),
            Self::WaitTooLong {
                estimated,
                max_wait,
            } => {
                match estimated {
                    Duration::ZERO => f.write_str("requests in flight must end first")?,
                    wait => write!(
                        f,
                        "the wait for the rate limit is {}",
                        ReadableDuration(wait)
                    )?,
                }
                write!(
                    f,
                    ", the longest wait allowed is {}",
                    ReadableDuration(max_wait)
                )
            }
            Self::DeadlineWouldPass {
                remaining: Duration::ZERO,
                ..
            } => f.write_str("the deadline of this request has passed"),
            Self::DeadlineWouldPass {
                estimated,
                remaining,
            } => {
                let (estimated, remaining) =
                    (ReadableDuration(estimated), ReadableDuration(remaining));
                write!(
                    f,
                    "this request would wait {estimated}, its deadline passes in {remaining}"
                )
            }
            Self::Oversized {
                dimension,
                cost,
                limit,
            } => write!(
                f,
                "this request needs {cost} {dimension}, the limit is {limit}: shorten it, raise the \
                 limit, or use a model with a higher limit"
            ),
            Self::Body { failure } => f.write_str(failure.message()),
            Self::SharedCallFailed { .. } => {
                f.write_str("the request that this one waited for got no answer")
            }
            Self::InvalidHeader { name } => write!(f, "the header {name} has no valid value"),
            Self::Unportable { reason } => {
                write!(f, "the target cannot serve this request: {reason}")
            }
            Self::NoTarget { .. } => f.write_str("no target is left for this request"),
            Self::NoCredential => {
                f.write_str("the source of credentials for the target has none at present")
            }
            Self::LimiterUnavailable => f.write_str("the store of the rate limit does not answer"),
            Self::TimedOut { after } => write!(f, "no answer within {}", ReadableDuration(after)),
            Self::CircuitOpen { because } => write!(
                f,
                "the circuit is open ({}), the request was not sent",
                because.as_str()
            ),
        }
    }
}

impl std::error::Error for Rejection {}
