//! Exceptions of Bedrock as errors of the Claude API.

use tower_claude_wire::ApiError;

/// Returns the type of the Claude API's errors for an exception of Bedrock, in any of the forms
/// that AWS writes: `throttlingException`, `ThrottlingException:http://…`,
/// `com.amazon.coral.service#ThrottlingException`. An unknown exception is an `api_error`.
///
/// ```
/// use tower_claude_cloud::bedrock::error_type;
///
/// assert_eq!(error_type("throttlingException"), "rate_limit_error");
/// assert_eq!(error_type("com.amazon#ModelTimeoutException"), "timeout_error");
/// assert_eq!(error_type("SomethingNewException"), "api_error");
/// ```
#[must_use]
pub fn error_type(exception: &str) -> &'static str {
    let name = exception.split(':').next().unwrap_or_default();
    let name = name.rsplit('#').next().unwrap_or_default().trim();
    let name = name.to_ascii_lowercase();
    match name.strip_suffix("exception").unwrap_or(&name) {
        "throttling" | "toomanyrequests" => "rate_limit_error",
        "serviceunavailable" | "modelnotready" => "overloaded_error",
        "modeltimeout" => "timeout_error",
        "validation" => "invalid_request_error",
        "resourcenotfound" => "not_found_error",
        "expiredtoken"
        | "unrecognizedclient"
        | "invalidsignature"
        | "missingauthenticationtoken" => "authentication_error",
        // With and without a suffix.
        name if name.starts_with("accessdenied") || name.starts_with("ftuformnotfilled") => {
            "permission_error"
        }
        // Among them `modelStreamError`, `modelError` and `internalServer`.
        _ => "api_error",
    }
}

/// Returns the error of an exception in a stream. `details.error_code` is the name that AWS uses.
pub(super) fn stream_exception(exception: &str, message: &str) -> ApiError {
    let message = if message.is_empty() {
        exception
    } else {
        message
    };
    let mut error = ApiError::new(error_type(exception), message);
    error.error_code = (!exception.is_empty()).then(|| exception.to_owned());
    error
}
