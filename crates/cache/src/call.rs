//! A call that may use the cache: its lookup, and the responses that the cache makes for it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH},
};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_core::{
    Call, Deadline, Endpoint, Kind, Priority, RejectReason, Rejection, RequestBody, Tenant,
    event::{CacheDecision, Event, emit},
    toolkit::requested_model,
};
use tower_service::Service;

use crate::{
    answer::head::{CACHE, is_temporary, jittered},
    answer::rules::Rules,
    body::CacheBody,
    coalesce::{
        leader_call::CallTable,
        shared_fetch::{FetchLimits, Subscriber},
        state::{FetchParams, SharedResponse},
    },
    config::{Config, LAYER},
    request::{
        key::{Key, UnkeyedFields},
        policy::Plan,
    },
    store::{
        Store,
        entry::{Entry, Freshness},
    },
};

/// The value of the header [`CACHE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheStatus {
    Hit,
    Miss,
    Stale,
    Bypass,
}

impl CacheStatus {
    /// Sets the header.
    pub(crate) fn label(self, headers: &mut HeaderMap) {
        let value = match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
        };
        headers.insert(CACHE, HeaderValue::from_static(value));
    }
}

/// A request extension with the identity of the layer whose cache the request fills. If the same
/// layer is also an inner layer, it forwards the request. It would wait for itself otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fills(usize);

/// A call whose request carries a cache marker.
pub(crate) struct CacheableCall<T> {
    pub(crate) config: Arc<Config<T>>,
    /// Set until it is sent.
    pub(crate) request: Option<Request<RequestBody>>,
    /// Set by the plan.
    key: Option<Key>,
    pub(crate) unkeyed: UnkeyedFields,
    priority: Priority,
    ttl: Duration,
    started: Instant,
    pub(crate) deadline: Option<Instant>,
    /// An entry that may be served in place of an error.
    pub(crate) stale: Option<Entry>,
}

impl<T: Store> CacheableCall<T> {
    fn new(config: Arc<Config<T>>, request: Request<RequestBody>) -> Self {
        let ttl = config.settings.ttl;
        Self {
            config,
            request: Some(request),
            key: None,
            unkeyed: UnkeyedFields::default(),
            priority: Priority::default(),
            ttl,
            started: Instant::now(),
            deadline: None,
            stale: None,
        }
    }

    /// Decides whether the call uses the cache.
    fn plan(&mut self) -> Plan {
        let Some(request) = &self.request else {
            return Plan::Pass;
        };
        let plan = self.config.settings.policy.plan(request);
        if let Plan::Lookup { key, unkeyed, ttl } = plan {
            if request.extensions().get() == Some(&self.fills()) {
                return Plan::Pass;
            }
            self.key = Some(key);
            self.unkeyed = unkeyed;
            self.ttl = ttl.unwrap_or(self.ttl);
            let extensions = request.extensions();
            (self.deadline, self.priority) = match Call::of(request) {
                Some(call) => (call.deadline(), call.priority()),
                None => (
                    extensions.get::<Deadline>().map(|deadline| deadline.0),
                    extensions.get().copied().unwrap_or_default(),
                ),
            };
        }
        plan
    }

    fn fills(&self) -> Fills {
        Fills(Arc::as_ptr(&self.config.state).addr())
    }

    /// Returns the entry if it is fresh. Keeps it if it is stale, and removes it if it has expired.
    fn usable(&mut self, key: &Key, entry: Option<Entry>) -> Option<Entry> {
        let entry = entry.filter(|_| !self.unkeyed.is_rejected)?;
        match entry.freshness(self.started) {
            Freshness::Fresh => return Some(entry),
            Freshness::Stale => self.stale = Some(entry),
            Freshness::Expired => self.config.store.remove(key),
        }
        None
    }

    /// Returns the time at which the call no longer waits for the store.
    fn store_ends_at(&self) -> Instant {
        let timeout = self.config.settings.store_timeout;
        let at = self.started.checked_add(timeout).unwrap_or(self.started);
        self.deadline.map_or(at, |deadline| deadline.min(at))
    }

    /// Returns the fresh entry of the store, if the store has it at once.
    pub(crate) fn stored(&mut self) -> Option<Entry> {
        let key = self.key?;
        let mut get = self.config.store.get(&key);
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut get).poll(&mut cx) {
            Poll::Ready(entry) => self.usable(&key, entry),
            Poll::Pending => None,
        }
    }

    /// Joins a shared fetch. `None` if too many callers share it already.
    pub(crate) fn join(&self) -> Option<Subscriber> {
        let settings = &self.config.settings;
        let limits = FetchLimits {
            waiters: settings.max_waiters,
            bytes: settings.entry_limit,
            idle: settings.idle_timeout,
        };
        Subscriber::join(self.config.clone(), self.key?, limits, self.priority)
    }

    /// Returns the request of the leader's call, and the parameters of the fetch.
    pub(crate) fn launch(&mut self) -> Option<(Request<RequestBody>, FetchParams)> {
        let mut request = self.request.take()?;
        let model = match Endpoint::of(request.uri().path()) {
            Endpoint::Messages => Some((*requested_model(&request).unwrap_or_default()).into()),
            _ => None,
        };
        let settings = &self.config.settings;
        let params = FetchParams {
            rules: Rules {
                model,
                tool_use: settings.tool_use,
            },
            unkeyed: self.unkeyed,
            tenant: request.extensions().get::<Tenant>().cloned(),
            fresh_for: jittered(self.ttl, fastrand::f64()),
            stale_for: settings.stale_for,
        };
        Call::get_or_attach(&mut request, self.started);
        let fills = self.fills();
        request.extensions_mut().insert(fills);
        Some((request, params))
    }

    /// Returns the response of a fresh entry. Its age is as of the lookup.
    pub(crate) fn hit(&self, entry: Entry) -> Response<CacheBody> {
        self.config.record(CacheDecision::Hit, "");
        stored(entry, self.started, CacheStatus::Hit)
    }

    /// Returns the response of the stale entry, if there is one.
    pub(crate) fn stale(&mut self) -> Option<Response<CacheBody>> {
        let entry = self.stale.take()?;
        self.config.record(CacheDecision::Stale, "");
        Some(stored(entry, Instant::now(), CacheStatus::Stale))
    }

    /// Returns true if this call might get another response than the shared one, because its
    /// request differs in an unkeyed field or header.
    pub(crate) fn may_differ(&self, than: &SharedResponse) -> bool {
        if than.unkeyed == self.unkeyed {
            return false;
        }
        if than.head.status == StatusCode::OK {
            return self.unkeyed.is_rejected;
        }
        if than.unkeyed.accept_encoding != self.unkeyed.accept_encoding
            && than.head.headers.contains_key(CONTENT_ENCODING)
        {
            return true;
        }
        // Another service tier has another capacity. The metadata does not matter to an overloaded
        // server.
        than.unkeyed.service_tier != self.unkeyed.service_tier || !is_temporary(&than.head.parts())
    }

    /// Returns the response to an equal request.
    pub(crate) fn joined(
        &self,
        response: SharedResponse,
        subscriber: Subscriber,
    ) -> Response<CacheBody> {
        let because = match response.head.status {
            StatusCode::OK => "",
            _ => "failed",
        };
        self.config.record(CacheDecision::Joined, because);
        let mut parts = response.head.parts();
        let status = match response.head.status {
            StatusCode::OK => CacheStatus::Hit,
            _ => CacheStatus::Miss,
        };
        status.label(&mut parts.headers);
        let body = match response.whole {
            Some(whole) => {
                // Not the length of what was received, so that a cut is noticed.
                let length = (response.head.length).unwrap_or(whole.len() as u64);
                let length = HeaderValue::from(length);
                parts.headers.insert(CONTENT_LENGTH, length);
                CacheBody::Full(whole)
            }
            None => CacheBody::Shared(subscriber, None),
        };
        Response::from_parts(parts, body)
    }

    /// Returns the rejection of a subscriber whose leader got an error in place of a response.
    pub(crate) fn leader_failed(&self, because: Kind) -> Rejection {
        self.config.record(CacheDecision::Joined, "lost");
        Rejection::new(LAYER, RejectReason::SharedCallFailed { because })
    }

    /// Returns the rejection of a call whose deadline has passed.
    pub(crate) fn timed_out(&self) -> Rejection {
        let after = self.started.elapsed();
        let rejection = Rejection::new(LAYER, RejectReason::TimedOut { after });
        let event = Event::Rejected {
            layer: LAYER,
            scope: None,
            reason: rejection.reason,
            class: rejection.class(),
        };
        emit(&self.config.settings.observers, &event);
        rejection
    }
}

/// Returns the response of an entry, as of `now`.
fn stored(entry: Entry, now: Instant, status: CacheStatus) -> Response<CacheBody> {
    let mut headers = entry.headers(now);
    status.label(&mut headers);
    let mut response = Response::new(CacheBody::Stored(entry));
    *response.headers_mut() = headers;
    response
}

/// A cacheable call until the source of its response is known.
pub(crate) struct Lookup<S, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    pub(crate) service: S,
    pub(crate) calls: Arc<CallTable<S>>,
    pub(crate) call: CacheableCall<T>,
    pub(crate) detach: D,
    /// Set by the first poll.
    get: Option<(Key, T::Get)>,
    /// Set while the store is pending.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The source of a response.
pub(crate) enum Found {
    /// A stored response.
    Hit(Entry),
    /// A shared fetch.
    Fetch(Subscriber),
    /// The inner service alone. `bypassed` is true if the request carries a cache marker.
    Inner { bypassed: bool },
}

impl<S, D, T> Lookup<S, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    pub(crate) fn new(
        service: S,
        calls: Arc<CallTable<S>>,
        config: Arc<Config<T>>,
        request: Request<RequestBody>,
        detach: D,
    ) -> Self {
        Self {
            service,
            calls,
            call: CacheableCall::new(config, request),
            detach,
            get: None,
            timer: None,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Found> {
        let (key, get) = match &mut self.get {
            Some(get) => get,
            None => match self.call.plan() {
                Plan::Lookup { key, .. } => {
                    let get = self.call.config.store.get(&key);
                    self.get.insert((key, get))
                }
                Plan::Bypass(because) => return Poll::Ready(self.bypass(because)),
                Plan::Pass => return Poll::Ready(Found::Inner { bypassed: false }),
            },
        };
        let key = *key;
        let entry = match Pin::new(get).poll(cx) {
            Poll::Ready(entry) => entry,
            Poll::Pending => {
                let ends_at = self.call.store_ends_at();
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(sleep_until(ends_at)));
                ready!(timer.as_mut().poll(cx));
                None
            }
        };
        Poll::Ready(match self.call.usable(&key, entry) {
            Some(entry) => Found::Hit(entry),
            None => match self.call.join() {
                Some(subscriber) => Found::Fetch(subscriber),
                None => self.bypass("waiters"),
            },
        })
    }

    fn bypass(&self, because: &'static str) -> Found {
        self.call.config.bypass(because);
        Found::Inner { bypassed: true }
    }
}
