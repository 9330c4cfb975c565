//! From response heads, error bodies, stream errors and transport errors to a [`Class`].

use std::{any::Any, io, time::SystemTime};

use http::{HeaderMap, StatusCode};
use tower_claude_wire::{self as wire, ApiError};

use crate::{BoxError, Class, Kind};

/// Decides what a response means. With [`Classify`], one classifier serves all layers.
///
/// The body of an error response is read only when [`head`](Self::head) cannot tell.
pub trait ClassifyResponse {
    /// The class by status and headers, or `None` when the body must be read first. That of a success is never read:
    /// there, `None` means success.
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Option<Class>;

    /// The class by status, headers and (up to 64 KiB of) the body.
    fn body(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Class;

    /// The class of an `error` event inside a stream.
    fn stream_error(&self, error: &ApiError) -> Class;
}

/// Decides what any outcome means: a response, or an error of the inner service.
pub trait Classify<E>: ClassifyResponse {
    /// The class of an error of the inner service.
    fn error(&self, error: &E) -> Class;
}

/// The default: Claude's statuses, `error.type` and `error.details.error_code`.
///
/// Spend limits are told from rate limits by `error_code`, by status 402, or by the two texts the
/// API documents for limits of its own 400; every other 429 is retryable.
/// Source: <https://platform.claude.com/docs/en/api/errors>.
///
/// An error of the inner service is a timeout where its chain of sources holds one of tokio's, of `std::io`, or of tower's
/// `timeout` layer, and else a broken connection. What an HTTP client calls its errors, its own classifier knows.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ClaudeClassify;

/// Any other HTTP service: the status and `retry-after` alone.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct HttpClassify;

impl ClassifyResponse for ClaudeClassify {
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Option<Class> {
        if status.is_success() || status.is_redirection() || status.is_informational() {
            return Some(Class::SUCCESS);
        }
        let class = by_status(status, headers);
        // Spend limits hide behind 429 and 400; and an `error_code` may overrule the header.
        let body_decides = matches!(status.as_u16(), 400 | 429)
            || class
                .should_retry
                .is_some_and(|advice| advice != class.kind_is_retryable());
        (!body_decides || wire::is_compressed(headers)).then_some(class)
    }

    fn body(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Class {
        let class = by_status(status, headers);
        let Some(error) = ApiError::parse(body) else {
            return class;
        };
        let mut class = by_error(class, &error);
        if class.kind == Kind::SpendLimit && class.retry_after.is_none() {
            // A date is compared with the server's own clock only.
            let until = error.regains_access().zip(wire::date(headers));
            class.retry_after = until.and_then(|(until, now)| until.duration_since(now).ok());
        }
        class
    }

    fn stream_error(&self, error: &ApiError) -> Class {
        let kind = match error.kind.as_str() {
            "rate_limit_error" => Kind::RateLimited,
            "overloaded_error" => Kind::Overloaded,
            "timeout_error" => Kind::Timeout,
            "invalid_request_error" => Kind::BadRequest,
            "authentication_error" => Kind::Unauthorized,
            "billing_error" => Kind::SpendLimit,
            "permission_error" => Kind::Forbidden,
            "not_found_error" => Kind::NotFound,
            "request_too_large" => Kind::TooLarge,
            "conflict_error" => Kind::Conflict,
            // `api_error`, and types not known yet: the server could not finish.
            _ => Kind::ServerError,
        };
        by_error(Class::new(kind), error)
    }
}

impl<E: 'static> Classify<E> for ClaudeClassify {
    fn error(&self, error: &E) -> Class {
        by_transport_error(error)
    }
}

impl ClassifyResponse for HttpClassify {
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Option<Class> {
        Some(by_status(status, headers))
    }

    fn body(&self, status: StatusCode, headers: &HeaderMap, _body: &[u8]) -> Class {
        by_status(status, headers)
    }

    fn stream_error(&self, _error: &ApiError) -> Class {
        Class::new(Kind::ServerError)
    }
}

impl<E: 'static> Classify<E> for HttpClassify {
    fn error(&self, error: &E) -> Class {
        by_transport_error(error)
    }
}

fn by_status(status: StatusCode, headers: &HeaderMap) -> Class {
    let kind = match status.as_u16() {
        0..=399 => return Class::SUCCESS,
        401 => Kind::Unauthorized,
        402 => Kind::SpendLimit,
        403 => Kind::Forbidden,
        404 | 410 => Kind::NotFound,
        408 | 504 => Kind::Timeout,
        409 => Kind::Conflict,
        413 => Kind::TooLarge,
        429 => Kind::RateLimited,
        529 => Kind::Overloaded,
        500.. => Kind::ServerError,
        _ => Kind::BadRequest,
    };
    // A date is compared with the server's own clock where it sent one.
    let now = wire::date(headers).unwrap_or_else(SystemTime::now);
    Class::new(kind)
        .with_retry_after(wire::retry_after(headers, now))
        .with_should_retry(wire::should_retry(headers))
}

/// What the body adds to the status. An `error_code` silences `x-should-retry`.
fn by_error(mut class: Class, error: &ApiError) -> Class {
    let decided = match error.error_code.as_deref() {
        Some(
            "enforced_spend_limit_reached"
            | "contract_spend_limit_reached"
            | "linked_organization_spend_limit_reached"
            | "linked_organization_billing_unavailable",
        ) => Some(Kind::SpendLimit),
        Some("ramp_limit_exceeded") => Some(Kind::RampLimited),
        Some("compaction_unavailable") => Some(Kind::Overloaded),
        Some("cmek_context_unavailable" | "cmek_key_unreachable") => Some(Kind::ServerError),
        _ if error.kind == "billing_error" || is_spend_limit_text(class, error) => {
            Some(Kind::SpendLimit)
        }
        _ => None,
    };
    if let Some(kind) = decided {
        class.kind = kind;
        class.should_retry = None;
    }
    class
}

/// The two 400s that mean money. Their texts are all the API gives.
fn is_spend_limit_text(class: Class, error: &ApiError) -> bool {
    class.kind == Kind::BadRequest
        && [
            "You have reached your specified API usage limits",
            "You have reached your specified workspace API usage limits",
            "Your credit balance is too low",
        ]
        .iter()
        .any(|text| error.message.starts_with(text))
}

/// Looks through the error types that are known without depending on a client.
fn by_transport_error<E: 'static>(error: &E) -> Class {
    let error: &dyn Any = error;
    let timed_out = if let Some(error) = error.downcast_ref::<io::Error>() {
        is_timeout(error)
    } else if let Some(error) = error.downcast_ref::<BoxError>() {
        is_timeout(error.as_ref())
    } else {
        error.is::<tokio::time::error::Elapsed>()
    };
    Class::new(if timed_out {
        Kind::Timeout
    } else {
        Kind::Transport
    })
}

/// What tower's own timer says. Its type is tower's, which nothing here depends on: the words are all there is to tell it
/// from a broken connection, whose work does not go on at the server.
const TOWERS_TIMEOUT: &str = "request timed out";

/// A timeout anywhere in the chain of sources.
fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<tokio::time::error::Elapsed>()
            || error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
            || error.to_string() == TOWERS_TIMEOUT
        {
            return true;
        }
        next = error.source();
    }
    false
}
