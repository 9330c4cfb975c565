//! The layer: its configuration and its shared state.

use std::{fmt, sync::Arc, time::Duration};

use http::Request;
use tower_claude_core::{
    ClaudeClassify, RequestBody,
    driver::{Driver, DriverLayer},
    event::{EventSink, Observer},
};
use tower_claude_wire::{
    Money,
    cloud::{Target, Unportable},
};
use tower_layer::Layer;

use crate::{
    handle::SpreadHandle,
    options::{SpreadOptions, SpreadTarget},
    policy::SpreadPolicy,
    request::Residency,
    shared::{Config, Shared},
};

/// The service that a [`SpreadLayer`] makes.
pub type Spread<S, C = ClaudeClassify> = Driver<S, (), SpreadPolicy, C>;

/// A layer that chooses a target for each attempt. See the [crate documentation](crate).
///
/// All that is learned about the targets lives in the layer. Its clones and services share it. A
/// setter begins anew, so configure the layer before the first request, and before
/// [`handle`](Self::handle).
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct SpreadLayer<C = ClaudeClassify> {
    shared: Arc<Shared>,
    classifier: C,
}

impl SpreadLayer {
    /// Creates a layer with these targets. Of targets with the same name, the first counts. Without
    /// a target, all requests are rejected.
    pub fn new<T: Into<SpreadTarget>>(targets: impl IntoIterator<Item = T>) -> Self {
        Self {
            shared: Shared::new(Config {
                targets: targets.into_iter().map(Into::into).collect(),
                options: SpreadOptions::default(),
                residency: None,
                check: None,
                events: EventSink::default(),
                body_limit: None,
                is_own_classifier: false,
            }),
            classifier: ClaudeClassify::default(),
        }
    }
}

impl<C> SpreadLayer<C> {
    /// Sets the price of a second of waiting, which is weighed against prices and cache reads.
    /// $0.002 by default. With zero, waiting does not count.
    pub fn with_second_price(self, price: Money) -> Self {
        self.with(|config| config.options.second_price = price)
    }

    /// Sets the longest time for which a request waits if all targets are paused by 429s. 60 s by
    /// default. A request that would wait longer, or past its deadline, is rejected if the server
    /// has asked for the pause, and else sent. Zero never waits.
    pub fn with_max_wait(self, max_wait: Duration) -> Self {
        self.with(|config| config.options.max_wait = max_wait)
    }

    /// Allows only targets in these areas, or with these names, as [`Residency`] describes. All
    /// targets of the layer are allowed by default.
    pub fn with_residency<T: AsRef<str>>(self, entries: impl IntoIterator<Item = T>) -> Self {
        self.with(|config| config.residency = Some(Residency::new(entries)))
    }

    /// Allows that a conversation whose thinking is bound to one account goes to another one. The
    /// API then drops that thinking without an error. Not allowed by default.
    pub fn with_lost_thinking(self) -> Self {
        self.with(|config| config.options.may_lose_thinking = true)
    }

    /// Sets the function that finds out, before the choice, if a target cannot serve a request. It
    /// is called once for each call and target. Without it, a target is left out after an inner
    /// layer has rejected the request for it.
    pub fn with_check<F>(self, check: F) -> Self
    where
        F: Fn(&Request<RequestBody>, &Target) -> Result<(), Unportable> + Send + Sync + 'static,
    {
        self.with(|config| config.check = Some(Arc::new(check)))
    }

    /// Sets an observer that receives the events beside `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|config| config.events = EventSink::new(observer))
    }

    /// Sets the most bytes of a request body that are buffered. 32 MiB by default. A longer body
    /// passes to a target that speaks the Messages API, and is not read. In a stack the limit of
    /// the outermost layer applies.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.body_limit = Some(bytes))
    }

    /// Sets the classifier of responses and errors. It overrules the class that an inner layer
    /// left, except for a local rejection.
    pub fn with_classifier<C2>(self, classifier: C2) -> SpreadLayer<C2> {
        let Self { shared, .. } = self.with(|config| config.is_own_classifier = true);
        SpreadLayer { shared, classifier }
    }

    /// Returns this layer as a policy, for a driver with several policies.
    #[must_use]
    pub fn policy(&self) -> SpreadPolicy {
        SpreadPolicy::new(self.shared.clone())
    }

    /// Returns a handle to read the state of the targets.
    #[must_use]
    pub fn handle(&self) -> SpreadHandle {
        SpreadHandle::new(self.shared.clone())
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.shared.config.clone();
        change(&mut config);
        self.shared = Shared::new(config);
        self
    }
}

impl<S: Clone, C: Clone> Layer<S> for SpreadLayer<C> {
    type Service = Spread<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let config = &self.shared.config;
        let (policy, classifier) = (self.policy(), self.classifier.clone());
        let limit = config.body_limit.unwrap_or(RequestBody::DEFAULT_LIMIT);
        DriverLayer::with_reuse((), policy, classifier, !config.is_own_classifier)
            .with_body_limit(limit)
            .layer(inner)
    }
}

impl<C> fmt::Debug for SpreadLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpreadLayer")
            .field("targets", &self.shared.targets)
            .field("options", &self.shared.config.options)
            .finish_non_exhaustive()
    }
}
