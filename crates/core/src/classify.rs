//! Classifiers of responses and errors.

use std::time::SystemTime;

use http::{Extensions, HeaderMap, HeaderName, Response, StatusCode, response::Parts};
use tower_claude_wire::{self as wire, ApiError, cloud};

use crate::{
    class::{Class, Kind, Reach},
    transport_error::{as_error, classify_client_error, error_text},
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

    /// Returns the class of an `error` event inside a stream, or of an error with status 200.
    fn stream_error(&self, error: &ApiError) -> Class;

    /// Returns true if a success must have the body that Claude's endpoint returns. A 200 to a
    /// Messages request that has no message is then a failure. True by default.
    fn expects_claude(&self) -> bool {
        true
    }
}

/// A classifier of responses and of errors of type `E`.
pub trait Classify<E>: ClassifyResponse {
    /// Returns the class of an error of the inner service.
    fn error(&self, error: &E) -> Class;

    /// Returns the text of an error and of its sources, for events. `None` by default.
    ///
    /// [`ClaudeClassify`] and [`HttpClassify`] describe a [`BoxError`](crate::BoxError) and the
    /// errors of `std::io`, tokio, hyper, hyper-util and reqwest. A classifier for errors of
    /// another type returns [`error_text`].
    ///
    /// [`error_text`]: crate::toolkit::error_text
    fn cause(&self, error: &E) -> Option<String> {
        let _ = error;
        None
    }
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
        let (status, headers) = (response.status(), response.headers());
        Self::of_parts(classifier, reuse, status, headers, response.extensions())
    }

    /// Returns the same as [`by_head`](Self::by_head).
    // Always inlined, so that a success need not be written to memory.
    #[inline(always)]
    pub(crate) fn of_head<C>(classifier: &C, reuse: bool, head: &Parts) -> Option<Self>
    where
        C: ClassifyResponse,
    {
        Self::of_parts(
            classifier,
            reuse,
            head.status,
            &head.headers,
            &head.extensions,
        )
    }

    #[inline(always)]
    fn of_parts<C>(
        classifier: &C,
        reuse: bool,
        status: StatusCode,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<Self>
    where
        C: ClassifyResponse,
    {
        let left = extensions.get::<Self>();
        left.copied()
            .filter(|class| class.local || reuse)
            .or_else(|| classifier.head(status, headers))
            .or_else(|| status.is_success().then_some(Self::SUCCESS))
    }
}

/// The default classifier. It reads the status, `x-should-retry`, and the error in the body: first
/// its `error_code`, then its type, then a few texts that the API has no code for.
///
/// The formats of Bedrock (`x-amzn-errortype`) and Google are read as well. The subscription
/// headers `anthropic-ratelimit-unified-*` of a rejected request are a wait. Every 429 that names
/// no spend limit is retryable, unless `x-should-retry` is `false`. A verdict that no wait changes
/// has [`Reach::Request`], so that it delays no other request. Source:
/// <https://platform.claude.com/docs/en/api/errors>.
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
        // Any other error may be an overload, and many codes and texts overrule the status.
        let decided = status.as_u16() == 529 && wire::should_retry(headers) != Some(false);
        (decided || wire::is_compressed(headers)).then(|| self.body(status, headers, &[]))
    }

    fn body(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Class {
        let mut class = by_status(status, headers);
        let now = wire::date(headers).unwrap_or_else(SystemTime::now);
        let mut error = ApiError::parse_any(body).unwrap_or_default();
        if let Some(exception) = headers
            .get(AMAZON_ERROR)
            .and_then(|name| name.to_str().ok())
        {
            exception.clone_into(&mut error.kind);
        }
        if let Some(kind) = kind_of_type(&error.kind).filter(|kind| is_specific(*kind)) {
            class = class.with_kind(kind);
        }
        class = by_error(class, &error, headers);
        if class.kind == Kind::SpendLimit && class.retry_after.is_none() {
            // The date is compared with the server's clock, because the local clock may be wrong.
            let until = error.regains_access().zip(wire::date(headers));
            class.retry_after = until.and_then(|(until, now)| until.duration_since(now).ok());
        }
        if class.kind == Kind::RateLimited {
            if let Some(wait) = wire::unified_wait(headers, now) {
                class.retry_after = class.retry_after.max(Some(wait));
            } else if class.should_retry == Some(false) {
                class.reach = Reach::Request;
            }
        }
        class
    }

    fn stream_error(&self, error: &ApiError) -> Class {
        let by_code = || error.status.and_then(kind_of_status);
        // `api_error` and unknown types: the server could not finish.
        let kind = kind_of_type(&error.kind)
            .or_else(by_code)
            .unwrap_or(Kind::ServerError);
        let mut class = by_error(Class::new(kind), error, &HeaderMap::new());
        // The server has begun to work on the request.
        class.unprocessed = false;
        class
    }
}

impl<E: 'static> Classify<E> for ClaudeClassify {
    fn error(&self, error: &E) -> Class {
        by_client_error(self, error)
    }

    fn cause(&self, error: &E) -> Option<String> {
        as_error(error).map(error_text)
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

    fn expects_claude(&self) -> bool {
        false
    }
}

impl<E: 'static> Classify<E> for HttpClassify {
    fn error(&self, error: &E) -> Class {
        by_client_error(self, error)
    }

    fn cause(&self, error: &E) -> Option<String> {
        as_error(error).map(error_text)
    }
}

/// The `details.error_code` of the `error` event with which a layer ends a stream that breaks.
///
/// The layer reads the stream in the format of another platform, so it must end it in that of the
/// API, which has no code for this. [`ClaudeClassify`] classifies the event as
/// [`Kind::Truncated`].
pub const STREAM_TRUNCATED: &str = "stream_truncated";

/// The header with the name of an exception of Bedrock. A colon and a URL may follow the name.
const AMAZON_ERROR: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Returns the class by status and headers.
fn by_status(status: StatusCode, headers: &HeaderMap) -> Class {
    let code = status.as_u16();
    let Some(kind) = kind_of_status(code) else {
        return Class::SUCCESS;
    };
    let mut class = Class::new(kind);
    match code {
        // The request came over the wrong connection, or too early. Any model would answer so.
        421 | 425 => class = class.with_reach(Reach::Request).into_unprocessed(),
        // A proxy had no connection to the server.
        521 | 523 | 525 | 526 => class = class.into_unprocessed(),
        _ => {}
    }
    // A date is compared with the server's clock, if the response has one.
    let now = wire::date(headers).unwrap_or_else(SystemTime::now);
    class
        .with_retry_after(wire::retry_after(headers, now))
        .with_should_retry(wire::should_retry(headers))
}

/// Returns the kind of a failure by its status. `None` for a success.
const fn kind_of_status(code: u16) -> Option<Kind> {
    Some(match code {
        0..=399 => return None,
        401 => Kind::Unauthorized,
        402 => Kind::SpendLimit,
        403 => Kind::Forbidden,
        404 | 410 => Kind::NotFound,
        408 | 504 | 524 => Kind::Timeout,
        409 => Kind::Conflict,
        413 => Kind::TooLarge,
        421 | 425 => Kind::Transport,
        429 => Kind::RateLimited,
        529 => Kind::Overloaded,
        // A model of Bedrock failed.
        424 | 500.. => Kind::ServerError,
        _ => Kind::BadRequest,
    })
}

/// Returns the kind of an error by its type: of Claude, of a gateway, of Google, or the exception
/// of Bedrock.
fn kind_of_type(name: &str) -> Option<Kind> {
    // `com.amazon.coral.service#ThrottlingException:http://…`
    let name = name.split(':').next().unwrap_or_default();
    let name = name.rsplit('#').next().unwrap_or_default().trim();
    Some(match name.to_ascii_lowercase().as_str() {
        "rate_limit_error"
        | "rate_limit_exceeded"
        | "resource_exhausted"
        | "throttlingexception"
        | "toomanyrequestsexception" => Kind::RateLimited,
        "overloaded_error"
        | "unavailable"
        | "serviceunavailableexception"
        | "modelnotreadyexception" => Kind::Overloaded,
        "timeout_error" | "deadline_exceeded" | "modeltimeoutexception" => Kind::Timeout,
        "authentication_error" | "unauthenticated" => Kind::Unauthorized,
        "billing_error" | "insufficient_quota" => Kind::SpendLimit,
        "permission_error" | "permission_denied" => Kind::Forbidden,
        "not_found_error" | "not_found" | "resourcenotfoundexception" => Kind::NotFound,
        "request_too_large" => Kind::TooLarge,
        "conflict_error" | "aborted" => Kind::Conflict,
        "invalid_request_error"
        | "invalid_argument"
        | "failed_precondition"
        | "out_of_range"
        | "validationexception" => Kind::BadRequest,
        "api_error"
        | "internal"
        | "server_error"
        | "internalserverexception"
        | "modelerrorexception"
        | "modelstreamerrorexception" => Kind::ServerError,
        // Exceptions with and without a suffix.
        name if name.starts_with("accessdenied") || name.starts_with("ftuformnotfilled") => {
            Kind::Forbidden
        }
        _ => return None,
    })
}

/// Returns true if a type of this kind overrules the status. The API uses the two general types
/// with many statuses.
const fn is_specific(kind: Kind) -> bool {
    !matches!(kind, Kind::BadRequest | Kind::ServerError)
}

/// Refines the class by the error in the body. A known code or text overrules `x-should-retry`.
fn by_error(class: Class, error: &ApiError, headers: &HeaderMap) -> Class {
    let decided = match error.error_code.as_deref() {
        Some(code) => by_code(code, headers),
        None => None,
    };
    let decided = decided.or_else(|| by_text(class.kind, error));
    let Some(decided) = decided else {
        return class;
    };
    Class {
        retry_after: class.retry_after,
        ..decided
    }
}

/// Returns the class of an `error_code`. `None` for a code that changes nothing.
fn by_code(code: &str, headers: &HeaderMap) -> Option<Class> {
    let (kind, reach) = match code {
        "enforced_spend_limit_reached"
        | "contract_spend_limit_reached"
        | "service_spend_limit_reached"
        | "linked_organization_spend_limit_reached"
        | "linked_organization_billing_unavailable" => (Kind::SpendLimit, Reach::Credential),
        // The price of a subscription's further use could not be settled just now.
        "credits_required" if is_overage_unsettled(headers) => return None,
        // Another billing helps, and its owner may switch to it at any time.
        "credits_required" => (Kind::SpendLimit, Reach::Request),
        "ramp_limit_exceeded" => (Kind::RampLimited, Reach::Group),
        "compaction_unavailable" => (Kind::Overloaded, Reach::Model),
        "cmek_context_unavailable" | "cmek_key_unreachable" => {
            (Kind::ServerError, Reach::Credential)
        }
        "organization_on_hold" | "cmek_key_disabled" | "cmek_key_network_blocked" => {
            (Kind::Forbidden, Reach::Credential)
        }
        "model_access_suspended" => (Kind::Forbidden, Reach::Model),
        "program_use_case_not_held" | "claude_code_version_too_old" => {
            (Kind::BadRequest, Reach::Model)
        }
        "thread_not_found" | "file_expired" => (Kind::NotFound, Reach::Request),
        "request_body_timeout" => {
            let class = Class::new(Kind::Timeout).with_reach(Reach::Request);
            return Some(class.into_unprocessed());
        }
        "authorization_check_unavailable" => {
            let class = Class::new(Kind::ServerError).with_reach(Reach::Request);
            return Some(class.into_unprocessed());
        }
        // An identical request repeats no part that was saved.
        "change_outcome_unknown" => {
            let class = Class::new(Kind::ServerError).with_reach(Reach::Request);
            return Some(class.with_should_retry(Some(true)));
        }
        // The workspace exists, and another request would create a second one.
        "workspace_created_incomplete" => {
            let class = Class::new(Kind::ServerError).with_reach(Reach::Request);
            return Some(class.with_should_retry(Some(false)));
        }
        STREAM_TRUNCATED => (Kind::Truncated, Reach::Model),
        // Of a cloud, given by the layer that translates its errors.
        cloud::MODEL_NOT_ENABLED => (Kind::Forbidden, Reach::Model),
        cloud::INFERENCE_PROFILE_MISSING => (Kind::BadRequest, Reach::Model),
        cloud::USE_CASE_FORM_MISSING => (Kind::Forbidden, Reach::Credential),
        cloud::CREDENTIAL_EXPIRED => (Kind::Unauthorized, Reach::Credential),
        thread if thread.starts_with("thread_") => (Kind::BadRequest, Reach::Request),
        _ => return None,
    };
    Some(Class::new(kind).with_reach(reach))
}

/// Returns true if paid use beyond a subscription is off for a reason that passes by itself.
fn is_overage_unsettled(headers: &HeaderMap) -> bool {
    let reason = headers.get("anthropic-ratelimit-unified-overage-disabled-reason");
    reason.is_some_and(|reason| reason == "fetch_error" || reason == "org_level_disabled_until")
}

/// Returns the class of an error that the API marks by its message only.
fn by_text(kind: Kind, error: &ApiError) -> Option<Class> {
    let message = &*error.message;
    let contains = |text: &str| message.to_ascii_lowercase().contains(text);
    let (kind, reach) = match kind {
        Kind::BadRequest if is_spend_limit_text(message) => (Kind::SpendLimit, Reach::Credential),
        // A model with a larger window may answer.
        Kind::BadRequest if message.starts_with("prompt is too long") => {
            (Kind::TooLarge, Reach::Request)
        }
        Kind::BadRequest if contains("must have data retention enabled") => {
            (Kind::BadRequest, Reach::Model)
        }
        Kind::RateLimited if contains("service_spend_limit_reached") => {
            (Kind::SpendLimit, Reach::Credential)
        }
        // A model with another window, or with another price for long prompts, may answer.
        Kind::RateLimited | Kind::BadRequest
            if contains("long context")
                && ["required", "not yet available", "not available"]
                    .iter()
                    .any(|text| contains(text)) =>
        {
            (Kind::SpendLimit, Reach::Model)
        }
        // The limit of a gateway, for one user or key, which its operator may raise at any time.
        Kind::RateLimited | Kind::BadRequest | Kind::Forbidden
            if contains("spend limit reached") || error.kind == "budget_exceeded" =>
        {
            (Kind::SpendLimit, Reach::Request)
        }
        // The form must be filled in once for the whole account.
        Kind::Forbidden if has_prefix(&error.kind, "FTUFormNotFilled") => (kind, Reach::Credential),
        Kind::Forbidden if names_model(message) && !is_of_user(error) => (kind, Reach::Model),
        Kind::NotFound if message.starts_with("model: ") => (kind, Reach::Model),
        // The clouds have the model in the path.
        Kind::NotFound if is_cloud(error) && names_model(message) => (kind, Reach::Model),
        _ => return None,
    };
    Some(Class::new(kind).with_reach(reach))
}

/// Returns true for the texts of a 400 that reports a billing problem.
fn is_spend_limit_text(message: &str) -> bool {
    [
        "You have reached your specified API usage limits",
        "You have reached your specified workspace API usage limits",
        "Your credit balance is too low",
    ]
    .iter()
    .any(|text| message.starts_with(text))
}

/// Returns true if the message is about a model, or about the access to one.
fn names_model(message: &str) -> bool {
    let mut words = message.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.any(|word| word.eq_ignore_ascii_case("model") || word.eq_ignore_ascii_case("claude"))
}

/// Returns true for a verdict on the user of the request, whatever the model is.
fn is_of_user(error: &ApiError) -> bool {
    let code = error.error_code.as_deref();
    code.is_some_and(|code| {
        code.starts_with("user_profile_") || code == "sandbox_egress_restricted"
    })
}

/// Returns true if the name begins so, in any case.
fn has_prefix(name: &str, prefix: &str) -> bool {
    let start = name.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Returns true for an error of Bedrock or Google.
fn is_cloud(error: &ApiError) -> bool {
    error.kind.contains("Exception") || error.kind == "NOT_FOUND"
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
