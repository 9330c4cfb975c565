//! Classifiers of responses and errors.

use std::time::SystemTime;

use http::{HeaderMap, Response, StatusCode};
use tower_claude_wire::{self as wire, ApiError};

use crate::{
    class::{Class, Kind},
    transport_error::{as_error, classify_client_error},
};

/// A classifier of responses.
///
/// The body of an error response is read only if [`head`](Self::head) returns `None`.
pub trait ClassifyResponse {
    /// Returns the class by status and headers, or `None` if the body must be read first.
    ///
    /// The body of a success is never read for this. For a success, `None` means
    /// [`Class::SUCCESS`].
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Option<Class>;

    /// Returns the class by status, headers and the first 64 KiB of the body.
    fn body(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Class;

    /// Returns the class of an `error` event inside a stream.
    fn stream_error(&self, error: &ApiError) -> Class;
}

/// A classifier of responses and of errors of type `E`.
pub trait Classify<E>: ClassifyResponse {
    /// Returns the class of an error of the inner service.
    fn error(&self, error: &E) -> Class;
}

// Here and not beside `Class`, because `class` does not depend on the classifiers.
impl Class {
    /// Returns the class of a response by its head, or `None` if the body must be read first.
    ///
    /// The body of a success is never read for this, because that would delay a stream.
    ///
    /// A class that an inner layer has inserted into the extensions is returned if `reuse` is true.
    /// A layer with a classifier of its own passes false. A local class is always returned, because
    /// no classifier can overrule it.
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
}

/// The default classifier. It reads Claude's statuses, `error.type` and `error.details.error_code`.
///
/// An attempt failed because of a spend limit if the `error_code` names such a limit, if the status
/// is 402, or if a 400 has a message that the API documents for spend limits and credit balances.
/// Every other 429 is retryable. Source: <https://platform.claude.com/docs/en/api/errors>.
///
/// Errors of the inner service are classified by
/// [`classify_client_error`](crate::toolkit::classify_client_error), which recognises the errors of
/// hyper, hyper-util and reqwest. Any other error is a [`Kind::Transport`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ClaudeClassify;

/// A classifier for other HTTP services. It reads only the status, `retry-after` and
/// `x-should-retry`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct HttpClassify;

impl ClassifyResponse for ClaudeClassify {
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Option<Class> {
        if status.is_success() || status.is_redirection() || status.is_informational() {
            return Some(Class::SUCCESS);
        }
        let class = by_status(status, headers);
        // Spend limits come with 429 and 400, and an `error_code` may overrule the header.
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
            // The date is compared with the server's clock, because the local clock may be wrong.
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
            // `api_error` and unknown types. The server could not finish.
            _ => Kind::ServerError,
        };
        by_error(Class::new(kind), error)
    }
}

impl<E: 'static> Classify<E> for ClaudeClassify {
    fn error(&self, error: &E) -> Class {
        by_client_error(self, error)
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
        by_client_error(self, error)
    }
}

/// Returns the class by status and headers.
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
    // A date is compared with the server's clock, if the response has one.
    let now = wire::date(headers).unwrap_or_else(SystemTime::now);
    Class::new(kind)
        .with_retry_after(wire::retry_after(headers, now))
        .with_should_retry(wire::should_retry(headers))
}

/// Refines the class by the error in the body. A known `error_code` overrules `x-should-retry`.
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
        _ if class.kind == Kind::BadRequest && error.message.starts_with("prompt is too long") => {
            Some(Kind::TooLarge)
        }
        _ => None,
    };
    if let Some(kind) = decided {
        class = Class::new(kind).with_retry_after(class.retry_after);
    }
    class
}

/// Returns true for a 400 that reports a billing problem. The API marks it by its message only.
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

/// Returns the class of an error of any client.
fn by_client_error<E: 'static>(responses: &dyn ClassifyResponse, error: &E) -> Class {
    let by_status = |status| {
        let none = HeaderMap::new();
        let class = responses.head(status, &none);
        class.unwrap_or_else(|| responses.body(status, &none, &[]))
    };
    as_error(error)
        .and_then(|error| classify_client_error(error, &by_status))
        .unwrap_or(Class::new(Kind::Transport))
}
