//! What a layer answers when it does not send a request: a response in Claude's own error shape.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use http_body::Body;
use tower_claude_wire::ApiError;

use crate::{Class, Dimension, Kind, ResponseBody};

/// Names the layer that refused. On every response that a layer made itself.
pub const REJECTED_BY: HeaderName = HeaderName::from_static("x-tower-claude-refused-by");

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why a layer refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectReason {
    /// More requests wait than the queue holds.
    QueueFull {
        /// Requests waiting.
        waiting: usize,
        /// The most that may wait.
        limit: usize,
    },
    /// The wait would be, or was, longer than `max_wait`.
    WaitTooLong {
        /// The estimated wait; zero where it cannot be foreseen, since requests in flight must end first.
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
    /// The request needs more than the limit ever allows.
    Oversized {
        /// Which limit.
        dimension: Dimension,
        /// What the request needs.
        cost: u64,
        /// The limit.
        limit: u64,
    },
    /// No answer in time.
    TimedOut {
        /// How long the layer waited.
        after: Duration,
    },
    /// The circuit is open: calls fail, so none is made for a while. Or it closed a moment ago, and does not let all
    /// calls through yet.
    CircuitOpen {
        /// What opened it; [`Kind::Overloaded`] when it was opened by hand.
        because: Kind,
    },
}

/// A layer's own answer in place of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The layer, as in `x-tower-claude-refused-by`.
    pub by: &'static str,
    /// Why.
    pub reason: RejectReason,
    /// When asking again makes sense.
    pub retry_after: Option<Duration>,
    /// The place, from 1, that it would have had among the waiting requests of its priority and tenant, where
    /// there is a queue that did not take it. Of one that has waited in vain the limiter does not tell it.
    pub queue_position: Option<usize>,
}

/// The extension on a response that a layer made itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected {
    /// The layer.
    pub by: &'static str,
    /// What the response means; `local` when the request was not sent.
    pub class: Class,
    /// Why the layer refused.
    pub reason: RejectReason,
    /// When asking again makes sense.
    pub retry_after: Option<Duration>,
    /// The place, from 1, that it would have had among the waiting requests of its priority and tenant, where
    /// there is a queue that did not take it. Of one that has waited in vain the limiter does not tell it.
    pub queue_position: Option<usize>,
}

impl Rejection {
    /// A refusal by this layer.
    #[must_use]
    pub const fn new(by: &'static str, reason: RejectReason) -> Self {
        Self {
            by,
            reason,
            retry_after: None,
            queue_position: None,
        }
    }

    /// The same refusal with the place in the queue that the request would have had.
    #[must_use]
    pub const fn with_queue_position(mut self, position: Option<usize>) -> Self {
        self.queue_position = position;
        self
    }

    /// The same refusal with a time after which asking again makes sense.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// The same refusal in the name of another layer.
    #[must_use]
    pub const fn in_name_of(mut self, by: &'static str) -> Self {
        self.by = by;
        self
    }

    /// What the refusal means to outer layers.
    #[must_use]
    pub const fn class(&self) -> Class {
        let class = match self.reason {
            RejectReason::QueueFull { .. } | RejectReason::WaitTooLong { .. } => {
                Class::new(Kind::RateLimited)
            }
            RejectReason::Oversized { .. } => Class::new(Kind::TooLarge),
            RejectReason::DeadlineWouldPass { .. } => Class::new(Kind::Timeout),
            // Whose credential is not accepted, or not paid for, is not helped by another model.
            RejectReason::CircuitOpen {
                because: because @ (Kind::Unauthorized | Kind::SpendLimit),
            } => Class::new(because),
            RejectReason::CircuitOpen { .. } => Class::new(Kind::Overloaded),
            // The request was sent: whoever pays for it must know.
            RejectReason::TimedOut { .. } => {
                return Class::new(Kind::Timeout).with_retry_after(self.retry_after);
            }
        };
        class.with_retry_after(self.retry_after).into_local()
    }

    /// The status and `error.type` that Claude uses for the like.
    const fn wire(&self) -> (StatusCode, &'static str) {
        match self.reason {
            RejectReason::QueueFull { .. } | RejectReason::WaitTooLong { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error")
            }
            RejectReason::Oversized { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
            RejectReason::DeadlineWouldPass { .. } | RejectReason::TimedOut { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "timeout_error")
            }
            RejectReason::CircuitOpen {
                because: Kind::Unauthorized,
            } => (StatusCode::UNAUTHORIZED, "authentication_error"),
            RejectReason::CircuitOpen {
                because: Kind::SpendLimit,
            } => (StatusCode::PAYMENT_REQUIRED, "billing_error"),
            RejectReason::CircuitOpen { .. } => (overloaded(), "overloaded_error"),
        }
    }

    /// The refusal as a response: Claude's error shape, `retry-after` in whole seconds rounded up,
    /// the [`Rejected`] and [`Class`] extensions, and the header [`REJECTED_BY`].
    #[must_use]
    pub fn into_response<B: Body<Data = Bytes>>(self) -> Response<ResponseBody<B>> {
        let (status, kind) = self.wire();
        let body = Bytes::from(ApiError::body(kind, &self.to_string(), None));
        let class = self.class();
        let length = body.len();
        let mut response = Response::new(ResponseBody::full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        // A name that is no header value is a layer author's slip, not worth a panic.
        let by = HeaderValue::from_str(self.by);
        headers.insert(
            REJECTED_BY,
            by.unwrap_or(const { HeaderValue::from_static("unnamed") }),
        );
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if matches!(self.reason, RejectReason::Oversized { .. }) {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        let extensions = response.extensions_mut();
        extensions.insert(class);
        extensions.insert(Rejected {
            by: self.by,
            class,
            reason: self.reason,
            retry_after: self.retry_after,
            queue_position: self.queue_position,
        });
        response
    }
}

/// 529, which only Claude knows.
const fn overloaded() -> StatusCode {
    match StatusCode::from_u16(529) {
        Ok(status) => status,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Rounded up: earlier would be too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs()
        .saturating_add(u64::from(wait.subsec_nanos() > 0))
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.by)?;
        match self.reason {
            RejectReason::QueueFull { waiting, limit } => {
                write!(
                    f,
                    "{waiting} requests wait already, the queue holds {limit}"
                )
            }
            RejectReason::WaitTooLong {
                estimated,
                max_wait,
            } if estimated.is_zero() => write!(
                f,
                "requests in flight must end first, the longest wait allowed is {max_wait:.1?}"
            ),
            RejectReason::WaitTooLong {
                estimated,
                max_wait,
            } => write!(
                f,
                "the wait for the rate limit is {estimated:.1?}, the longest wait allowed is {max_wait:.1?}"
            ),
            RejectReason::DeadlineWouldPass {
                remaining: Duration::ZERO,
                ..
            } => f.write_str("the deadline of this request has passed"),
            RejectReason::DeadlineWouldPass {
                estimated,
                remaining,
            } => write!(
                f,
                "this request would wait {estimated:.1?}, its deadline passes in {remaining:.1?}"
            ),
            RejectReason::Oversized {
                dimension,
                cost,
                limit,
            } => write!(
                f,
                "this request needs {cost} {dimension}, the limit is {limit}: it can never be sent"
            ),
            RejectReason::TimedOut { after } => write!(f, "no answer within {after:.1?}"),
            RejectReason::CircuitOpen { because } => {
                let because = because.as_str();
                write!(
                    f,
                    "the circuit is open ({because}), the request was not sent"
                )?;
                match self.retry_after {
                    Some(wait) => write!(f, "; try again in {wait:.1?}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for Rejection {}
