//! The call and the scope of a request.
//!
//! Request bodies contain the record of their call, and the record contains the reservations in
//! scopes. The functions that read all of them from a request are therefore in a module of their
//! own.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use http::Request;
use tokio::time::Instant;
use tower_claude_wire::{Model, ModelCatalog, Peek, cloud::Target};

use crate::{
    call::Call,
    credential::credential,
    endpoint::{ApiPath, Endpoint},
    host::host,
    request_body::{MAX_NAME_LENGTH, RequestBody},
    scope::{Scope, ScopeRef},
};

static EMPTY: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

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

/// Returns the model that a request names, in its path or else in its body.
///
/// `None` if the name is longer than 1,024 bytes. See [`RequestBody::model`].
#[must_use]
#[inline]
pub fn requested_model(request: &Request<RequestBody>) -> Option<Cow<'_, str>> {
    model(request.uri().path(), request.body())
}

/// Returns true if a request asks for a stream, by its path or by its body.
#[must_use]
pub fn requests_stream(request: &Request<RequestBody>) -> bool {
    ApiPath::parse(request.uri().path()).streams || request.body().peek().is_some_and(Peek::stream)
}

/// Returns the model that a path or else a body names.
#[inline]
pub(crate) fn model<'a>(path: &'a str, body: &'a RequestBody) -> Option<Cow<'a, str>> {
    let path = ApiPath::parse(path);
    if path.form.is_none() {
        return body.model().map(Cow::Borrowed);
    }
    path.model().filter(|model| model.len() <= MAX_NAME_LENGTH)
}

/// Returns the entry of the requested model in the built-in catalog, if there is one.
#[inline(always)]
pub(crate) fn listed_model(request: &Request<RequestBody>) -> Option<&'static Model> {
    listed_at(ApiPath::parse(request.uri().path()), request)
}

#[inline(always)]
fn listed_at(path: ApiPath<'_>, request: &Request<RequestBody>) -> Option<&'static Model> {
    if path.form.is_none() {
        return request.body().listed_model();
    }
    listed_in_path(path)
}

#[cold]
fn listed_in_path(path: ApiPath<'_>) -> Option<&'static Model> {
    ModelCatalog::builtin().get(&path.model()?)
}

impl<'a> ScopeRef<'a> {
    /// Returns the same as [`Scope::of_call`], or `None` if the model is not in the catalog or the
    /// host cannot be borrowed.
    #[must_use]
    pub fn of_call(request: &'a Request<RequestBody>, call: &Call) -> Option<Self> {
        let path = ApiPath::parse(request.uri().path());
        let messages = path.endpoint == Endpoint::Messages;
        let sender = call.sender_of(request);
        let Cow::Borrowed(host) = sender.host else {
            return None;
        };
        let group = if messages {
            group(request, path, host, listed_at(path, request)?)
        } else {
            ""
        };
        Some(Self {
            credential: sender.credential,
            host,
            endpoint: path.endpoint,
            group,
            fast: messages && request.body().peek().is_some_and(Peek::fast),
        })
    }

    /// Returns the same as [`Scope::of_model`] for a request to this host, or `None` if the model
    /// is not in the catalog.
    #[must_use]
    pub fn of_model(request: &'a Request<RequestBody>, host: &'a str) -> Option<Self> {
        let path = ApiPath::parse(request.uri().path());
        Some(Self {
            credential: 0,
            host,
            endpoint: path.endpoint,
            group: &listed_at(path, request)?.id,
            fast: false,
        })
    }
}

/// Returns the quota that a request for this model draws on, at the target that it is marked for,
/// or else where its URI leads.
#[inline]
fn group<'m>(
    request: &Request<RequestBody>,
    path: ApiPath<'_>,
    host: &str,
    model: &'m Model,
) -> &'m str {
    match request.extensions().get::<Target>() {
        Some(target) => target.quota_group(model),
        None => path.quota_group(host, model),
    }
}

/// Returns the host of a request as [`Scope::host`] has it.
fn shared_host(request: &Request<RequestBody>) -> Arc<str> {
    match &*host(request.uri(), request.headers()) {
        "" => EMPTY.clone(),
        host => Arc::from(host),
    }
}

impl Scope {
    /// Returns the scope of a request, by the built-in model catalog.
    #[must_use]
    pub fn of(request: &Request<RequestBody>) -> Self {
        Self::with_model(
            request,
            ModelCatalog::builtin(),
            listed_model(request),
            credential,
        )
    }

    /// Returns the scope of a request of this call, which hashes the credential only once.
    #[must_use]
    pub fn of_call(request: &Request<RequestBody>, call: &Call) -> Self {
        let credential = |request: &_| call.credential_of(request);
        Self::with_model(
            request,
            ModelCatalog::builtin(),
            listed_model(request),
            credential,
        )
    }

    /// Returns the scope of a request, by this model catalog.
    #[must_use]
    pub fn with_catalog(request: &Request<RequestBody>, catalog: &ModelCatalog) -> Self {
        let model = requested_model(request);
        let listed = model.and_then(|model| catalog.get(&model));
        Self::with_model(request, catalog, listed, credential)
    }

    /// Returns the scope of the host, the endpoint family and the model, for any credential.
    ///
    /// Circuits have such a scope. The group is the canonical id of the model. For a model that is
    /// not in the built-in catalog it is the name in the request.
    #[must_use]
    pub fn of_model(request: &Request<RequestBody>) -> Self {
        let group = match listed_model(request) {
            Some(model) => model.id.clone(),
            None => requested_model(request).map_or_else(|| EMPTY.clone(), Arc::from),
        };
        Self {
            credential: 0,
            host: shared_host(request),
            endpoint: Endpoint::of(request.uri().path()),
            group,
            fast: false,
        }
    }

    /// Returns the scope of a request for a model with this entry in the catalog.
    fn with_model(
        request: &Request<RequestBody>,
        catalog: &ModelCatalog,
        listed: Option<&Model>,
        credential: impl FnOnce(&Request<RequestBody>) -> u64,
    ) -> Self {
        let path = ApiPath::parse(request.uri().path());
        let messages = path.endpoint == Endpoint::Messages;
        let host = shared_host(request);
        let shared = |model: &Model| match group(request, path, &host, model) {
            name if *name == *model.rate_group => model.rate_group.clone(),
            name if *name == *model.id => model.id.clone(),
            name => Arc::from(name),
        };
        let group = match listed {
            _ if !messages => EMPTY.clone(),
            Some(model) => shared(model),
            None => requested_model(request)
                .map_or_else(|| EMPTY.clone(), |model| shared(&catalog.lookup(&model))),
        };
        Self {
            credential: credential(request),
            host,
            endpoint: path.endpoint,
            group,
            fast: messages && request.body().peek().is_some_and(Peek::fast),
        }
    }
}
