//! Error responses.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use tower_claude_wire::ApiError;

use crate::fault::Fault;
use crate::model::{Dimension, GaugeSet, Rejected};

/// 529 has no name in the `http` crate.
pub(crate) const OVERLOADED: u16 = 529;

/// An error response.
pub(crate) struct ErrorReply {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) message: Cow<'static, str>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) should_retry: Option<bool>,
    /// The allowed method, of a 405.
    pub(crate) allow: Option<&'static str>,
    /// True if the response has rate-limit headers.
    pub(crate) rate_headers: bool,
    /// The limit that rejected the request.
    pub(crate) dimension: Option<Dimension>,
    /// On a cloud: the name of the error, if the platform in front of the model has made it.
    pub(crate) front: Option<&'static str>,
    /// The response, if it is not the API's own.
    pub(crate) custom: Option<Box<CustomResponse>>,
}

/// The headers and the body of a response that is not the API's own.
pub(crate) struct CustomResponse {
    /// Replace the headers of the same names.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl ErrorReply {
    pub(crate) fn new(
        status: u16,
        kind: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            kind,
            code: None,
            message: message.into(),
            retry_after: None,
            allow: None,
            // The API sends it for errors that a retry can solve, and not for most 4xx.
            should_retry: (status == 429 || status >= 500).then_some(true),
            rate_headers: true,
            dimension: None,
            front: None,
            custom: None,
        }
    }

    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// Returns an error of a cloud platform itself, with its name there.
    pub(crate) fn front(
        status: u16,
        name: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        // On the endpoints of the Claude API it has the shape of that API.
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            _ => "invalid_request_error",
        };
        Self {
            front: Some(name),
            ..Self::new(status, kind, message)
        }
    }

    pub(crate) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, "not_found_error", message)
    }

    pub(crate) fn overloaded() -> Self {
        Self::new(OVERLOADED, "overloaded_error", "Overloaded")
    }

    pub(crate) fn server_error() -> Self {
        Self::new(500, "api_error", "Internal server error")
    }

    /// Returns the error for a request that the limits rejected.
    pub(crate) fn rejected(rejected: &Rejected, gauges: &GaugeSet) -> Self {
        Self {
            dimension: Some(rejected.dimension),
            ..Self::over_limit(rejected, gauges)
        }
    }

    fn over_limit(rejected: &Rejected, gauges: &GaugeSet) -> Self {
        let limit = match rejected.dimension {
            Dimension::Ramp => return Self::ramp(rejected.retry_after),
            Dimension::Concurrency => {
                return Self {
                    retry_after: Some(rejected.retry_after),
                    ..Self::new(
                        429,
                        "rate_limit_error",
                        "Number of concurrent connections has exceeded your rate limit. Please try again later.",
                    )
                };
            }
            Dimension::Requests => gauges.requests.limit,
            Dimension::InputTokens => gauges.input_tokens.limit,
            Dimension::OutputTokens => gauges.output_tokens.limit,
            Dimension::Tokens => gauges.combined_tokens.map_or(0, |tokens| tokens.limit),
        };
        let message = format!(
            "This request would exceed the rate limit for your organization \
             (00000000-0000-4000-8000-000000000000) of {limit} {} per minute.",
            rejected.dimension
        );
        Self {
            retry_after: Some(rejected.retry_after),
            ..Self::new(429, "rate_limit_error", message)
        }
    }

    fn ramp(retry_after: Duration) -> Self {
        Self {
            code: Some("ramp_limit_exceeded"),
            retry_after: Some(retry_after),
            ..Self::new(
                429,
                "rate_limit_error",
                "This request would exceed a ramp limit.",
            )
        }
    }

    /// Returns the error for a fault before admission. `None` for any other fault, and for a reset.
    pub(crate) fn of_fault(fault: &Fault, wall: SystemTime) -> Option<Self> {
        Some(match fault {
            Fault::Overloaded => Self::overloaded(),
            Fault::ServerError => Self::server_error(),
            Fault::Unavailable => Self::new(503, "api_error", "Service temporarily unavailable"),
            Fault::Timeout504 => Self::new(
                504,
                "timeout_error",
                "The request timed out while processing.",
            ),
            Fault::RateLimited { retry_after } => Self {
                retry_after: Some(*retry_after),
                ..Self::new(
                    429,
                    "rate_limit_error",
                    "This request would exceed your organization's rate limit.",
                )
            },
            Fault::RateLimitedBare => Self {
                rate_headers: false,
                ..Self::new(
                    429,
                    "rate_limit_error",
                    "Server is temporarily limiting requests (not your usage limit)",
                )
            },
            Fault::Ramp { retry_after } => Self::ramp(*retry_after),
            Fault::SpendCap => Self {
                code: Some("enforced_spend_limit_reached"),
                should_retry: Some(false),
                ..Self::new(
                    429,
                    "rate_limit_error",
                    format!(
                        "You have reached your API usage limits: your organization has crossed its monthly API \
                         usage threshold. You will regain access on {} at 00:00 UTC.",
                        next_month(wall)
                    ),
                )
            },
            Fault::OwnSpendLimit => Self {
                should_retry: Some(false),
                ..Self::invalid(format!(
                    "You have reached your specified API usage limits. You will regain access on {} at 00:00 UTC.",
                    next_month(wall)
                ))
            },
            Fault::NonJson(status) => Self {
                status: *status,
                should_retry: None,
                rate_headers: false,
                custom: Some(Box::new(CustomResponse {
                    headers: vec![(CONTENT_TYPE, HeaderValue::from_static("text/html"))],
                    body: format!(
                        "<html>\r\n<head><title>{status}</title></head>\r\n<body><h1>{status}</h1></body>\r\n</html>\r\n"
                    )
                    .into(),
                })),
                ..Self::new(status.as_u16(), "", "")
            },
            Fault::Custom {
                status,
                headers,
                body,
            } => Self {
                status: *status,
                should_retry: None,
                custom: Some(Box::new(CustomResponse {
                    headers: headers.clone(),
                    body: body.clone(),
                })),
                ..Self::new(status.as_u16(), "", "")
            },
            _ => return None,
        })
    }

    pub(crate) fn body(&self, request_id: &str) -> Bytes {
        if let Some(custom) = &self.custom {
            return custom.body.clone();
        }
        let mut error = ApiError::new(self.kind, &*self.message);
        error.error_code = self.code.map(str::to_owned);
        error.request_id = Some(request_id.to_owned());
        error.to_body().into()
    }
}

/// Returns the first day of the month after `wall`, in UTC.
fn next_month(wall: SystemTime) -> String {
    let seconds = wall
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let timestamp = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let today = jiff::tz::Offset::UTC.to_datetime(timestamp).date();
    let (year, month) = if today.month() == 12 {
        (today.year() + 1, 1)
    } else {
        (today.year(), today.month() + 1)
    };
    format!("{year:04}-{month:02}-01")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::next_month;

    #[test]
    fn month_after_december_is_january() {
        let day = |days: u64| next_month(UNIX_EPOCH + Duration::from_secs(86_400 * days));
        assert_eq!(day(0), "1970-02-01");
        assert_eq!(day(364), "1971-01-01");
        assert_eq!(day(365), "1971-02-01");
    }
}
