//! The layer: configuration and shared state.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use http::{HeaderMap, Request};
use tower_claude_core::{
    ClaudeClassify, RequestBody, Scope,
    breaker::BreakerConfig,
    driver::{Driven, DriverLayer},
    event::{EventSink, Observer},
};
use tower_layer::Layer;

use crate::{CircuitBreaker, CircuitBreakerHandle, circuits::Circuits};

/// Shorter than the automaton's own: a probe more costs little, and after an outage nobody waits for minutes.
const COOL_DOWN: Duration = Duration::from_secs(10);
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(20);
const RAMP: Duration = Duration::from_secs(20);

type ScopeOf = dyn Fn(&Request<RequestBody>) -> Scope + Send + Sync;
type CredentialOf = dyn Fn(&HeaderMap) -> u64 + Send + Sync;

/// Stops calling what fails. See the [crate documentation](crate).
///
/// The default is the recommendation: one circuit per endpoint and model, which opens after five failures in a row within
/// a minute, for 10 s to 20 s; and one per credential, which a 401 or a spend limit opens at once.
///
/// The circuits live here and are shared by every clone and every service made from it.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CircuitBreakerLayer<C = ClaudeClassify> {
    config: Arc<Config>,
    classifier: C,
}

/// What every call needs to know, behind one `Arc`.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) breaker: BreakerConfig,
    pub(crate) credentials: BreakerConfig,
    pub(crate) scope_of: Option<Arc<ScopeOf>>,
    pub(crate) credential_of: Option<Arc<CredentialOf>>,
    pub(crate) most_circuits: NonZeroUsize,
    /// Whether to take the `Class` that an inner layer left.
    pub(crate) reuse_class: bool,
    pub(crate) observers: EventSink,
    pub(crate) body_limit: usize,
    pub(crate) circuits: Arc<Circuits>,
}

impl CircuitBreakerLayer {
    /// The recommended layer.
    pub fn new() -> Self {
        let one = std::num::NonZeroU32::MIN;
        Self {
            config: Arc::new(Config {
                breaker: BreakerConfig::new()
                    .with_cool_down(COOL_DOWN, LONGEST_COOL_DOWN)
                    .with_ramp(Some(RAMP)),
                credentials: BreakerConfig::new().with_probes(one, one).with_ramp(None),
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
    /// This layer as a stage of a driver.
    #[doc(hidden)]
    #[must_use]
    pub fn stage(&self) -> crate::BreakerPolicy {
        crate::stage::BreakerPolicy(self.config.clone())
    }

    /// When the circuits of endpoints and models open, and how they close. To be set before the first call: a circuit
    /// keeps the settings it was made with.
    pub fn with_config(self, breaker: BreakerConfig) -> Self {
        self.with(|config| config.breaker = breaker)
    }

    /// The same for the circuits of credentials, which open on a single 401 or spend limit. By default one successful probe
    /// closes them, without a ramp.
    pub fn with_credential_config(self, breaker: BreakerConfig) -> Self {
        self.with(|config| config.credentials = breaker)
    }

    /// Which circuit a request belongs to. By default [`Scope::of_model`]: its endpoint and its model.
    pub fn with_scope(
        self,
        scope_of: impl Fn(&Request<RequestBody>) -> Scope + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.scope_of = Some(Arc::new(scope_of)))
    }

    /// Which credential a request is sent with, as a number that never is the secret itself; 0 for none, and such a request
    /// has no credential circuit. By default [`Scope::credential_of`].
    pub fn with_credential(
        self,
        credential_of: impl Fn(&HeaderMap) -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.credential_of = Some(Arc::new(credential_of)))
    }

    /// How many circuits are kept: 1,024 by default. Beyond it those that hold nothing worth remembering are forgotten;
    /// where there are none, calls of further scopes pass unwatched.
    pub fn with_most_circuits(self, most: NonZeroUsize) -> Self {
        self.with(|config| config.most_circuits = most)
    }

    /// Where events go, beside `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|config| config.observers = EventSink::new(observer))
    }

    /// Buffers request bodies up to this many bytes (default: 32 MiB); longer ones pass through, and the model they name is
    /// not seen. In a stack the outermost layer's limit is the one that counts.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.body_limit = bytes)
    }

    /// Another reading of responses and errors. It is asked even where an inner layer has left its
    /// own reading; only a local refusal stays one.
    pub fn with_classifier<C2>(self, classifier: C2) -> CircuitBreakerLayer<C2> {
        let Self { config, .. } = self.with(|config| config.reuse_class = false);
        CircuitBreakerLayer { config, classifier }
    }

    /// A view of the circuits, and the hand that opens and closes them.
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
    type Service = Driven<S, (), crate::BreakerPolicy, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let (policy, classifier) = (self.stage(), self.classifier.clone());
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
