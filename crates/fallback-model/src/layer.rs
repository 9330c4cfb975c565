//! The layer: configuration and shared state.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use tower_claude_core::{
    ClaudeClassify, RequestBody,
    breaker::BreakerConfig,
    driver::{Driven, DriverLayer},
    event::{EventSink, Observer},
};
use tower_claude_wire::ModelCatalog;
use tower_layer::Layer;

use crate::{
    FallbackHandle, FallbackModel, RewriteOptions, chains::Chains, handle::Shared, policy::Triggers,
};

/// Sends a request to another model when the one asked for cannot serve. See the [crate documentation](crate).
///
/// What is known of outages lives here and is shared by every clone and every service made from it.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct FallbackModelLayer<C = ClaudeClassify> {
    config: Arc<Config>,
    classifier: C,
}

/// What every call needs to know, behind one `Arc`.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) chains: Chains,
    pub(crate) triggers: Triggers,
    pub(crate) breaker: BreakerConfig,
    pub(crate) rewrite: RewriteOptions,
    pub(crate) catalog: Catalog,
    pub(crate) last_message: Option<Arc<str>>,
    /// Whether to take the `Class` that an inner layer left.
    pub(crate) reuse_class: bool,
    pub(crate) observers: EventSink,
    pub(crate) body_limit: usize,
    pub(crate) shared: Arc<Shared>,
}

/// What is known of models.
#[derive(Clone)]
pub(crate) enum Catalog {
    Builtin,
    Own(Arc<ModelCatalog>),
}

impl Catalog {
    pub(crate) fn get(&self) -> &ModelCatalog {
        match self {
            Self::Builtin => ModelCatalog::builtin(),
            Self::Own(catalog) => catalog,
        }
    }
}

impl FallbackModelLayer {
    /// These models stand in for any other, in this order; a model that is in the list itself is not its own
    /// stand-in. At most 16 count. An empty list leaves only the chains of single models
    /// ([`with_chain`](Self::with_chain)).
    ///
    /// A model is out after three failures within 60 s without an answer between them; a real request probes it every
    /// 30 s, doubling to 300 s. Two that succeed end the outage, and over 30 s the model gets its requests back. A 404
    /// is a failure of the model once another has answered the same request.
    pub fn new<M: AsRef<str>>(chain: impl IntoIterator<Item = M>) -> Self {
        let catalog = Catalog::Builtin;
        let failures = const { NonZeroU32::new(3).expect("not zero") };
        Self {
            config: Arc::new(Config {
                chains: Chains::new(chain, catalog.get()),
                triggers: Triggers::default(),
                breaker: BreakerConfig::new().with_failures(failures, Duration::from_secs(60)),
                rewrite: RewriteOptions::new(),
                catalog,
                last_message: None,
                reuse_class: true,
                observers: EventSink::default(),
                body_limit: RequestBody::DEFAULT_LIMIT,
                shared: Arc::default(),
            }),
            classifier: ClaudeClassify::default(),
        }
    }
}

impl<C> FallbackModelLayer<C> {
    /// This layer as a stage of a driver.
    #[doc(hidden)]
    #[must_use]
    pub fn stage(&self) -> crate::FallbackPolicy {
        crate::stage::FallbackPolicy(self.config.clone())
    }

    /// For requests that ask for `model`, these stand in and no others; none at all when the list is empty. Names of
    /// one model (dated, aliased, dressed for a cloud) are one.
    pub fn with_chain<M: AsRef<str>>(
        self,
        model: &str,
        chain: impl IntoIterator<Item = M>,
    ) -> Self {
        self.with(|config| {
            let Config {
                chains, catalog, ..
            } = config;
            chains.insert(model, chain, catalog.get());
        })
    }

    /// For requests that ask for `model`, nobody stands in.
    pub fn without_fallback(self, model: &str) -> Self {
        self.with_chain(model, [""; 0])
    }

    /// Whether another model is asked when one declines (status 200 with `stop_reason: "refusal"`). Off by default. Only
    /// where nothing has reached the caller: a JSON answer of up to 64 KiB, a stream without content.
    pub fn with_refusals(self, fall_back: bool) -> Self {
        self.with(|config| config.triggers.refusals = fall_back)
    }

    /// Whether another model is asked after a spend limit, and the one that met it is left alone like one that is down.
    /// Off by default: as far as the API documents them, spend limits are the same for all models of a credential. With a
    /// circuit breaker inside, switch its credential circuits off too, or one model's limit shuts all models.
    pub fn with_spend_limits(self, fall_back: bool) -> Self {
        self.with(|config| config.triggers.spend_limits = fall_back)
    }

    /// When a model counts as out, how often it is probed and when it is back. One circuit is kept per model, and one per
    /// credential and rate group for 429s.
    pub fn with_breaker(self, breaker: BreakerConfig) -> Self {
        self.with(|config| config.breaker = breaker)
    }

    /// How far a request may be changed for another model.
    pub fn with_rewrite(self, options: RewriteOptions) -> Self {
        self.with(|config| config.rewrite = options)
    }

    /// What is known of models: which share a rate group, what each takes. The built-in catalogue by default.
    pub fn with_catalog(self, catalog: ModelCatalog) -> Self {
        self.with(|config| {
            config.chains.resolve(&catalog);
            config.catalog = Catalog::Own(Arc::new(catalog));
        })
    }

    /// The message of the error that goes up when every model failed to serve, in words for end users. `{eta}` in it
    /// becomes "in about 2 minutes", or whatever the shortest known wait is. Off by default.
    ///
    /// Status, type and shape of the error stay. Errors that say what is wrong with a request (4xx but 429) keep their
    /// message. An error of the client itself, which is no response, is not replaced.
    pub fn with_last_message(self, message: impl Into<String>) -> Self {
        self.with(|config| config.last_message = Some(message.into().into()))
    }

    /// Where events go, beside `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|config| config.observers = EventSink::new(observer))
    }

    /// Buffers request bodies up to this many bytes (default: 32 MiB); longer ones pass through and stay with the model
    /// they ask for. In a stack the outermost layer's limit is the one that counts.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.body_limit = bytes)
    }

    /// Another reading of responses and errors. It is asked even where an inner layer has left its own reading; only a
    /// local refusal stays one.
    pub fn with_classifier<C2>(self, classifier: C2) -> FallbackModelLayer<C2> {
        let Self { config, .. } = self.with(|config| config.reuse_class = false);
        FallbackModelLayer { config, classifier }
    }

    /// A view of what the layer does.
    #[must_use]
    pub fn handle(&self) -> FallbackHandle {
        let stand_ins = self.config.chains.stand_ins();
        FallbackHandle::new(stand_ins, self.config.shared.clone())
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S: Clone, C: Clone> Layer<S> for FallbackModelLayer<C> {
    type Service = Driven<S, crate::FallbackPolicy, (), C>;

    fn layer(&self, inner: S) -> Self::Service {
        let (policy, classifier) = (self.stage(), self.classifier.clone());
        DriverLayer::with_reuse(policy, (), classifier, self.config.reuse_class)
            .with_body_limit(self.config.body_limit)
            .layer(inner)
    }
}

impl<C> fmt::Debug for FallbackModelLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackModelLayer")
            .field("stand_ins", &self.config.chains.stand_ins())
            .finish_non_exhaustive()
    }
}
