//! The last resort: words for end users in place of an error that says nothing to them.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
    response::Parts,
};
use tower_claude_core::{Class, Kind};
use tower_claude_wire::{ApiError, is_event_stream};

use crate::LAYER;

/// On an error whose message was replaced by the user's own.
pub const LAST_MESSAGE: HeaderName = HeaderName::from_static("x-tower-claude-last-message");

/// The extension on an error whose message was replaced by the user's own
/// ([`with_last_message`](crate::FallbackModelLayer::with_last_message)). Not for a cache to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastResort {
    /// The wait that the message names, as far as it is known.
    pub eta: Option<Duration>,
}

/// Whether the words fit: nobody could serve. What a developer has to mend keeps its own.
pub(crate) const fn is_due(class: &Class) -> bool {
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

/// Puts `message` in the place of the error's own. Status, type, code and request id stay what they are, and so does
/// the shape: JSON, or in a stream an `error` event. `body` is what was read, where it was.
pub(crate) fn replace(
    head: &mut Parts,
    body: &[u8],
    class: &Class,
    message: &str,
    eta: Option<Duration>,
) -> Bytes {
    let text = message.replace("{eta}", &InWords(eta).to_string());
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
    head.extensions.insert(LastResort { eta });
    body
}

/// The type that Claude gives to the like.
const fn kind(class: &Class) -> &'static str {
    match class.kind {
        Kind::RateLimited | Kind::RampLimited => "rate_limit_error",
        Kind::Overloaded => "overloaded_error",
        Kind::Timeout => "timeout_error",
        _ => "api_error",
    }
}

/// A wait as one would say it, rounded up: nobody is told to come back too early.
pub(crate) struct InWords(pub(crate) Option<Duration>);

impl fmt::Display for InWords {
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
