//! The call and the scope of a request.
//!
//! Request bodies contain the record of their call, and the record contains the reservations in
//! scopes. The functions that read all of them from a request are therefore in a module of their
//! own.

use std::sync::{Arc, LazyLock};

use http::Request;
use tokio::time::Instant;
use tower_claude_wire::{Model, ModelCatalog, Peek};

use crate::{
    call::Call,
    credential::credential,
    request_body::RequestBody,
    scope::{Endpoint, Scope, ScopeRef},
};

static NO_GROUP: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
impl Call {
    /// Returns the record of the call that this request belongs to.
    #[must_use]
    pub fn of(request: &Request<RequestBody>) -> Option<&Arc<Self>> {
        match request.body().call() {
            Some(call) => Some(call),
            None => request.extensions().get(),
        }
    }

    /// Attaches the record to a request, so that inner layers find it.
    pub fn attach(self: &Arc<Self>, request: &mut Request<RequestBody>) {
        request.body_mut().set_call(self.clone());
    }

    /// Returns the record of a request. Creates and attaches it if the request has none.
    pub fn get_or_attach(request: &mut Request<RequestBody>, now: Instant) -> Arc<Self> {
        if let Some(call) = Self::of(request) {
            return call.clone();
        }
        let call = Arc::new(Self::new(request.extensions(), now));
        call.attach(request);
        call
    }

    /// Copies the record into the extensions of a request whose body is about to be converted.
    pub fn leave_in_extensions(request: &mut Request<RequestBody>) {
        if let Some(call) = request.body().call().cloned() {
            request.extensions_mut().insert(call);
        }
    }
}

impl<'a> ScopeRef<'a> {
    /// Returns the same as [`Scope::of_call`], or `None` if the model is not in the catalog.
    #[must_use]
    pub fn of_call(request: &'a Request<RequestBody>, call: &Call) -> Option<Self> {
        let endpoint = Endpoint::of(request.uri().path());
        let messages = endpoint == Endpoint::Messages;
        let group = if messages {
            &*request.body().listed_model()?.rate_group
        } else {
            ""
        };
        Some(Self {
            credential: call.credential_of(request.headers()),
            endpoint,
            group,
            fast: messages && request.body().peek().is_some_and(Peek::fast),
        })
    }

    /// Returns the same as [`Scope::of_model`], or `None` if the model is not in the catalog.
    #[must_use]
    pub fn of_model(request: &'a Request<RequestBody>) -> Option<Self> {
        Some(Self {
            credential: 0,
            endpoint: Endpoint::of(request.uri().path()),
            group: &request.body().listed_model()?.id,
            fast: false,
        })
    }
}

impl Scope {
    /// Returns the scope of a request, by the built-in model catalog.
    #[must_use]
    pub fn of(request: &Request<RequestBody>) -> Self {
        let listed = request.body().listed_model();
        let credential = || credential(request.headers());
        Self::with_model(request, ModelCatalog::builtin(), listed, credential)
    }

    /// Returns the scope of a request of this call, which hashes the credential only once.
    #[must_use]
    pub fn of_call(request: &Request<RequestBody>, call: &Call) -> Self {
        let listed = request.body().listed_model();
        let credential = || call.credential_of(request.headers());
        Self::with_model(request, ModelCatalog::builtin(), listed, credential)
    }

    /// Returns the scope of a request, by this model catalog.
    #[must_use]
    pub fn with_catalog(request: &Request<RequestBody>, catalog: &ModelCatalog) -> Self {
        let model = request.body().model();
        let listed = model.and_then(|model| catalog.get(model));
        let credential = || credential(request.headers());
        Self::with_model(request, catalog, listed, credential)
    }

    /// Returns the scope of the endpoint family and the model, for any credential.
    ///
    /// Circuits have such a scope. The group is the canonical id of the model. For a model that is
    /// not in the built-in catalog it is the name in the request.
    #[must_use]
    pub fn of_model(request: &Request<RequestBody>) -> Self {
        let endpoint = Endpoint::of(request.uri().path());
        let body = request.body();
        let group = match body.listed_model() {
            Some(model) => model.id.clone(),
            None => body.model().map_or_else(|| NO_GROUP.clone(), Arc::from),
        };
        Self {
            credential: 0,
            endpoint,
            group,
            fast: false,
        }
    }

    /// Returns the scope of a request for a model with this entry in the catalog.
    fn with_model(
        request: &Request<RequestBody>,
        catalog: &ModelCatalog,
        listed: Option<&Model>,
        credential: impl FnOnce() -> u64,
    ) -> Self {
        let endpoint = Endpoint::of(request.uri().path());
        let body = request.body();
        let messages = endpoint == Endpoint::Messages;
        let group = match listed {
            _ if !messages => NO_GROUP.clone(),
            Some(model) => model.rate_group.clone(),
            None => body.model().map_or_else(
                || NO_GROUP.clone(),
                |model| catalog.lookup(model).rate_group,
            ),
        };
        Self {
            credential: credential(),
            endpoint,
            group,
            fast: messages && body.peek().is_some_and(Peek::fast),
        }
    }
}
