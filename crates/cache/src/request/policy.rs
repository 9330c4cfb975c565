//! Selection of the requests that use the cache.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header::CACHE_CONTROL};
use tower_claude_core::{Endpoint, RequestBody, toolkit::Credential};

use crate::{
    request::canonical::{Field, fields},
    request::key::{Key, Secret, UnkeyedFields},
};

/// A request extension that marks a request as cacheable: its response may be stored, and it may
/// get a stored response.
///
/// A request without it (and without the header of [`with_header`](crate::CacheLayer::with_header))
/// passes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Cacheable {
    ttl: Option<Duration>,
}

impl Cacheable {
    /// Returns a mark without a time to live of its own: the layer's applies.
    pub const fn new() -> Self {
        Self { ttl: None }
    }

    /// Sets how long the response is fresh, ± 10 %. With zero the request joins calls in flight and
    /// stores nothing.
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Returns the time to live of this request, if it has its own.
    #[must_use]
    pub const fn ttl(&self) -> Option<Duration> {
        self.ttl
    }
}

/// The reason to bypass a request to a path that is no known endpoint.
pub(crate) const NO_ENDPOINT: &str = "endpoint";
/// The reason to bypass a request without a known credential.
pub(crate) const NO_CREDENTIAL: &str = "credential";

type ChooseFn = dyn Fn(&Request<RequestBody>) -> Option<Cacheable> + Send + Sync;

/// The settings that decide which requests use the cache, and under which key.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) secret: Secret,
    pub(crate) header: Option<HeaderName>,
    pub(crate) choose: Option<Arc<ChooseFn>>,
    pub(crate) key_headers: Vec<HeaderName>,
    pub(crate) count_tokens: bool,
    /// True if requests without a known credential share responses.
    pub(crate) anonymous: bool,
}

/// The decision about a request.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The request carries no cache marker, or is a kind of API request that is never cached.
    Pass,
    /// The request carries a cache marker and cannot use the cache, for this reason.
    Bypass(&'static str),
    /// The request uses the cache.
    Lookup {
        key: Key,
        unkeyed: UnkeyedFields,
        ttl: Option<Duration>,
    },
}

impl Policy {
    /// Returns false if the request carries no cache marker. A cheap check, made before
    /// [`plan`](Self::plan).
    pub(crate) fn may_apply(&self, request: &Request<RequestBody>) -> bool {
        self.choose.is_some()
            || request.extensions().get::<Cacheable>().is_some()
            || (self.header.as_ref()).is_some_and(|name| request.headers().contains_key(name))
    }

    /// Decides whether the request uses the cache, and computes its key.
    pub(crate) fn plan(&self, request: &Request<RequestBody>) -> Plan {
        let Some(marked) = self.marked(request) else {
            return Plan::Pass;
        };
        let endpoint = Endpoint::of(request.uri().path());
        let cacheable = match endpoint {
            Endpoint::Messages => true,
            Endpoint::CountTokens => self.count_tokens,
            _ => false,
        };
        if endpoint == Endpoint::Other {
            return Plan::Bypass(NO_ENDPOINT);
        }
        if !cacheable || request.method() != Method::POST {
            return Plan::Pass;
        }
        if has_no_store(request.headers()) {
            return Plan::Bypass("no_store");
        }
        let credentials = Credential::all(request);
        if credentials.is_empty() && !self.knows_caller(request) {
            return Plan::Bypass(NO_CREDENTIAL);
        }
        let Some(fields) = request.body().bytes().and_then(|bytes| fields(bytes)) else {
            return Plan::Bypass("body");
        };
        if is_warm_up(&fields) {
            return Plan::Bypass("max_tokens");
        }
        if fields.iter().any(|field| field.name == "thread") {
            return Plan::Bypass("thread");
        }
        Plan::Lookup {
            key: self
                .secret
                .key(request, &credentials, &fields, &self.key_headers),
            unkeyed: self.secret.unkeyed_fields(request, &fields),
            ttl: marked.ttl,
        }
    }

    /// Returns true if a request without a known credential may share responses: the caller is
    /// known by other means, or the layer is set so.
    fn knows_caller(&self, request: &Request<RequestBody>) -> bool {
        self.anonymous
            || self
                .key_headers
                .iter()
                .any(|name| request.headers().contains_key(name))
    }

    fn marked(&self, request: &Request<RequestBody>) -> Option<Cacheable> {
        if let Some(choose) = &self.choose {
            return choose(request);
        }
        if let Some(marked) = request.extensions().get() {
            return Some(*marked);
        }
        by_header(request.headers().get(self.header.as_ref()?)?)
    }
}

/// Parses `true`, `1`, or `max-age=<seconds>`.
fn by_header(value: &HeaderValue) -> Option<Cacheable> {
    let text = value.to_str().ok()?.trim();
    if let Some(seconds) = text.strip_prefix("max-age=") {
        let ttl = Duration::from_secs(seconds.parse().ok()?);
        return Some(Cacheable::new().with_ttl(ttl));
    }
    (text == "1" || text.eq_ignore_ascii_case("true")).then_some(Cacheable::new())
}

fn has_no_store(headers: &HeaderMap) -> bool {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"no-store"))
}

/// Returns true for `max_tokens: 0`, with which the API fills its prompt cache and does not answer.
fn is_warm_up(fields: &[Field<'_>]) -> bool {
    let max_tokens = fields.iter().find(|field| field.name == "max_tokens");
    max_tokens.is_some_and(|field| {
        let number = std::str::from_utf8(&field.value).ok();
        number.and_then(|text| text.parse::<f64>().ok()) == Some(0.0)
    })
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("header", &self.header)
            .field("chosen_by_function", &self.choose.is_some())
            .field("count_tokens", &self.count_tokens)
            .finish_non_exhaustive()
    }
}
