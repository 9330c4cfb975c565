//! The response head: what of it is shared, and what it allows.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, StatusCode, Version,
    header::{AGE, CONTENT_LENGTH, RETRY_AFTER},
    response::Parts,
};
use tower_claude_core::{Class, Kind, REJECTED_BY, Rejection};
use tower_claude_wire::{Media, readable};

use crate::store::entry::storable_headers;

/// Header that reports what the cache did for a response: `hit` (stored, or shared with an equal
/// request), `stale`, `miss`, or `bypass`. Absent if the request carries no cache marker, or goes
/// to an endpoint of the API that is never cached.
pub const CACHE: HeaderName = HeaderName::from_static("x-tower-claude-cache");

/// Headers by which inner layers mark a response that is not simply the API's. They are shared, and
/// forbid storing.
const MARKS: [HeaderName; 5] = [
    REJECTED_BY,
    HeaderName::from_static("x-tower-claude-served-model"),
    HeaderName::from_static("x-tower-claude-fallback-reason"),
    HeaderName::from_static("x-tower-claude-fallback-losses"),
    HeaderName::from_static("x-tower-claude-last-message"),
];
/// Headers that are shared with errors only, because they apply to this moment.
const RETRY_ADVICE: [HeaderName; 2] = [RETRY_AFTER, HeaderName::from_static("x-should-retry")];

/// The head of a shared response, as its subscribers get it.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) class: Option<Class>,
    pub(crate) rejected: Option<Rejection>,
    /// True for an event stream, which is forwarded before it is complete.
    pub(crate) is_stream: bool,
    /// True if nothing in the head forbids storing the response.
    pub(crate) storable: bool,
    /// The length of the body in bytes, if the head has it.
    pub(crate) length: Option<u64>,
    /// Age of a response that another cache has stored.
    pub(crate) age: Duration,
}

impl Head {
    /// Returns the shared part of a head, or `None` if the body has an unknown format and cannot be
    /// shared.
    pub(crate) fn from_parts(head: &Parts) -> Option<Self> {
        let ok = head.status == StatusCode::OK;
        let media = readable(&head.headers);
        if ok && media == Media::Other {
            return None;
        }
        let mut headers = storable_headers(&head.headers);
        let advice = if ok { &[][..] } else { &RETRY_ADVICE };
        for name in MARKS.iter().chain(advice) {
            if let Some(value) = head.headers.get(name) {
                headers.insert(name, value.clone());
            }
        }
        let class: Option<Class> = head.extensions.get().copied();
        let rejected: Option<Rejection> = head.extensions.get().copied();
        let untouched = rejected.is_none()
            && class.is_none_or(|class| class.kind == Kind::Success)
            && !MARKS.iter().any(|name| head.headers.contains_key(name))
            && !is_stale(&head.headers);
        Some(Self {
            status: head.status,
            version: head.version,
            headers,
            class,
            rejected,
            is_stream: ok && media == Media::EventStream,
            storable: ok && untouched,
            length: number(&head.headers, CONTENT_LENGTH),
            age: Duration::from_secs(number(&head.headers, AGE).unwrap_or_default()),
        })
    }

    /// Returns the head of a new response.
    pub(crate) fn parts(&self) -> Parts {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = self.status;
        parts.version = self.version;
        parts.headers = self.headers.clone();
        if let Some(class) = self.class {
            parts.extensions.insert(class);
        }
        if let Some(rejected) = self.rejected {
            parts.extensions.insert(rejected);
        }
        parts
    }
}

/// Returns true if an inner cache served the response in place of an error.
fn is_stale(headers: &HeaderMap) -> bool {
    headers.get(CACHE).is_some_and(|status| status == "stale")
}

fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Returns true if a stale response is better than this one: the server or the connection failed,
/// or a local layer rejected the request. False if the request itself is wrong, or its credential.
pub(crate) fn calls_for_stale(head: &Parts) -> bool {
    match head.extensions.get::<Class>() {
        Some(class) => class.local || is_outage(class.kind),
        None => {
            head.extensions.get::<Rejection>().is_some()
                || head.headers.contains_key(REJECTED_BY)
                || head.status.is_server_error()
                || head.status == StatusCode::REQUEST_TIMEOUT
                || head.status.as_u16() == 529
        }
    }
}

/// Returns true if any request at that moment would have got the error.
pub(crate) fn is_temporary(head: &Parts) -> bool {
    head.status == StatusCode::TOO_MANY_REQUESTS || calls_for_stale(head)
}

const fn is_outage(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Overloaded | Kind::ServerError | Kind::Timeout | Kind::Transport | Kind::Truncated
    )
}

/// Returns true if the leader's own deadline passed. Callers with more time must not share the
/// response.
pub(crate) fn is_out_of_time(head: &Parts) -> bool {
    head.extensions
        .get::<Class>()
        .is_some_and(|class| class.kind == Kind::Timeout)
        && head.extensions.get::<Rejection>().is_some()
}

/// Returns `ttl` ± 10 %, so that responses stored together do not expire together. `random` is from
/// 0 to 1.
pub(crate) fn jittered(ttl: Duration, random: f64) -> Duration {
    let factor = 0.9 + 0.2 * random.clamp(0.0, 1.0);
    Duration::try_from_secs_f64(ttl.as_secs_f64() * factor).unwrap_or(ttl)
}
