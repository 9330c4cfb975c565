//! What a response head says to the cache.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, StatusCode, Version,
    header::{AGE, RETRY_AFTER},
    response::Parts,
};
use tower_claude_core::{Class, Kind, REJECTED_BY, Rejected};
use tower_claude_wire::{Media, readable};

use crate::store::entry::lasting;

/// Says what the cache did for a response: `hit` (stored, or shared with an equal request), `stale`, `miss`, or
/// `bypass`. Absent where the cache was not asked for.
pub const CACHE: HeaderName = HeaderName::from_static("x-tower-claude-cache");

/// What layers further in say of an answer that is not simply the API's. All who share it are told, and it is not stored.
const TOLD: [HeaderName; 5] = [
    REJECTED_BY,
    HeaderName::from_static("x-tower-claude-served-model"),
    HeaderName::from_static("x-tower-claude-fallback-reason"),
    HeaderName::from_static("x-tower-claude-fallback-losses"),
    HeaderName::from_static("x-tower-claude-last-message"),
];
/// For those only who get an error now.
const WHEN: [HeaderName; 2] = [RETRY_AFTER, HeaderName::from_static("x-should-retry")];

/// The head of an answer, for those who did not ask themselves.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) class: Option<Class>,
    pub(crate) refused: Option<Rejected>,
    /// An event stream: worth reading before it is whole.
    pub(crate) is_stream: bool,
    /// Whether an answer with this head may be stored, as far as the head goes.
    pub(crate) storable: bool,
    /// How old it is already.
    pub(crate) age: Duration,
}

impl Head {
    /// What others get of this head; `None` when its body cannot be understood, and so not be shared.
    pub(crate) fn shared(head: &Parts) -> Option<Self> {
        let ok = head.status == StatusCode::OK;
        let media = readable(&head.headers);
        if ok && media == Media::Other {
            return None;
        }
        let mut headers = lasting(&head.headers);
        let when = if ok { &[][..] } else { &WHEN };
        for name in TOLD.iter().chain(when) {
            if let Some(value) = head.headers.get(name) {
                headers.insert(name, value.clone());
            }
        }
        let class: Option<Class> = head.extensions.get().copied();
        let refused: Option<Rejected> = head.extensions.get().copied();
        let untouched = refused.is_none()
            && class.is_none_or(|class| class.kind == Kind::Success)
            && !TOLD.iter().any(|name| head.headers.contains_key(name))
            && !is_stale(&head.headers);
        Some(Self {
            status: head.status,
            version: head.version,
            headers,
            class,
            refused,
            is_stream: ok && media == Media::EventStream,
            storable: ok && untouched,
            age: age(&head.headers),
        })
    }

    /// The head again, for a response.
    pub(crate) fn parts(&self) -> Parts {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = self.status;
        parts.version = self.version;
        parts.headers = self.headers.clone();
        if let Some(class) = self.class {
            parts.extensions.insert(class);
        }
        if let Some(refused) = self.refused {
            parts.extensions.insert(refused);
        }
        parts
    }
}

/// Whether another cache further in gave it in place of an error.
fn is_stale(headers: &HeaderMap) -> bool {
    headers.get(CACHE).is_some_and(|said| said == "stale")
}

/// How long ago another cache stored it.
fn age(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(AGE)
        .and_then(|age| age.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

/// Whether a stored answer is better than this one: the server or the way to it failed, or a layer on this side did
/// not even ask. Not where the request is wrong, or the caller.
pub(crate) fn calls_for_stale(head: &Parts) -> bool {
    match head.extensions.get::<Class>() {
        Some(class) => class.local || is_outage(class.kind),
        None => {
            head.extensions.get::<Rejected>().is_some()
                || head.headers.contains_key(REJECTED_BY)
                || head.status.is_server_error()
                || head.status == StatusCode::REQUEST_TIMEOUT
                || head.status.as_u16() == 529
        }
    }
}

/// Whether the error would have met any request just then.
pub(crate) fn is_of_the_moment(head: &Parts) -> bool {
    head.status == StatusCode::TOO_MANY_REQUESTS || calls_for_stale(head)
}

const fn is_outage(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Overloaded | Kind::ServerError | Kind::Timeout | Kind::Transport | Kind::Truncated
    )
}

/// Whether it is one caller's own time that ran out: no answer for those who have more.
pub(crate) fn is_out_of_time(head: &Parts) -> bool {
    head.extensions
        .get::<Class>()
        .is_some_and(|class| class.kind == Kind::Timeout)
        && head.extensions.get::<Rejected>().is_some()
}

/// ± 10 %, so that what was stored together does not expire together.
pub(crate) fn jittered(ttl: Duration, random: f64) -> Duration {
    let factor = 0.9 + 0.2 * random.clamp(0.0, 1.0);
    Duration::try_from_secs_f64(ttl.as_secs_f64() * factor).unwrap_or(ttl)
}
