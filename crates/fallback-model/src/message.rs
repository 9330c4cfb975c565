//! The message for end users, in place of an error that no model could avoid.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
    response::Parts,
};
use tower_claude_core::{Class, Kind};
use tower_claude_wire::{ApiError, is_event_stream};

use crate::config::LAYER;

/// Response header: present on an error whose message was replaced.
pub const LAST_MESSAGE: HeaderName = HeaderName::from_static("x-tower-claude-last-message");

/// Response extension: present on an error whose message was replaced
/// ([`with_error_message`](crate::FallbackModelLayer::with_error_message)). A cache must not store
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FallbackMessage {
    /// The wait in the message, if it is known.
    pub eta: Option<Duration>,
}

/// Returns true if the message replaces an error of this class. Only availability errors are
/// replaced. Client errors keep the API's message, because a developer needs it.
pub(crate) const fn applies_to(class: &Class) -> bool {
    matches!(
        class.kind,
        Kind::RateLimited
            | Kind::RampLimited
            | Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated
    )
}

/// Replaces the message of an error. Status, type, code, request id and shape stay: JSON, or an
/// `error` event in a stream. `body` is the part of the error body that was read.
pub(crate) fn replace(
    head: &mut Parts,
    body: &[u8],
    class: &Class,
    message: &str,
    eta: Option<Duration>,
) -> Bytes {
    let text = message.replace("{eta}", &HumanDuration(eta).to_string());
    let streams = head.status.is_success() && is_event_stream(&head.headers);
    let mut error = ApiError::parse(body).unwrap_or_else(|| {
        let mut error = ApiError::new(kind(class), "");
        let id = head.headers.get("request-id");
        error.request_id = id.and_then(|id| Some(id.to_str().ok()?.to_owned()));
        error
    });
    error.message = text;
    let body = if streams {
        Bytes::from(error.to_sse_event())
    } else {
        head.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Bytes::from(error.to_body())
    };
    head.headers.remove(CONTENT_ENCODING);
    head.headers.remove(TRANSFER_ENCODING);
    head.headers
        .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    head.headers
        .insert(LAST_MESSAGE, HeaderValue::from_static(LAYER));
    head.extensions.insert(FallbackMessage { eta });
    body
}

/// Returns the error type of the API for this class.
const fn kind(class: &Class) -> &'static str {
    match class.kind {
        Kind::RateLimited | Kind::RampLimited => "rate_limit_error",
        Kind::Overloaded => "overloaded_error",
        Kind::Timeout => "timeout_error",
        _ => "api_error",
    }
}

/// A wait in plain words, rounded up so that the user does not come back too early.
pub(crate) struct HumanDuration(pub(crate) Option<Duration>);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let Some(wait) = self.0 else {
            return f.write_str("in a little while");
        };
        let seconds = wait
            .as_secs()
            .saturating_add(u64::from(wait.subsec_nanos() > 0));
        let (count, unit) = match seconds {
            0..=5 => return f.write_str("in a few seconds"),
            6..=50 => (seconds.div_ceil(5) * 5, "second"),
            51..=5_400 => (seconds.div_ceil(MINUTE), "minute"),
            5_401..=129_600 => (seconds.div_ceil(HOUR), "hour"),
            _ => (seconds.div_ceil(DAY), "day"),
        };
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "in about {count} {unit}{plural}")
    }
}
