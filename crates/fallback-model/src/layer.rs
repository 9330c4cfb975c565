//! The layer and its settings.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use tower_claude_core::{
    ClaudeClassify, RequestBody,
    driver::{Driver, DriverLayer},
    event::{EventSink, Observer},
};
use tower_claude_wire::ModelCatalog;
use tower_layer::Layer;

use crate::{
    chains::ChainTable, config::Config, cooldown::CoolDown, handle::FallbackHandle,
    policy::FallbackPolicy, rewrite::RewriteOptions, selection::Triggers,
};

/// A layer that sends a request to another model when the model asked for cannot serve it. See the
/// [crate documentation](crate).
///
/// The layer holds the state of outages. Its clones and all services made from it share that state.
#[derive(Clone)]
#[must_use = "layers do nothing until they wrap a service"]
pub struct FallbackModelLayer<C = ClaudeClassify> {
    config: Arc<Config>,
    classifier: C,
}

/// The service that a [`FallbackModelLayer`] makes.
pub type FallbackModel<S, C = ClaudeClassify> = Driver<S, FallbackPolicy, (), C>;

impl FallbackModelLayer {
    /// Creates a layer in which these models stand in for any other model, in this order.
    ///
    /// White space around a name is removed, and an empty name, as of an unset variable, is
    /// skipped. A skipped name, a name that the catalog does not list, and a retired model are each
    /// reported once, as a `DoubtfulModel` event.
    ///
    /// A model in the list is not its own stand-in. At most 16 models count. With an empty list,
    /// only the chains of single models apply ([`with_chain`](Self::with_chain)).
    ///
    /// A model is out after three failures within 60 s without a success between them. After a
    /// cool-down of 30 s, one request at a time probes it. A probe that fails doubles the cool-down
    /// up to 300 s, and one that succeeds ends the outage. A 404 counts as a failure of the model
    /// once another model has served the same request.
    pub fn new<M: AsRef<str>>(chain: impl IntoIterator<Item = M>) -> Self {
        Self {
            config: Arc::new(Config {
                chains: ChainTable::new(chain, ModelCatalog::builtin()),
                triggers: Triggers::default(),
                cool_down: CoolDown::default(),
                rewrite: RewriteOptions::new(),
                catalog: None,
                error_message: None,
                reuse_class: true,
                events: EventSink::default(),
                body_limit: RequestBody::DEFAULT_LIMIT,
                shared: Arc::default(),
            }),
            classifier: ClaudeClassify::default(),
        }
    }
}

impl<C> FallbackModelLayer<C> {
    /// Sets the stand-ins of one model, in place of the common list. None, if the list is empty.
    /// All names of a model (dated, aliased, with a cloud prefix) are one.
    pub fn with_chain<M: AsRef<str>>(
        self,
        model: &str,
        chain: impl IntoIterator<Item = M>,
    ) -> Self {
        self.with(|config| {
            let catalog = config.catalog.as_deref();
            let catalog = catalog.unwrap_or(ModelCatalog::builtin());
            config.chains.insert(model, chain, catalog);
        })
    }

    /// Sets that no model stands in for this one.
    pub fn without_fallback(self, model: &str) -> Self {
        self.with_chain(model, [""; 0])
    }

    /// Sets whether a response in which the model declined (status 200 with `stop_reason:
    /// "refusal"`) leads to a fallback. Off by default. Applies only before content has reached the
    /// caller: to a JSON response of up to 64 KiB, and to a stream without content.
    pub fn with_refusals(self, fall_back: bool) -> Self {
        self.with(|config| config.triggers.refusals = fall_back)
    }

    /// Sets whether a spend limit leads to a fallback, and counts as a failure of the model. Off by
    /// default: as far as the API documents them, spend limits are the same for all models of a
    /// credential. If a circuit breaker is inside, switch off its credential circuits as well, or
    /// one model's limit blocks all models.
    pub fn with_spend_limits(self, fall_back: bool) -> Self {
        self.with(|config| config.triggers.spend_limits = fall_back)
    }

    /// Sets whether a prompt that is too long for the model asked for is sent to a stand-in with a
    /// larger context window. Off by default: the caller gets the 400 of the API. Smaller models
    /// are skipped, and the failure does not count against the model.
    pub fn with_larger_windows(self, fall_back: bool) -> Self {
        self.with(|config| config.triggers.long_prompts = fall_back)
    }

    /// Sets the number of failures, without a success between them, after which a model or a rate
    /// group is out, and the time between the first and the last of them. 3 within 60 s by default,
    /// at most 1,000. Failures further apart than `within` never lead to a cool-down. The model
    /// stays while more than a third of the calls since the first failure are pending, for some
    /// time.
    pub fn with_failures(self, failures: NonZeroU32, within: Duration) -> Self {
        self.with(|config| config.cool_down = config.cool_down.with_failures(failures, within))
    }

    /// Sets the first cool-down of a model or rate group that is out, and the longest after failed
    /// probes. 30 s and 300 s by default, at most one day. Each failed probe doubles the cool-down.
    /// Both vary by up to 20 % either way. If the server asks for more with `retry-after`, that
    /// time is used, up to an hour. With zero, the next request probes.
    pub fn with_cool_down(self, first: Duration, longest: Duration) -> Self {
        self.with(|config| config.cool_down = config.cool_down.with_cool_down(first, longest))
    }

    /// Sets how far a request may be changed for another model.
    pub fn with_rewrite(self, options: RewriteOptions) -> Self {
        self.with(|config| config.rewrite = options)
    }

    /// Sets the catalogue of rate groups and capabilities of models. Built in by default.
    pub fn with_catalog(self, catalog: ModelCatalog) -> Self {
        self.with(|config| {
            config.chains.resolve(&catalog);
            config.catalog = Some(Arc::new(catalog));
        })
    }

    /// Sets the message for end users in the error that the caller gets when every model failed to
    /// serve. Off by default. `{eta}` in it becomes, for example, "in about 2 minutes": the
    /// shortest wait that is known.
    ///
    /// Status, type and shape of the error stay. Errors that describe a fault of the request (4xx
    /// other than 429) keep their message. An error of the client itself, which is no response, is
    /// not replaced.
    pub fn with_error_message(self, message: impl Into<String>) -> Self {
        self.with(|config| config.error_message = Some(message.into().into()))
    }

    /// Sets the observer that gets the events, in addition to `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|config| config.events = EventSink::new(observer))
    }

    /// Sets the size in bytes up to which request bodies are buffered. 32 MiB by default. A larger
    /// body passes through to the model asked for. In a stack, the limit of the outermost layer
    /// applies.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.body_limit = bytes)
    }

    /// Sets the classifier of responses and errors. It overrules the class that an inner layer left
    /// in a response, except for a local rejection.
    pub fn with_classifier<C2>(self, classifier: C2) -> FallbackModelLayer<C2> {
        let Self { config, .. } = self.with(|config| config.reuse_class = false);
        FallbackModelLayer { config, classifier }
    }

    /// Returns a handle to inspect the layer.
    #[must_use]
    pub fn handle(&self) -> FallbackHandle {
        let stand_ins = self.config.chains.stand_ins();
        FallbackHandle::new(stand_ins, self.config.shared.clone())
    }

    /// Returns the policy of this layer, for a driver that combines it with others.
    #[must_use]
    pub fn policy(&self) -> FallbackPolicy {
        self.config.report_doubtful_names();
        FallbackPolicy(self.config.clone())
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S: Clone, C: Clone> Layer<S> for FallbackModelLayer<C> {
    type Service = FallbackModel<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let (policy, classifier) = (self.policy(), self.classifier.clone());
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
