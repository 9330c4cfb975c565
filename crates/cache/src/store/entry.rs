//! A stored response.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AGE, CONTENT_LENGTH},
};
use tokio::time::Instant;
use tower_claude_core::Tenant;

/// Approximate bytes that an entry takes beside its body and the text of its headers.
const OVERHEAD: usize = 1024;
/// Bytes that a frame takes beside its data.
const FRAME_OVERHEAD: usize = 32;

/// The contents of an [`Entry`]. A store outside the process saves them, and makes an entry of them
/// again with [`Entry::new`]. See [`Store`](crate::Store) for an example.
#[derive(Clone)]
#[non_exhaustive]
pub struct EntryParts {
    /// Response headers, without the headers of one connection or one request.
    pub headers: HeaderMap,
    /// Body, in the frames it was received in. A JSON body is one frame.
    pub frames: Box<[Bytes]>,
    /// Tenant of the request. It is part of the key. Here it serves to limit the share of each
    /// tenant.
    pub tenant: Option<Tenant>,
    /// Time of storing, by the clock of the system. A process that reads the entry later needs it.
    pub stored_at: SystemTime,
    /// Time from `stored_at` for which the response is fresh.
    pub fresh_for: Duration,
    /// Time after that for which the response may be served in place of an error.
    pub stale_for: Duration,
}

/// A stored response. Cheap to clone.
#[derive(Clone)]
pub struct Entry(Arc<Inner>);

struct Inner {
    parts: EntryParts,
    weight: usize,
    /// The time at which the entry was made, and its age at that time. Clocks of systems may be set
    /// back, so the age goes on by the clock of the process.
    made_at: Instant,
    age: Duration,
}

/// Usability of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Freshness {
    /// The response may be used.
    Fresh,
    /// The response may be used in place of an error only.
    Stale,
    /// The response must not be used.
    Expired,
}

impl EntryParts {
    /// Returns the parts of a response stored now, for no tenant. It expires when it is no longer
    /// fresh.
    #[must_use]
    pub fn new(headers: HeaderMap, frames: Box<[Bytes]>, fresh_for: Duration) -> Self {
        Self {
            headers,
            frames,
            tenant: None,
            stored_at: SystemTime::now(),
            fresh_for,
            stale_for: Duration::ZERO,
        }
    }
}

impl fmt::Debug for EntryParts {
    /// Formats without headers, content and tenant.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryParts")
            .field("frames", &self.frames.len())
            .field("stored_at", &self.stored_at)
            .field("fresh_for", &self.fresh_for)
            .field("stale_for", &self.stale_for)
            .finish_non_exhaustive()
    }
}

impl From<EntryParts> for Entry {
    /// Returns the entry as of now.
    fn from(parts: EntryParts) -> Self {
        Self::new(parts, SystemTime::now(), Instant::now())
    }
}

impl Entry {
    /// Makes an entry of its contents. `wall` and `now` are the same moment by two clocks.
    ///
    /// If the clock of the system is behind [`stored_at`](EntryParts::stored_at), because it was
    /// set back or is that of another machine, the age is zero. Behind by more than `fresh_for`,
    /// the entry has expired, so no entry is fresh for longer than twice that time.
    #[must_use]
    pub fn new(mut parts: EntryParts, wall: SystemTime, now: Instant) -> Self {
        let age = match wall.duration_since(parts.stored_at) {
            Ok(age) => age,
            Err(behind) if behind.duration() <= parts.fresh_for => Duration::ZERO,
            Err(_) => Duration::MAX,
        };
        let length: usize = parts.frames.iter().map(Bytes::len).sum();
        let mut headers = HeaderMap::with_capacity(parts.headers.len() + 3);
        let mut weight = length + parts.frames.len() * FRAME_OVERHEAD + OVERHEAD;
        for (name, value) in &parts.headers {
            weight += name.as_str().len() + value.len();
            headers.append(name.clone(), compact(value));
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        parts.headers = headers;
        Self(Arc::new(Inner {
            parts,
            weight,
            made_at: now,
            age,
        }))
    }

    /// Returns the contents.
    #[must_use]
    pub fn parts(&self) -> &EntryParts {
        &self.0.parts
    }

    /// Returns the approximate memory use in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.weight
    }

    /// Returns the time since the response was stored.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.0.made_at);
        self.0.age.saturating_add(since)
    }

    /// Returns the freshness at `now`.
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

    /// Returns the headers of a response served at `now`, with `age`.
    pub(crate) fn headers(&self, now: Instant) -> HeaderMap {
        let mut headers = self.0.parts.headers.clone();
        headers.insert(AGE, HeaderValue::from(self.age(now).as_secs()));
        headers
    }
}

impl fmt::Debug for Entry {
    /// Formats without the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("weight", &self.0.weight)
            .field("frames", &self.0.parts.frames.len())
            .finish_non_exhaustive()
    }
}

/// Returns a copy with its own memory, because a value may be a slice of a large read buffer.
fn compact(value: &HeaderValue) -> HeaderValue {
    let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) else {
        return value.clone();
    };
    copy.set_sensitive(value.is_sensitive());
    copy
}

/// Headers of one connection, one request or one moment.
const TRANSIENT: &str = "age alt-svc authorization connection content-length keep-alive \
    proxy-authenticate proxy-authorization proxy-connection retry-after server-timing set-cookie \
    te trailer transfer-encoding upgrade via www-authenticate x-should-retry";
/// Prefixes of such headers.
const TRANSIENT_PREFIXES: &str = "cf- x-envoy- x-tower-claude- x-amzn- x-b3-";
/// Parts of the names of such headers.
const TRANSIENT_PARTS: &str = "ratelimit request-id requestid trace correlation-id \
    anthropic-fast- anthropic-priority-";

/// Returns the headers that describe the response itself, without the headers of the connection, of
/// the request, or of the current rate limits.
pub(crate) fn storable_headers(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if !is_transient(name) && !is_named_by_connection(headers, name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

fn is_transient(name: &HeaderName) -> bool {
    let name = name.as_str();
    let mut prefixes = TRANSIENT_PREFIXES.split(' ');
    let mut parts = TRANSIENT_PARTS.split(' ');
    TRANSIENT.split(' ').any(|transient| name == transient)
        || prefixes.any(|prefix| name.starts_with(prefix))
        || parts.any(|part| name.contains(part))
}

fn is_named_by_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers
        .get_all(http::header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|word| (word.trim_ascii()).eq_ignore_ascii_case(name.as_str().as_bytes()))
}
