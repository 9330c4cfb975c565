//! Errors of clouds as errors of the Claude API.

use http::{HeaderMap, StatusCode};

use crate::error::ApiError;

/// `error_code` of an error of a model that is not enabled for the account, or not offered here.
pub const MODEL_NOT_ENABLED: &str = "model_not_enabled";
/// `error_code` of an error of an account that has not filled in the form for Claude models.
pub const USE_CASE_FORM_MISSING: &str = "use_case_form_missing";
/// `error_code` of an error of a model id that needs an inference profile.
pub const INFERENCE_PROFILE_MISSING: &str = "inference_profile_missing";
/// `error_code` of an error of a credential that has expired.
pub const CREDENTIAL_EXPIRED: &str = "credential_expired";

/// Reads the error response of a cloud, and returns it in the terms of the Claude API.
///
/// `None` if the body already is an error of the Claude API, as those of the models on Vertex are.
/// The type follows the exception of AWS (in `x-amzn-errortype` or in the body) or the status of
/// Google, and else the HTTP status. Some errors get a code: [`MODEL_NOT_ENABLED`],
/// [`USE_CASE_FORM_MISSING`], [`INFERENCE_PROFILE_MISSING`], [`CREDENTIAL_EXPIRED`].
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use tower_claude_wire::cloud::claude_error;
///
/// let body = br#"{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}"#;
/// let error = claude_error(StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new(), body).unwrap();
/// assert_eq!((&*error.kind, &*error.message), ("rate_limit_error", "Quota"));
/// ```
#[must_use]
pub fn claude_error(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<ApiError> {
    if ApiError::parse(body).is_some() {
        return None;
    }
    let mut native = ApiError::parse_any(body).unwrap_or_default();
    if let Some(exception) = headers
        .get("x-amzn-errortype")
        .and_then(|v| v.to_str().ok())
    {
        exception.clone_into(&mut native.kind);
    }
    let name = simple_name(&native.kind).to_ascii_lowercase();
    let kind = kind_of_exception(&name).unwrap_or_else(|| kind_of_status(status));
    let text = native.message.to_ascii_lowercase();
    let (code, advice) = match () {
        () if name.starts_with("ftuformnotfilled") => (
            Some(USE_CASE_FORM_MISSING),
            "The account has not filled in the form for the use of Claude models.",
        ),
        () if text.contains("on-demand throughput") => (
            Some(INFERENCE_PROFILE_MISSING),
            "This model needs an inference profile. Set the profile of the target.",
        ),
        () if name.starts_with("expiredtoken")
            || text.contains("token has expired")
            || text.contains("token included in the request is expired")
            || text.contains("signature expired") =>
        {
            (Some(CREDENTIAL_EXPIRED), "The credential has expired.")
        }
        () if is_model_closed(status, &text) => (
            Some(MODEL_NOT_ENABLED),
            "The model is not enabled for this account, or not offered at this location.",
        ),
        () => (None, ""),
    };
    let message = match (&*native.message, advice) {
        ("", "") => status.canonical_reason().unwrap_or("no message"),
        (message, "") => message,
        ("", advice) => advice,
        (message, advice) => &format!("{advice} {message}"),
    };
    let mut error = ApiError::new(kind, message);
    error.error_code = code.map(str::to_owned);
    error.request_id = native.request_id;
    Some(error)
}

/// Returns the type of the Claude API's errors for an exception of AWS, in any of the forms that
/// AWS writes: `throttlingException`, `ThrottlingException:http://…`,
/// `com.amazon.coral.service#ThrottlingException`. An unknown exception is an `api_error`.
///
/// ```
/// use tower_claude_wire::cloud::aws_error_type;
///
/// assert_eq!(aws_error_type("throttlingException"), "rate_limit_error");
/// assert_eq!(aws_error_type("com.amazon#ModelTimeoutException"), "timeout_error");
/// assert_eq!(aws_error_type("SomethingNewException"), "api_error");
/// ```
#[must_use]
pub fn aws_error_type(exception: &str) -> &'static str {
    let name = simple_name(exception).to_ascii_lowercase();
    kind_of_exception(&name).unwrap_or("api_error")
}

/// Returns `ThrottlingException` of `com.amazon.coral.service#ThrottlingException:http://…`.
fn simple_name(exception: &str) -> &str {
    let name = exception.split(':').next().unwrap_or_default();
    name.rsplit('#').next().unwrap_or_default().trim()
}

/// Returns the type for an exception of AWS or a status of Google, in lower case.
fn kind_of_exception(name: &str) -> Option<&'static str> {
    Some(match name.strip_suffix("exception").unwrap_or(name) {
        "throttling" | "toomanyrequests" | "servicequotaexceeded" | "resource_exhausted" => {
            "rate_limit_error"
        }
        "serviceunavailable" | "modelnotready" | "unavailable" => "overloaded_error",
        "modeltimeout" | "deadline_exceeded" => "timeout_error",
        "validation" | "invalid_argument" | "failed_precondition" | "out_of_range" => {
            "invalid_request_error"
        }
        "resourcenotfound" | "not_found" => "not_found_error",
        "expiredtoken"
        | "unrecognizedclient"
        | "invalidsignature"
        | "incompletesignature"
        | "missingauthenticationtoken"
        | "unauthenticated" => "authentication_error",
        "permission_denied" => "permission_error",
        "modelerror" | "modelstreamerror" | "internalserver" | "internal" | "unknown" => {
            "api_error"
        }
        // With and without a suffix.
        name if name.starts_with("accessdenied") || name.starts_with("ftuformnotfilled") => {
            "permission_error"
        }
        _ => return None,
    })
}

fn kind_of_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        // A model of Bedrock failed.
        424 => "api_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// Returns true for the texts with which clouds refuse a model.
fn is_model_closed(status: StatusCode, text: &str) -> bool {
    let refuses = matches!(status.as_u16(), 400 | 403 | 404);
    const TEXTS: [&str; 7] = [
        "don't have access to the model",
        "access to this model",
        "model access is denied",
        "model identifier is invalid",
        "could not resolve the foundation model",
        "is not available for this organization",
        "was not found or your project does not have access",
    ];
    refuses && TEXTS.iter().any(|known| text.contains(known))
}
