//! The layer and its settings.

use std::{fmt, sync::Arc};

use http::Request;
use tower_claude_core::{
    RequestBody,
    event::{EventSink, Observer},
    toolkit::{BufferRequest, requests_stream},
};
use tower_claude_wire::cloud::{Target, Unportable};
use tower_layer::Layer;

use crate::{
    attempt::undecodable,
    authorize::Authorize,
    config::{Config, ConfiguredTarget},
    service::CloudService,
    translate::Translator,
};

/// A layer that sends each request to its target. See the [crate documentation](crate).
///
/// Every clone of the layer and every service made from it share the targets and their credentials.
#[derive(Clone, Default)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CloudLayer {
    config: Arc<Config>,
}

impl CloudLayer {
    /// Creates a layer without targets. Requests pass through unchanged.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a target for requests that carry it in their extensions.
    ///
    /// Only the host of this target gets the credential. A target with the same name is replaced.
    pub fn with_target(self, target: Target, authorize: impl Authorize + 'static) -> Self {
        self.add(target, Some(Arc::new(authorize)))
    }

    /// Adds a target that needs no credential of this layer: a proxy that adds its own, or a test
    /// server. A target on the Claude API gets the credential of the caller, a cloud gets none.
    pub fn with_open_target(self, target: Target) -> Self {
        self.add(target, None)
    }

    /// Sets the target of requests without one in their extensions, and adds it. Default: none, so
    /// that such requests pass through unchanged.
    pub fn with_default_target(self, target: Target, authorize: impl Authorize + 'static) -> Self {
        let authorize: Arc<dyn Authorize> = Arc::new(authorize);
        self.add(target, Some(authorize)).use_last_as_default()
    }

    /// Sets the target of requests without one, as
    /// [`with_default_target`](Self::with_default_target) does, but without a credential of this
    /// layer.
    pub fn with_open_default_target(self, target: Target) -> Self {
        self.add(target, None).use_last_as_default()
    }

    /// Sets the translator. The default is [`Translator::new`].
    pub fn with_translator(self, translator: Translator) -> Self {
        self.edit(|config| config.translator = translator)
    }

    /// Sets the observer that gets the events. Default: none. They go to `tracing` in any case.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.edit(|config| config.observers = EventSink::new(observer))
    }

    /// Checks that this layer and a target can serve a request. Suits the `with_check` of the
    /// spread layer, which then chooses among the targets that can.
    ///
    /// # Errors
    /// Names the field or the header that the target cannot serve, or `target` if it is not set up
    /// in this layer.
    pub fn check(&self, request: &Request<RequestBody>, target: &Target) -> Result<(), Unportable> {
        self.config.check(target)?;
        if let Some(reason) = undecodable(target, requests_stream(request)) {
            return Err(reason);
        }
        self.config.translator.check(request, target)
    }

    fn add(self, target: Target, authorize: Option<Arc<dyn Authorize>>) -> Self {
        self.edit(|config| config.add(ConfiguredTarget { target, authorize }))
    }

    fn use_last_as_default(self) -> Self {
        self.edit(|config| config.default = config.targets.last().cloned())
    }

    fn edit(mut self, edit: impl FnOnce(&mut Config)) -> Self {
        edit(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S> Layer<S> for CloudLayer {
    type Service = BufferRequest<CloudService<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        BufferRequest::new(CloudService::new(inner, self.config.clone()))
    }
}

impl fmt::Debug for CloudLayer {
    /// Shows the names of the targets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<_> = self
            .config
            .targets
            .iter()
            .map(|configured| configured.target.name())
            .collect();
        let default = self
            .config
            .default
            .as_ref()
            .map(|configured| configured.target.name());
        f.debug_struct("CloudLayer")
            .field("targets", &targets)
            .field("default", &default)
            .finish_non_exhaustive()
    }
}
