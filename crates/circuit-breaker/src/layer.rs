//! The layer: its configuration and its shared state.

use std::{fmt, num::NonZeroUsize, sync::Arc};

use http::{HeaderMap, Request};
use tower_claude_core::{
    ClaudeClassify, RequestBody, Scope,
    driver::{Driver, DriverLayer},
    event::{EventSink, Observer},
};
use tower_layer::Layer;

use crate::{
    config::Config, handle::CircuitBreakerHandle, policy::BreakerPolicy,
    state_machine::BreakerConfig,
};

/// The service that a [`CircuitBreakerLayer`] makes.
pub type CircuitBreaker<S, C = ClaudeClassify> = Driver<S, (), BreakerPolicy, C>;

/// A layer that stops calls to what fails. See the [crate documentation](crate).
///
/// The default is the recommendation. There is a circuit for each host, endpoint and model, which
/// opens after five failures in a row within a minute, for 10 s to 20 s. There is a circuit for
/// each credential at each host, which a spend limit or a 401 opens at once, and the second 401 in
/// a row if the credential has worked.
///
/// The circuits live in the layer. All its clones and services share them.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CircuitBreakerLayer<C = ClaudeClassify> {
    config: Arc<Config>,
    classifier: C,
}

impl CircuitBreakerLayer {
    /// Creates the recommended layer.
    pub fn new() -> Self {
        Self {
            config: Arc::new(Config {
                breaker: BreakerConfig::new(),
                credentials: BreakerConfig::for_credentials(),
                scope_of: None,
                credential_of: None,
                most_circuits: const { NonZeroUsize::new(1024).expect("not zero") },
                reuse_class: true,
                observers: EventSink::default(),
                body_limit: RequestBody::DEFAULT_LIMIT,
                circuits: Arc::default(),
            }),
            classifier: ClaudeClassify::default(),
        }
    }
}

impl Default for CircuitBreakerLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> CircuitBreakerLayer<C> {
    /// Sets when the circuits of endpoints and models open, and how they close.
    /// [`BreakerConfig::new`] by default. A circuit keeps the settings with which it was created,
    /// so call this before the first request.
    pub fn with_config(self, breaker: BreakerConfig) -> Self {
        self.with(|config| config.breaker = breaker)
    }

    /// Sets the same for the circuits of credentials, which open at a single spend limit, and at
    /// the first or second 401. [`BreakerConfig::for_credentials`] by default.
    pub fn with_credential_config(self, breaker: BreakerConfig) -> Self {
        self.with(|config| config.credentials = breaker)
    }

    /// Sets the function that maps a request to its circuit. By default [`Scope::of_model`], which
    /// is its host, its endpoint and its model.
    pub fn with_scope(
        self,
        scope_of: impl Fn(&Request<RequestBody>) -> Scope + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.scope_of = Some(Arc::new(scope_of)))
    }

    /// Sets the function that maps the headers of a request to a number for its credential. The
    /// number must not reveal the secret. A request with 0 has no credential circuit. The number is
    /// combined with the host, so that a 401 of a host binds no other. By default
    /// [`Scope::credential_of`], which a [`CredentialId`] in the extensions replaces for all
    /// layers.
    ///
    /// [`CredentialId`]: tower_claude_core::CredentialId
    pub fn with_credential(
        self,
        credential_of: impl Fn(&HeaderMap) -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.credential_of = Some(Arc::new(credential_of)))
    }

    /// Sets the most circuits that are kept. 1,024 by default. At the limit, idle circuits are
    /// evicted. If none is idle, calls of further scopes pass unobserved.
    pub fn with_most_circuits(self, most: NonZeroUsize) -> Self {
        self.with(|config| config.most_circuits = most)
    }

    /// Sets an observer that receives the events beside `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|config| config.observers = EventSink::new(observer))
    }

    /// Sets the most bytes of a request body that are buffered. 32 MiB by default. A longer body
    /// passes through, and its model is not known. In a stack the limit of the outermost layer
    /// applies.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.body_limit = bytes)
    }

    /// Sets the classifier of responses and errors. It overrules the class that an inner layer
    /// left, except for a local rejection.
    pub fn with_classifier<C2>(self, classifier: C2) -> CircuitBreakerLayer<C2> {
        let Self { config, .. } = self.with(|config| config.reuse_class = false);
        CircuitBreakerLayer { config, classifier }
    }

    /// Returns this layer as a policy, for a driver with several policies.
    #[must_use]
    pub fn policy(&self) -> BreakerPolicy {
        BreakerPolicy::new(self.config.clone())
    }

    /// Returns a handle to inspect the circuits, and to force them open or closed.
    #[must_use]
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(self.config.clone())
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S: Clone, C: Clone> Layer<S> for CircuitBreakerLayer<C> {
    type Service = CircuitBreaker<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let (policy, classifier) = (self.policy(), self.classifier.clone());
        DriverLayer::with_reuse((), policy, classifier, self.config.reuse_class)
            .with_body_limit(self.config.body_limit)
            .layer(inner)
    }
}

impl<C> fmt::Debug for CircuitBreakerLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerLayer")
            .field("breaker", &self.config.breaker)
            .field("credentials", &self.config.credentials)
            .finish_non_exhaustive()
    }
}
