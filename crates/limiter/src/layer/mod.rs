//! The limiter layers: one layer type for token bucket and header budget.

mod policy;
mod reporter;
mod settings;

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use http::{HeaderName, Request};
use tower_claude_core::{
    ClaudeClassify, EstimateCost, HeuristicCost, RequestBody, Scope,
    driver::{Driver, DriverLayer},
    event::{EventSink, Observer},
};
use tower_layer::Layer;

pub use policy::{LimitAttempt, LimitPolicy};

use crate::{limiter::Limiter, limits::Limits, local::LocalLimiter};
use reporter::Reporter;
use settings::{LabelHeaders, LimitSettings};

/// The longest wait in the queue by default.
const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(60);

/// A kind of limiter layer: its name, and its use of rate-limit headers.
pub trait LimitKind: Clone {
    /// The name of the layer in events and in `x-tower-claude-refused-by`.
    const NAME: &'static str;

    /// True if the layer learns from the rate-limit headers of responses.
    const READS_HEADERS: bool;
}

/// The kind of `TokenBucketLayer`: admits by configured limits, and reads no headers.
#[derive(Clone, Copy, Debug)]
pub enum TokenBucketKind {}

impl LimitKind for TokenBucketKind {
    const NAME: &'static str = "token-bucket";
    const READS_HEADERS: bool = false;
}

/// The kind of `HeaderBudgetLayer`: learns limits and levels from headers.
#[derive(Clone, Copy, Debug)]
pub enum HeaderBudgetKind {}

impl LimitKind for HeaderBudgetKind {
    const NAME: &'static str = "header-budget";
    const READS_HEADERS: bool = true;
}

/// A layer that admits requests by a [`Limiter`] and settles them by their actual usage.
///
/// `TokenBucketLayer` and `HeaderBudgetLayer` are its two kinds, and their crate pages describe
/// them. A [`LimitKind`] of your own gives the layer another name.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct LimitLayer<K, L = LocalLimiter, E = HeuristicCost, C = ClaudeClassify> {
    settings: Arc<LimitSettings<L, E>>,
    classifier: C,
    /// False if the classifier overrules the class that an inner layer left.
    reuses_class: bool,
    body_limit: usize,
    kind: PhantomData<K>,
}

impl LimitLayer<TokenBucketKind> {
    /// Creates a token bucket that enforces these limits in this process. A header budget over the
    /// same limiter may lower them, and does not raise them.
    pub fn new(limits: Limits) -> Self {
        Self::over(LocalLimiter::new(limits))
    }
}

impl LimitLayer<HeaderBudgetKind> {
    /// Creates a header budget that starts without limits and enforces the limits that it learns.
    pub fn new() -> Self {
        Self::over(LocalLimiter::new(Limits::unlimited()))
    }
}

impl Default for LimitLayer<HeaderBudgetKind> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: LimitKind, L: Limiter> LimitLayer<K, L> {
    /// Creates the layer over a limiter, which other layers may share.
    ///
    /// A header budget does not admit a request again if an outer layer with the same limiter has
    /// admitted it. Until the first headers arrive, it lets only a few requests out
    /// ([`LimiterConfig`](crate::LimiterConfig) sets the number).
    pub fn over(limiter: L) -> Self {
        if K::READS_HEADERS {
            limiter.expect_headers();
        }
        Self {
            settings: Arc::new(LimitSettings {
                limiter,
                estimate: HeuristicCost::default(),
                max_wait: DEFAULT_MAX_WAIT,
                scope_of: None,
                label_headers: LabelHeaders::default(),
                reporter: Reporter::new(K::NAME, K::READS_HEADERS),
            }),
            classifier: ClaudeClassify::default(),
            reuses_class: true,
            body_limit: RequestBody::DEFAULT_LIMIT,
            kind: PhantomData,
        }
    }
}

impl<K, L, E, C> LimitLayer<K, L, E, C> {
    /// Classifies outcomes by `classifier`. The default is [`ClaudeClassify`], which accepts the
    /// class that an inner layer left in a response. A classifier set here overrules it.
    pub fn with_classifier<C2>(self, classifier: C2) -> LimitLayer<K, L, E, C2> {
        LimitLayer {
            settings: self.settings,
            classifier,
            reuses_class: false,
            body_limit: self.body_limit,
            kind: PhantomData,
        }
    }

    /// Buffers request bodies of up to this many bytes. The default is 32 MiB. A longer body passes
    /// through as a stream, and counts as a request without tokens. In a stack, the limit of the
    /// outermost layer applies.
    pub const fn with_body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Returns the policy of this layer, for a driver that runs several policies.
    #[must_use]
    pub fn policy(&self) -> LimitPolicy<L, E> {
        LimitPolicy::new(self.settings.clone())
    }
}

impl<K, L: Clone, E: Clone, C> LimitLayer<K, L, E, C> {
    /// Estimates the cost of a request by `estimate`. The default is [`HeuristicCost`]. Not used if
    /// an outer layer with the same limiter admits.
    ///
    /// The cost of a closure is charged as it is, in units of its own, and no usage in the response
    /// changes it. A closure that estimates Claude's tokens asks for it with
    /// [`Cost::with_settle`](tower_claude_core::Cost::with_settle)`(Settle::ByUsage)`. In
    /// [`estimate_fn`](tower_claude_core::estimate_fn) a closure needs no type annotation.
    pub fn with_estimate<E2>(self, estimate: E2) -> LimitLayer<K, L, E2, C> {
        let settings = Arc::unwrap_or_clone(self.settings).with_estimate(estimate);
        LimitLayer {
            settings: Arc::new(settings),
            classifier: self.classifier,
            reuses_class: self.reuses_class,
            body_limit: self.body_limit,
            kind: PhantomData,
        }
    }

    fn map(mut self, change: impl FnOnce(&mut LimitSettings<L, E>)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Rejects a request at once if its estimated wait is longer than `max_wait`, and a waiting
    /// request after that time. The default is 60 seconds. With zero, no request waits.
    pub fn with_max_wait(self, max_wait: Duration) -> Self {
        self.map(|settings| settings.max_wait = max_wait)
    }

    /// Finds the scope of a request by `scope_of`, and so the limits it draws on. The default is
    /// [`Scope::of`]: the limits count for each credential, host and rate group.
    pub fn with_scope(
        self,
        scope_of: impl Fn(&Request<RequestBody>) -> Scope + Send + Sync + 'static,
    ) -> Self {
        self.map(|settings| settings.scope_of = Some(Arc::new(scope_of)))
    }

    /// Reads the priority of a request from this header: `interactive`, `normal` or `batch`, in any
    /// case. Any other value counts as absent. A [`Priority`](tower_claude_core::Priority) in the
    /// extensions of the request takes precedence. The header is passed on. By default, no header
    /// is read.
    pub fn with_priority_header(self, name: HeaderName) -> Self {
        self.map(|settings| settings.label_headers.priority = Some(name))
    }

    /// Reads the tenant of a request from this header. A [`Tenant`](tower_claude_core::Tenant) in
    /// the extensions of the request takes precedence. The header is passed on. By default, no
    /// header is read.
    ///
    /// A request without a tenant counts to the user in its `metadata.user_id`, or else to its
    /// [`Workload`](tower_claude_core::Workload), while it waits. Clients choose both, so set the
    /// tenant where a client may be hostile.
    pub fn with_tenant_header(self, name: HeaderName) -> Self {
        self.map(|settings| settings.label_headers.tenant = Some(name))
    }

    /// Reads the workload of a request from this header. Costs are learned by workload. A
    /// [`Workload`](tower_claude_core::Workload) in the extensions of the request takes precedence.
    /// The header is passed on. By default, no header is read.
    pub fn with_workload_header(self, name: HeaderName) -> Self {
        self.map(|settings| settings.label_headers.workload = Some(name))
    }

    /// Reports each decision to this observer, in addition to `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.map(|settings| settings.reporter.events = EventSink::new(observer))
    }

    /// Returns the limiter, to be shared with other layers.
    #[must_use]
    pub fn limiter(&self) -> L {
        self.settings.limiter.clone()
    }

    /// Returns the handle of the layer, which is its limiter. `handle().snapshot()` shows the
    /// levels and the queue of each scope.
    #[must_use]
    pub fn handle(&self) -> L {
        self.limiter()
    }
}

impl<K, L, E, C> LimitLayer<K, L, E, C>
where
    L: Limiter + Send + Sync + 'static,
    E: EstimateCost + Send + Sync + 'static,
{
    /// Returns a function that returns true if the input of a request should be counted, since a
    /// limit is so nearly used up that the error of the estimate matters. See
    /// [`Limiter::is_estimate_doubtful`].
    ///
    /// It estimates the request as this layer does. Pass it to `CountTokensLayer::with_condition`.
    pub fn is_estimate_doubtful(
        &self,
    ) -> impl Fn(&Request<RequestBody>) -> bool + Clone + Send + Sync + use<K, L, E, C> {
        let settings = self.settings.clone();
        move |request| settings.is_estimate_doubtful(request)
    }
}

impl<L: Clone, E: Clone, C> LimitLayer<HeaderBudgetKind, L, E, C> {
    /// Warns when this share of a limit is used, in percent from 1 to 100. The default is 80.
    /// Values out of range are clamped.
    pub fn with_warn_percent(self, percent: u8) -> Self {
        self.map(|settings| settings.reporter.warn_percent = percent.clamp(1, 100))
    }
}

impl<S: Clone, K, L, E, C: Clone> Layer<S> for LimitLayer<K, L, E, C> {
    type Service = Driver<S, (), LimitPolicy<L, E>, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let classifier = self.classifier.clone();
        DriverLayer::with_reuse((), self.policy(), classifier, self.reuses_class)
            .with_body_limit(self.body_limit)
            .layer(inner)
    }
}

impl<K, L: fmt::Debug, E, C> fmt::Debug for LimitLayer<K, L, E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitLayer")
            .field("name", &self.settings.reporter.layer())
            .field("limiter", &self.settings.limiter)
            .field("max_wait", &self.settings.max_wait)
            .finish_non_exhaustive()
    }
}
