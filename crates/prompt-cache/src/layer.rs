//! The layer: its configuration and its shared state.

use std::{fmt, sync::Arc, time::Duration};

use tower_claude_core::{
    ClaudeClassify, RequestBody,
    driver::{Driver, DriverLayer},
    event::{EventSink, Observer},
};
use tower_claude_wire::Money;
use tower_layer::Layer;

use crate::{
    handle::PromptCacheHandle,
    keep_alive::{DriverLink, KeepAliveDriver},
    options::Existing,
    policy::PromptCachePolicy,
    rules::CacheRules,
    shared::{Config, Shared},
};

/// The service that a [`PromptCacheLayer`] makes.
pub type PromptCache<S, C = ClaudeClassify> = Driver<S, (), PromptCachePolicy, C>;

/// A layer that marks prompts for the prompt cache where it pays. See the
/// [crate documentation](crate).
///
/// The default is the recommendation: bodies with breakpoints of the caller stay as they are, and a
/// request waits at most 3 s for another one that writes the same prefix.
///
/// The history lives in the layer. All its clones and services share it. A setter begins a new one,
/// so configure the layer before the first request, and before [`handle`](Self::handle).
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct PromptCacheLayer<C = ClaudeClassify> {
    shared: Arc<Shared>,
    classifier: C,
    /// The driver, if prefixes are kept alive.
    driver: Option<Arc<DriverLink>>,
}

impl PromptCacheLayer {
    /// Creates the recommended layer.
    pub fn new() -> Self {
        Self {
            shared: Shared::new(Config::default()),
            classifier: ClaudeClassify::default(),
            driver: None,
        }
    }
}

impl Default for PromptCacheLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> PromptCacheLayer<C> {
    /// Sets the treatment of bodies that carry breakpoints. [`Existing::Leave`] by default.
    pub fn with_existing(self, existing: Existing) -> Self {
        self.with(|config| config.options.existing = existing)
    }

    /// Sets the longest time for which a request waits for another one that writes the same prefix.
    /// 3 s by default, and an hour at most. Zero switches the gate off. A request with a deadline
    /// waits for half of the time that it has left at most.
    pub fn with_max_hold(self, max_hold: Duration) -> Self {
        self.with(|config| config.options.max_hold = max_hold)
    }

    /// Sets the price of a second of waiting, for all requests together. A request waits only if
    /// the second write of its prompt would cost more than the expected wait. $0.001 by default.
    pub fn with_second_price(self, price: Money) -> Self {
        self.with(|config| config.options.second_price = price)
    }

    /// Sets the rules for requests that name this model, for example for a name of your gateway.
    /// By default, the rules are those of the catalog, and requests for a model that it does not
    /// list pass untouched.
    pub fn with_rules(self, model: &str, rules: CacheRules) -> Self {
        self.with(|config| {
            config.rules.insert(model.into(), rules);
        })
    }

    /// Switches renewals on, which keep a cached prefix alive in a pause while that pays, and
    /// returns the driver that sends them. Off by default. Spawn [`KeepAliveDriver::run`]. A setter
    /// after it connects the driver to the layer that the setter returns.
    ///
    /// The bodies of at most 256 requests are kept in memory, with their credentials, for an hour
    /// at most, and no longer than the driver exists.
    pub fn with_keep_alive(self) -> (Self, KeepAliveDriver) {
        let link = Arc::<DriverLink>::default();
        let mut layer = self;
        layer.driver = Some(link.clone());
        let layer = layer.with(|config| {
            config.options.keeps_alive = true;
            config.renewals = Some(link.notify());
        });
        (layer, KeepAliveDriver::new(link))
    }

    /// Sets an observer that receives the events beside `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|config| config.events = EventSink::new(observer))
    }

    /// Sets the most bytes of a request body that are buffered. 32 MiB by default. A longer body
    /// passes through without markers. In a stack the limit of the outermost layer applies.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.body_limit = Some(bytes))
    }

    /// Sets the classifier of responses and errors. It overrules the class that an inner layer
    /// left, except for a local rejection.
    pub fn with_classifier<C2>(self, classifier: C2) -> PromptCacheLayer<C2> {
        let Self { shared, driver, .. } = self.with(|config| config.is_own_classifier = true);
        PromptCacheLayer {
            shared,
            classifier,
            driver,
        }
    }

    /// Returns this layer as a policy, for a driver with several policies.
    #[must_use]
    pub fn policy(&self) -> PromptCachePolicy {
        PromptCachePolicy::new(self.shared.clone())
    }

    /// Returns a handle to read the savings.
    #[must_use]
    pub fn handle(&self) -> PromptCacheHandle {
        PromptCacheHandle::new(self.shared.clone())
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.shared.config.clone();
        change(&mut config);
        self.shared = Shared::new(config);
        if let Some(driver) = &self.driver {
            driver.connect(&self.shared);
        }
        self
    }
}

impl<S: Clone, C: Clone> Layer<S> for PromptCacheLayer<C> {
    type Service = PromptCache<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let config = &self.shared.config;
        let (policy, classifier) = (self.policy(), self.classifier.clone());
        let limit = config.body_limit.unwrap_or(RequestBody::DEFAULT_LIMIT);
        DriverLayer::with_reuse((), policy, classifier, !config.is_own_classifier)
            .with_body_limit(limit)
            .layer(inner)
    }
}

impl<C> fmt::Debug for PromptCacheLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptCacheLayer")
            .field("options", &self.shared.config.options)
            .finish_non_exhaustive()
    }
}
