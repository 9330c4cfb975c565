//! The events of a limiter layer, and its reading of response heads.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, response::Parts};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, EstimatedTokens, Kind, Priority, Reach, Rejection, Scope, UsageBound,
    driver::Clock,
    event::{Event, EventSink, emit, is_debug_enabled},
    toolkit::{Observation, OtherHost, PausedByLimiter},
};
use tower_claude_wire::{self as wire, RateLimits, Usage};

use crate::{pool::request::QueuePlace, reservation::Admitted};

/// The largest number of keys whose event is remembered. Further keys are not reported, so that
/// memory stays bounded.
const MAX_REPORTED: usize = 1024;

/// The keys for which an event was emitted that is emitted once for each.
#[derive(Clone, Debug, Default)]
struct ReportedKeys(Arc<Mutex<HashSet<u64>>>);

impl ReportedKeys {
    /// Returns true for the first event of a key.
    fn is_first(&self, key: u64) -> bool {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.len() < MAX_REPORTED && keys.insert(key)
    }
}

/// Emits the events of one layer, and reports response heads to the limiter.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    layer: &'static str,
    reads_headers: bool,
    pub(super) events: EventSink,
    pub(super) warn_percent: u8,
    unauthorized: ReportedKeys,
    capped: ReportedKeys,
    scope_hasher: RandomState,
}

impl Reporter {
    pub(super) fn new(layer: &'static str, reads_headers: bool) -> Self {
        Self {
            layer,
            reads_headers,
            events: EventSink::default(),
            warn_percent: 80,
            unauthorized: ReportedKeys::default(),
            capped: ReportedKeys::default(),
            scope_hasher: RandomState::default(),
        }
    }

    pub(super) const fn layer(&self) -> &'static str {
        self.layer
    }

    pub(super) const fn reads_headers(&self) -> bool {
        self.reads_headers
    }

    fn queued(&self, scope: &Scope, place: &QueuePlace) {
        let event = Event::Queued {
            layer: self.layer,
            scope,
            position: place.position,
            estimated_wait: place.estimated_wait,
        };
        emit(&self.events, &event);
    }

    /// Reports a request that leaves the queue without being admitted.
    fn abandoned(&self, queued: &QueuedReport, now: Instant) {
        let call = &*queued.call;
        let because = if call.is_timed_out() {
            "timeout"
        } else if call.deadline().is_some_and(|deadline| deadline <= now) {
            "deadline"
        } else {
            "dropped"
        };
        let event = Event::Abandoned {
            layer: self.layer,
            scope: &queued.scope,
            position: queued.position,
            wait: now.saturating_duration_since(queued.since),
            because,
        };
        emit(&self.events, &event);
    }

    #[inline]
    pub(super) fn admitted(&self, scope: &Scope, wait: Duration, priority: Priority) {
        let event = Event::Admitted {
            layer: self.layer,
            scope,
            wait,
            priority,
        };
        emit(&self.events, &event);
    }

    /// Reports a rejection of the limiter, and returns it in the name of the layer.
    pub(super) fn rejected(&self, scope: &Scope, rejection: Rejection) -> Rejection {
        let rejection = rejection.in_name_of(self.layer);
        let event = Event::Rejected {
            layer: self.layer,
            scope: Some(scope),
            reason: rejection.reason,
            class: rejection.class(),
        };
        emit(&self.events, &event);
        rejection
    }

    /// Reports the head of a response to the limiter: a 429 pauses the scope unless it concerns
    /// only its own request, and rate-limit headers correct its levels.
    #[inline]
    pub(super) fn on_head(
        &self,
        head: &mut Parts,
        class: &Class,
        admitted: &Admitted,
        scope: &Option<Box<Scope>>,
        clock: &mut Clock,
    ) {
        if class.local {
            return;
        }
        // The pause comes first. Learning from a 429 returns the reservation, and no waiting
        // request may be admitted on it.
        if class.is_rate_limit() && class.reach > Reach::Request {
            self.pause(head, class, admitted, admitted.scope(scope), clock.now());
        }
        if !self.reads_headers {
            return;
        }
        // The head of a success is skipped while the last head that was read is at most 100 ms old
        // and its levels were at least half of their limits. A changed limit is then learned at
        // most 100 ms later. Reading a head takes about 6,000 instructions, a third of all layers
        // together. An observer of headroom events gets every head. Another host has other limits.
        let at = clock.now();
        if class.is_success() && admitted.can_skip_head(at) && !is_debug_enabled(&self.events) {
            return;
        }
        if head.extensions.get::<OtherHost>().is_none() {
            self.learn(&head.headers, class, admitted.scope(scope), admitted, at);
        }
    }

    /// Pauses the scope after a 429, unless an inner layer has done so.
    #[cold]
    fn pause(
        &self,
        head: &mut Parts,
        class: &Class,
        admitted: &Admitted,
        scope: &Scope,
        at: Instant,
    ) {
        if head.extensions.get::<PausedByLimiter>().is_some() {
            return;
        }
        let pause = admitted.pause(class.retry_after, at);
        let event = Event::Paused {
            layer: self.layer,
            scope,
            pause,
        };
        emit(&self.events, &event);
        head.extensions.insert(PausedByLimiter { pause });
    }

    /// Learns from headers that arrived at `at`.
    // Out of line, since most heads are skipped.
    #[inline(never)]
    fn learn(
        &self,
        headers: &HeaderMap,
        class: &Class,
        scope: &Scope,
        admitted: &Admitted,
        at: Instant,
    ) {
        let limits = RateLimits::from_headers(headers);
        let observation = Observation::new(&limits, wire::date(headers), *class, at)
            .with_warn_percent(self.warn_percent);
        let warning = admitted.observe(&observation);
        if is_debug_enabled(&self.events) {
            let event = Event::Headroom {
                layer: self.layer,
                scope,
                limits: &limits,
                request_id: wire::request_id(headers),
            };
            emit(&self.events, &event);
        }
        if let Some(crossing) = warning {
            let layer = self.layer;
            let event = match crossing.configured {
                Some(configured) => Event::LimitDiffers {
                    layer,
                    scope,
                    dimension: crossing.dimension,
                    configured,
                    server: crossing.limit,
                },
                None => Event::Threshold {
                    layer,
                    scope,
                    crossing,
                },
            };
            emit(&self.events, &event);
        }
        if class.kind == Kind::Unauthorized && self.unauthorized.is_first(scope.credential) {
            let event = Event::Unauthorized {
                layer: self.layer,
                scope,
                request_id: wire::request_id(headers),
            };
            emit(&self.events, &event);
        }
    }

    /// Returns true if an observer or a subscriber gets the event of a settled estimate.
    #[inline]
    pub(super) fn wants_estimates(&self) -> bool {
        is_debug_enabled(&self.events)
    }

    /// Reports that the usage of a response has replaced an estimate.
    #[cold]
    pub(super) fn settled(&self, scope: &Scope, estimated: EstimatedTokens, usage: &Usage) {
        let event = Event::Settled {
            layer: self.layer,
            scope,
            estimated,
            usage,
        };
        emit(&self.events, &event);
    }

    /// Reports that a response claims more usage than its request can have caused.
    pub(super) fn usage_capped(&self, scope: &Scope, usage: &Usage, bound: UsageBound) {
        if self.capped.is_first(self.scope_hasher.hash_one(scope)) {
            let event = Event::UsageCapped {
                layer: self.layer,
                scope,
                usage,
                bound,
            };
            emit(&self.events, &event);
        }
    }
}

/// A request in the queue. Reports when it is dropped, unless the limiter has decided on it.
#[derive(Debug)]
pub(super) struct QueuedReport {
    reporter: Reporter,
    scope: Scope,
    call: Arc<Call>,
    position: Option<usize>,
    since: Instant,
    is_decided: bool,
}

impl QueuedReport {
    /// Reports that a request is queued since `now`.
    pub(super) fn new(
        reporter: &Reporter,
        scope: Scope,
        call: &Arc<Call>,
        place: Option<QueuePlace>,
        now: Instant,
    ) -> Self {
        if let Some(place) = &place {
            reporter.queued(&scope, place);
        }
        Self {
            reporter: reporter.clone(),
            scope,
            call: call.clone(),
            position: place.map(|place| place.position),
            since: now,
            is_decided: false,
        }
    }

    /// Records that the limiter has admitted or rejected the request.
    pub(super) fn decide(&mut self) {
        self.is_decided = true;
    }
}

impl Drop for QueuedReport {
    fn drop(&mut self) {
        if !self.is_decided {
            self.reporter.abandoned(self, Instant::now());
        }
    }
}
