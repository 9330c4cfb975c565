//! The errors of the Admin API.

use std::{fmt, time::Duration};

use http::StatusCode;
use tower_claude::wire::ApiError;

/// An error of an [`AdminClient`](super::AdminClient). None of its texts has the key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminError {
    /// The key cannot be a value of a header.
    InvalidKey,
    /// The URL is not valid.
    InvalidUrl {
        /// The URL.
        url: String,
        /// The reason.
        reason: &'static str,
    },
    /// The id of a workspace has other characters than letters, digits, `_` and `-`.
    InvalidWorkspace(String),
    /// The period is empty or reversed.
    InvalidPeriod,
    /// TLS cannot be used.
    Tls(String),
    /// No response arrived in any attempt.
    NoResponse {
        /// The cause of the last failure.
        cause: String,
    },
    /// The API answered with an error.
    Status {
        /// The status.
        status: StatusCode,
        /// The error, if the body has one.
        error: Option<Box<ApiError>>,
        /// The wait that the API asks for.
        retry_after: Option<Duration>,
        /// The id of the request.
        request_id: Option<String>,
    },
    /// A response is too large, or has too many pages.
    TooLarge,
    /// A page has no list `data`, or its cursor leads to itself.
    InvalidPage {
        /// The reason.
        reason: String,
    },
}

impl AdminError {
    /// Returns the status of an answer of the API.
    #[must_use]
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Returns advice for a status.
const fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => ": the key is no valid Admin key (sk-ant-admin…) or token with the scope org:admin",
        403 => ": the key may not read this",
        404 => ": not offered to this organization, or not found",
        410 => ": the cursor of a page expired again and again",
        429 => ": the rate limit of the Admin API, try again later",
        _ => "",
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidKey => f.write_str("the Admin key is empty or no valid value of a header"),
            Self::InvalidUrl { url, reason } => write!(f, "the URL {url:?} {reason}"),
            Self::InvalidWorkspace(id) => write!(f, "{id:?} is no id of a workspace"),
            Self::InvalidPeriod => f.write_str("the period of the usage is empty"),
            Self::Tls(reason) => write!(f, "TLS cannot be used: {reason}"),
            Self::NoResponse { cause } => write!(f, "the Admin API did not answer: {cause}"),
            Self::Status {
                status,
                error,
                request_id,
                ..
            } => {
                write!(
                    f,
                    "the Admin API answered {}{}",
                    status.as_u16(),
                    advice(*status)
                )?;
                if let Some(error) = error {
                    write!(f, " ({error})")?;
                }
                if let Some(id) = request_id {
                    write!(f, ", request {id}")?;
                }
                Ok(())
            }
            Self::TooLarge => f.write_str("the answer of the Admin API is too large"),
            Self::InvalidPage { reason } => {
                write!(f, "the Admin API answered without a page: {reason}")
            }
        }
    }
}

impl std::error::Error for AdminError {}
