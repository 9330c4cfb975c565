//! A stored answer.

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AGE, CONTENT_LENGTH},
};
use tokio::time::Instant;
use tower_claude_core::Tenant;

/// What a stored answer takes beside its bytes and the text of its headers, about: its places in tables.
const OVERHEAD: usize = 1024;
const HANDLE: usize = 32;

/// What an [`Entry`] is made of. A store outside the process writes these down and makes an entry of them again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EntryParts {
    /// The headers of the answer, without those of one connection or one request.
    pub headers: HeaderMap,
    /// The body in the frames it came in: one for JSON.
    pub frames: Box<[Bytes]>,
    /// Whose answer it is; already part of the key, here for shares of the store.
    pub tenant: Option<Tenant>,
    /// When it was stored.
    pub stored_at: Instant,
    /// How long from then it is fresh.
    pub fresh_for: Duration,
    /// How long after that it may still be served in place of an error.
    pub stale_for: Duration,
}

/// A stored answer. Cheap to clone.
#[derive(Clone)]
pub struct Entry(Arc<Inner>);

struct Inner {
    parts: EntryParts,
    weight: usize,
}

/// Whether a stored answer may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Freshness {
    /// As if it had just been given.
    Fresh,
    /// Only in place of an error.
    Stale,
    /// No more.
    Expired,
}

impl EntryParts {
    /// An answer stored now, which is never stale: it expires when it is no longer fresh.
    #[must_use]
    pub fn new(headers: HeaderMap, frames: Box<[Bytes]>, fresh_for: Duration) -> Self {
        Self {
            headers,
            frames,
            tenant: None,
            stored_at: Instant::now(),
            fresh_for,
            stale_for: Duration::ZERO,
        }
    }
}

impl From<EntryParts> for Entry {
    fn from(mut parts: EntryParts) -> Self {
        let length: usize = parts.frames.iter().map(Bytes::len).sum();
        let mut headers = HeaderMap::with_capacity(parts.headers.len() + 3);
        let mut weight = length + parts.frames.len() * HANDLE + OVERHEAD;
        for (name, value) in &parts.headers {
            weight += name.as_str().len() + value.len();
            headers.append(name.clone(), copied(value));
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        parts.headers = headers;
        Self(Arc::new(Inner { parts, weight }))
    }
}

/// In memory of its own: a value may be a slice of all that a client read at once.
fn copied(value: &HeaderValue) -> HeaderValue {
    let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) else {
        return value.clone();
    };
    copy.set_sensitive(value.is_sensitive());
    copy
}

impl Entry {
    /// What it is made of.
    #[must_use]
    pub fn parts(&self) -> &EntryParts {
        &self.0.parts
    }

    /// The bytes of memory it takes, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.weight
    }

    /// How long it has been stored.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.0.parts.stored_at)
    }

    /// Whether it may be used now.
    #[must_use]
    pub fn freshness(&self, now: Instant) -> Freshness {
        let (age, parts) = (self.age(now), &self.0.parts);
        if age < parts.fresh_for {
            Freshness::Fresh
        } else if age < parts.fresh_for.saturating_add(parts.stale_for) {
            Freshness::Stale
        } else {
            Freshness::Expired
        }
    }

    /// The headers of a response made of it now.
    pub(crate) fn headers(&self, now: Instant) -> HeaderMap {
        let mut headers = self.0.parts.headers.clone();
        headers.insert(AGE, HeaderValue::from(self.age(now).as_secs()));
        headers
    }
}

impl fmt::Debug for Entry {
    /// Never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("weight", &self.0.weight)
            .field("frames", &self.0.parts.frames.len())
            .finish_non_exhaustive()
    }
}

/// Headers of one hop, of one request or of one moment.
static PASSING: LazyLock<std::collections::HashSet<&'static str>> = LazyLock::new(|| {
    [
        "age",
        "alt-svc",
        "authorization",
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "retry-after",
        "server-timing",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "www-authenticate",
        "x-should-retry",
    ]
    .into()
});

/// The headers that go with an answer to whoever did not ask for it: those that describe it, none of the connection,
/// of the request or of the limits of the moment.
pub(crate) fn lasting(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if !is_passing(name) && !is_named_by_connection(headers, name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

fn is_passing(name: &HeaderName) -> bool {
    let name = name.as_str();
    PASSING.contains(name)
        || ["cf-", "x-envoy-", "x-tower-claude-", "x-amzn-", "x-b3-"]
            .iter()
            .any(|family| name.starts_with(family))
        || [
            "ratelimit",
            "request-id",
            "requestid",
            "trace",
            "correlation-id",
            "anthropic-fast-",
            "anthropic-priority-",
        ]
        .iter()
        .any(|part| name.contains(part))
}

fn is_named_by_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers
        .get_all(http::header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|word| {
            word.trim_ascii()
                .eq_ignore_ascii_case(name.as_str().as_bytes())
        })
}
