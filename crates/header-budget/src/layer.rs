//! The layer and its settings.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Request};
use tower_claude_core::{
    ClaudeClassify, HeuristicCost, RequestBody, Scope,
    driver::{Driven, DriverLayer},
    event::Observer,
};
use tower_claude_limiter::{Gate, Limiter, Limits, LocalLimiter};
use tower_layer::Layer;

use crate::NAME;

/// Learns headroom from response headers and keeps to it. See the [crate page](crate).
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct HeaderBudgetLayer<L = LocalLimiter, E = HeuristicCost, C = ClaudeClassify> {
    gate: Arc<Gate<L, E, C>>,
    body_limit: usize,
}

impl HeaderBudgetLayer {
    /// Starts without limits and enforces what it learns.
    pub fn new() -> Self {
        Self::over(LocalLimiter::new(Limits::unlimited()))
    }
}

impl Default for HeaderBudgetLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Limiter> HeaderBudgetLayer<L> {
    /// Corrects this limiter. A request that an outer layer with the same limiter admitted is not
    /// admitted again. Until the first headers are known few requests are let out
    /// ([`LimiterConfig::initial_concurrency`](tower_claude_limiter::LimiterConfig::initial_concurrency)).
    pub fn over(limiter: L) -> Self {
        limiter.expect_headers();
        Self {
            gate: Arc::new(Gate::new(NAME, limiter).reading_headers()),
            body_limit: RequestBody::DEFAULT_LIMIT,
        }
    }
}

impl<L: Clone, E: Clone, C: Clone> HeaderBudgetLayer<L, E, C> {
    fn map<E2, C2>(
        self,
        change: impl FnOnce(Gate<L, E, C>) -> Gate<L, E2, C2>,
    ) -> HeaderBudgetLayer<L, E2, C2> {
        HeaderBudgetLayer {
            gate: Arc::new(change(Arc::unwrap_or_clone(self.gate))),
            body_limit: self.body_limit,
        }
    }

    /// Estimates costs by `estimate` (default: [`HeuristicCost`]). Used only where this layer admits.
    pub fn with_estimate<E2>(self, estimate: E2) -> HeaderBudgetLayer<L, E2, C> {
        self.map(|gate| gate.with_estimate(estimate))
    }

    /// Classifies outcomes by `classify` (default: [`ClaudeClassify`]).
    pub fn with_classifier<C2>(self, classify: C2) -> HeaderBudgetLayer<L, E, C2> {
        self.map(|gate| gate.with_classifier(classify))
    }

    /// Refuses a request at once when it would wait longer than this (default: 60 s). Used only where
    /// this layer admits.
    pub fn with_max_wait(self, max_wait: Duration) -> Self {
        self.map(|gate| gate.with_max_wait(max_wait))
    }

    /// Finds the pool of limits of a request by `scope_of` (default: [`Scope::of`]).
    pub fn with_scope(
        self,
        scope_of: impl Fn(&Request<RequestBody>) -> Scope + Send + Sync + 'static,
    ) -> Self {
        self.map(|gate| gate.with_scope(scope_of))
    }

    /// Takes the priority of a request from this header: `interactive`, `normal` or `batch`, in any case.
    /// Anything else counts as if the header were absent, and a
    /// [`Priority`](tower_claude_core::Priority) in the request's extensions wins. The header is passed
    /// on. Used only where
    /// this layer admits.
    pub fn with_priority_header(self, name: HeaderName) -> Self {
        self.map(|gate| gate.with_priority_header(name))
    }

    /// Takes the tenant of a request from this header; a [`Tenant`](tower_claude_core::Tenant) in the
    /// request's extensions wins. The header is passed on. Used only where
    /// this layer admits.
    pub fn with_tenant_header(self, name: HeaderName) -> Self {
        self.map(|gate| gate.with_tenant_header(name))
    }

    /// Takes the [`Workload`](tower_claude_core::Workload) of a request, by which its cost is learned, from this
    /// header; one in the request's extensions wins. The header is passed on. Used only where
    /// this layer admits.
    pub fn with_workload_header(self, name: HeaderName) -> Self {
        self.map(|gate| gate.with_workload_header(name))
    }

    /// Tells this observer every decision, beside `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.map(|gate| gate.with_observer(observer))
    }

    /// Warns when this share of a limit is used, in percent from 1 to 100 (default: 80).
    pub fn with_warn_percent(self, percent: u8) -> Self {
        self.map(|gate| gate.with_warn_percent(percent.clamp(1, 100)))
    }

    /// Buffers request bodies up to this many bytes (default: 32 MiB); longer ones pass through
    /// as one request of unknown size. In a stack the outermost layer's limit is the one that counts.
    pub const fn with_body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Returns the policy of this layer, for a driver that runs several.
    #[doc(hidden)]
    pub fn stage(&self) -> tower_claude_limiter::LimitPolicy<L, E, C> {
        tower_claude_limiter::LimitPolicy::new(self.gate.clone())
    }

    /// The limiter, to be shared with other layers.
    #[must_use]
    pub fn limiter(&self) -> L {
        self.gate.limiter().clone()
    }

    /// What was learned: `handle().snapshot()` gives the headroom by scope and dimension. It is the
    /// limiter.
    #[must_use]
    pub fn handle(&self) -> L {
        self.limiter()
    }
}

impl<S, L, E, C> Layer<S> for HeaderBudgetLayer<L, E, C>
where
    S: Clone,
    L: Clone,
    E: Clone,
    C: Clone,
{
    type Service = Driven<S, (), tower_claude_limiter::LimitPolicy<L, E, C>, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let policy = self.stage();
        let (classifier, reuse) = policy.classifier();
        DriverLayer::with_reuse((), policy, classifier, reuse)
            .with_body_limit(self.body_limit)
            .layer(inner)
    }
}
