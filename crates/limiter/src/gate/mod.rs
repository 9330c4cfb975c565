//! The shell that the limiter layers share: admit, call, learn from the head, settle at the end of
//! the body. A layer over a limiter is a [`Gate`] with its own settings and its own name.

mod admit;
mod answer;
mod body;
mod entry;
mod future;
mod head;
mod names;
mod service;
mod stage;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Request;
use tower_claude_core::{
    Call, ClaudeClassify, HeuristicCost, RequestBody, Scope,
    event::{EventSink, Observer},
};

pub use body::{GateBody, Settle};
pub use future::GateFuture;
pub use service::Gated;
#[doc(hidden)]
pub use stage::{Held as GateHeld, LimitPolicy};

type ScopeOf = dyn Fn(&Request<RequestBody>) -> Scope + Send + Sync;

/// Credentials whose 401 has been reported; beyond it, reports stop rather than memory grow.
const REPORTED_LIMIT: usize = 1024;

/// What a limiter layer does around each request. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Gate<L, E = HeuristicCost, C = ClaudeClassify> {
    pub(crate) layer: &'static str,
    pub(crate) limiter: L,
    pub(crate) estimate: E,
    pub(crate) classify: C,
    pub(crate) max_wait: Duration,
    pub(crate) scope_of: Option<Arc<ScopeOf>>,
    pub(crate) observers: EventSink,
    pub(crate) warn_percent: u8,
    pub(crate) reads_headers: bool,
    pub(crate) own_classifier: bool,
    pub(crate) names: Option<Arc<names::Names>>,
    unauthorized: Arc<Mutex<HashSet<u64>>>,
}

impl<L> Gate<L> {
    /// The longest wait in the queue by default.
    pub const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(60);

    /// A gate that admits by this limiter and settles from `usage`. It speaks as `layer`.
    #[must_use]
    pub fn new(layer: &'static str, limiter: L) -> Self {
        Self {
            layer,
            limiter,
            estimate: HeuristicCost::default(),
            classify: ClaudeClassify::default(),
            max_wait: Self::DEFAULT_MAX_WAIT,
            scope_of: None,
            observers: EventSink::default(),
            warn_percent: 80,
            reads_headers: false,
            own_classifier: false,
            names: None,
            unauthorized: Arc::default(),
        }
    }
}

impl<L, E, C> Gate<L, E, C> {
    /// Learns from the rate-limit headers, reports headroom, and joins a reservation that an outer
    /// layer made with the same limiter instead of making its own.
    #[must_use]
    pub const fn reading_headers(mut self) -> Self {
        self.reads_headers = true;
        self
    }

    /// Estimates costs by `estimate`.
    #[must_use]
    pub fn with_estimate<E2>(self, estimate: E2) -> Gate<L, E2, C> {
        Gate {
            layer: self.layer,
            limiter: self.limiter,
            estimate,
            classify: self.classify,
            max_wait: self.max_wait,
            scope_of: self.scope_of,
            observers: self.observers,
            warn_percent: self.warn_percent,
            reads_headers: self.reads_headers,
            own_classifier: self.own_classifier,
            names: self.names,
            unauthorized: self.unauthorized,
        }
    }

    /// Classifies by `classify`, also what an inner layer has classified already.
    #[must_use]
    pub fn with_classifier<C2>(self, classify: C2) -> Gate<L, E, C2> {
        Gate {
            layer: self.layer,
            limiter: self.limiter,
            estimate: self.estimate,
            classify,
            max_wait: self.max_wait,
            scope_of: self.scope_of,
            observers: self.observers,
            warn_percent: self.warn_percent,
            reads_headers: self.reads_headers,
            own_classifier: true,
            names: self.names,
            unauthorized: self.unauthorized,
        }
    }

    /// Refuses requests that would wait longer than this.
    #[must_use]
    pub const fn with_max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Finds the pool of limits of a request by `scope_of` instead of [`Scope::of`].
    #[must_use]
    pub fn with_scope(
        mut self,
        scope_of: impl Fn(&Request<RequestBody>) -> Scope + Send + Sync + 'static,
    ) -> Self {
        self.scope_of = Some(Arc::new(scope_of));
        self
    }

    /// Tells this observer every decision.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observers = EventSink::new(observer);
        self
    }

    /// Warns when this share of a limit is used, in percent (1 to 100).
    #[must_use]
    pub const fn with_warn_percent(mut self, percent: u8) -> Self {
        self.warn_percent = percent;
        self
    }

    /// The limiter.
    pub const fn limiter(&self) -> &L {
        &self.limiter
    }

    pub(crate) fn scope_in(&self, request: &Request<RequestBody>, context: &Call) -> Scope {
        match &self.scope_of {
            Some(scope_of) => scope_of(request),
            None => Scope::of_call(request, context),
        }
    }

    pub(crate) fn scope(&self, request: &Request<RequestBody>) -> Scope {
        match &self.scope_of {
            Some(scope_of) => scope_of(request),
            None => Scope::of(request),
        }
    }

    /// True the first time for each credential.
    pub(crate) fn is_news(&self, credential: u64) -> bool {
        let mut reported = self
            .unauthorized
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        reported.len() < REPORTED_LIMIT && reported.insert(credential)
    }
}

impl<L: fmt::Debug, E, C> fmt::Debug for Gate<L, E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("layer", &self.layer)
            .field("limiter", &self.limiter)
            .field("max_wait", &self.max_wait)
            .finish_non_exhaustive()
    }
}
