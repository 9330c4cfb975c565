//! What one call knows, and the answers it can be given.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    response::Parts,
};
use http_body::{Body as HttpBody, SizeHint};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, Deadline, Endpoint, Kind, REJECTED_BY, RejectReason, Rejection, RequestBody,
    ResponseBody, Tenant,
    event::{CacheDecision, Event, emit},
};
use tower_claude_wire::ApiError;

use crate::{
    Body, CACHE, Entry, Freshness, Key, LAYER, Store,
    answer::head::{is_of_the_moment, jittered},
    answer::rules::Rules,
    config::Config,
    flight::seat::Seat,
    flight::state::{Answer as Landed, Ask},
    request::{key::Aside, policy::Plan},
};

/// What the caller gets.
pub(crate) type Answer<R> = Response<ResponseBody<Body<R>>>;

/// The value of the header `x-tower-claude-cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said(&'static str);

pub(crate) const HIT: Said = Said("hit");
pub(crate) const MISS: Said = Said("miss");
pub(crate) const STALE: Said = Said("stale");
pub(crate) const BYPASS: Said = Said("bypass");

/// Put into a request that fills a cache: the same layer further in lets it through, or it would wait for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fills(usize);

/// One call that may ask for the cache.
pub(crate) struct CacheCall<T> {
    pub(crate) config: Arc<Config<T>>,
    /// Until it is sent on.
    request: Option<Request<RequestBody>>,
    /// What sets it apart from those with its key.
    aside: Aside,
    ttl: std::time::Duration,
    started: Instant,
    pub(crate) deadline: Option<Instant>,
    /// What may be served in place of an error.
    pub(crate) stale: Option<Entry>,
}

impl<T: Store> CacheCall<T> {
    pub(crate) fn new(config: Arc<Config<T>>, request: Request<RequestBody>) -> Self {
        let ttl = config.ttl;
        Self {
            config,
            request: Some(request),
            aside: Aside::default(),
            ttl,
            started: Instant::now(),
            deadline: None,
            stale: None,
        }
    }

    /// What becomes of the request.
    pub(crate) fn plan(&mut self) -> Plan {
        let Some(request) = &self.request else {
            return Plan::Pass;
        };
        let plan = self.config.policy.plan(request);
        if let Plan::Lookup { aside, ttl, .. } = plan {
            // This layer further in, in the call that fills it.
            if request.extensions().get() == Some(&self.mark()) {
                return Plan::Pass;
            }
            self.aside = aside;
            self.ttl = ttl.unwrap_or(self.config.ttl);
            self.deadline = match Call::of(request) {
                Some(context) => context.deadline(),
                None => request
                    .extensions()
                    .get::<Deadline>()
                    .map(|deadline| deadline.0),
            };
        }
        plan
    }

    fn mark(&self) -> Fills {
        Fills(Arc::as_ptr(&self.config.state).addr())
    }

    /// The request goes past the cache.
    pub(crate) fn bypass(&self, because: &'static str) {
        self.config.decided(CacheDecision::Bypass, because);
    }

    /// The stored answer, if it is fresh; one that is stale is kept at hand.
    pub(crate) fn found(&mut self, key: &Key, entry: Option<Entry>) -> Option<Entry> {
        let entry = entry?;
        match entry.freshness(self.started) {
            Freshness::Fresh => return Some(entry),
            Freshness::Stale => self.stale = Some(entry),
            Freshness::Expired => self.config.store.remove(key),
        }
        None
    }

    /// The request, to be sent as it is.
    pub(crate) fn request(&mut self) -> Option<Request<RequestBody>> {
        self.request.take()
    }

    /// The request, to be sent for all who wait, and what its answer must be to be stored.
    pub(crate) fn launch(&mut self) -> Option<(Request<RequestBody>, Ask)> {
        let mut request = self.request()?;
        let asked = match Endpoint::of(request.uri().path()) {
            Endpoint::Messages => Some(request.body().model().unwrap_or_default().into()),
            _ => None,
        };
        let ask = Ask {
            rules: Rules {
                model: asked,
                tool_use: self.config.tool_use,
            },
            aside: self.aside,
            tenant: request.extensions().get::<Tenant>().cloned(),
            fresh_for: jittered(self.ttl, fastrand::f64()),
            stale_for: self.config.stale_for,
        };
        let mark = self.mark();
        request.extensions_mut().insert(mark);
        Some((request, ask))
    }

    /// The answer in the store.
    pub(crate) fn stored<R>(&self, entry: Entry, said: Said) -> Answer<R>
    where
        R: HttpBody<Data = Bytes>,
        R::Error: 'static,
    {
        // A hit is as old as it was when it was found fresh; a stale one may have waited for an error since.
        let (decision, now) = if said == HIT {
            (CacheDecision::Hit, self.started)
        } else {
            (CacheDecision::Stale, Instant::now())
        };
        self.config.decided(decision, "");
        let mut headers = entry.headers(now);
        label(&mut headers, said);
        let body = match &*entry.parts().frames {
            [only] => ResponseBody::full(only.clone()),
            _ => ResponseBody::inner(Body::stored(entry)),
        };
        let mut response = Response::new(body);
        *response.headers_mut() = headers;
        response
    }

    /// The caller's own answer, which others read too.
    pub(crate) fn own<R>(&self, mut parts: Parts, promised: SizeHint, seat: Seat) -> Answer<R>
    where
        R: HttpBody<Data = Bytes>,
        R::Error: 'static,
    {
        label(&mut parts.headers, MISS);
        let body = Body::shared(seat, Some(promised));
        Response::from_parts(parts, ResponseBody::inner(body))
    }

    /// Whether it is an error that this call might not get.
    pub(crate) fn may_do_better(&self, than: &Landed) -> bool {
        if than.head.status == StatusCode::OK || than.aside == self.aside {
            return false;
        }
        // Other tiers have other capacity; whose request it is does not matter to a server in trouble.
        than.aside.service_tier != self.aside.service_tier || !is_of_the_moment(&than.head.parts())
    }

    /// The answer to somebody else's equal request.
    pub(crate) fn joined<R>(&self, landed: Landed, seat: Seat) -> Answer<R>
    where
        R: HttpBody<Data = Bytes>,
        R::Error: 'static,
    {
        self.config.decided(CacheDecision::Joined, "");
        let mut parts = landed.head.parts();
        let said = if landed.head.status == StatusCode::OK {
            HIT
        } else {
            MISS
        };
        label(&mut parts.headers, said);
        let body = match landed.whole {
            Some(whole) => {
                parts
                    .headers
                    .insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
                ResponseBody::full(whole)
            }
            None => ResponseBody::inner(Body::shared(seat, None)),
        };
        Response::from_parts(parts, body)
    }

    /// For those who waited for a call that got an error in place of a response.
    pub(crate) fn lost<R>(&self, kind: Kind) -> Answer<R>
    where
        R: HttpBody<Data = Bytes>,
        R::Error: 'static,
    {
        self.config.decided(CacheDecision::Joined, "lost");
        let message = "cache: the request that this one waited for got no answer";
        let body = Bytes::from(ApiError::body("api_error", message, None));
        let length = body.len();
        let mut response = Response::new(ResponseBody::full(body));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(REJECTED_BY, HeaderValue::from_static(LAYER));
        label(headers, MISS);
        response.extensions_mut().insert(Class::new(kind));
        response
    }

    /// For those whose time is up.
    pub(crate) fn too_late<R>(&self) -> Answer<R>
    where
        R: HttpBody<Data = Bytes>,
        R::Error: 'static,
    {
        let after = self.started.elapsed();
        let refusal = Rejection::new(LAYER, RejectReason::TimedOut { after });
        let event = Event::Rejected {
            layer: LAYER,
            scope: None,
            reason: refusal.reason,
            class: refusal.class(),
        };
        emit(&self.config.observers, &event);
        let mut response: Answer<R> = refusal.into_response();
        label(response.headers_mut(), MISS);
        response
    }
}

/// The inner service's own answer; what the caller did not ask for is not said.
pub(crate) fn passing<R>(response: Response<R>, said: Option<Said>) -> Answer<R>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
{
    let mut answer = response.map(|body| ResponseBody::inner(Body::passing(body)));
    if let Some(said) = said {
        label(answer.headers_mut(), said);
    }
    answer
}

fn label(headers: &mut HeaderMap, said: Said) {
    headers.insert(CACHE, HeaderValue::from_static(said.0));
}
