//! Which pool of limits a request draws on.

use std::{
    fmt,
    hash::BuildHasher,
    sync::{Arc, LazyLock},
};

use foldhash::{SharedSeed, quality::SeedableRandomState};
use http::{HeaderMap, HeaderName, Request, header::AUTHORIZATION};
use tower_claude_wire::{Model, ModelCatalog, Peek};

use crate::{Call, RequestBody};

/// A family of endpoints with limits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
    /// `/v1/messages/batches` and below.
    Batches,
    /// `/v1/models`.
    Models,
    /// `/v1/files`.
    Files,
    /// Anything else.
    Other,
}

impl Endpoint {
    /// The family a path belongs to. A prefix before `/v1/` is allowed.
    #[must_use]
    #[inline]
    pub fn of(path: &str) -> Self {
        // Nearly every request, and several layers ask.
        if path == "/v1/messages" {
            return Self::Messages;
        }
        Self::search(path)
    }

    fn search(path: &str) -> Self {
        let Some(rest) = path
            .strip_prefix("/v1/")
            .or_else(|| Some(path.split_once("/v1/")?.1))
        else {
            return Self::Other;
        };
        match rest.trim_end_matches('/') {
            "messages" => Self::Messages,
            "messages/count_tokens" => Self::CountTokens,
            rest if is_or_below(rest, "messages/batches") => Self::Batches,
            rest if is_or_below(rest, "models") => Self::Models,
            rest if is_or_below(rest, "files") => Self::Files,
            _ => Self::Other,
        }
    }

    /// The name used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
            Self::Batches => "batches",
            Self::Models => "models",
            Self::Files => "files",
            Self::Other => "other",
        }
    }
}

fn is_or_below(path: &str, family: &str) -> bool {
    path.strip_prefix(family)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// One shared pool of limits at the server: a credential, an endpoint family, a group of models
/// that share a bucket, and whether it is the fast pool.
///
/// Source: <https://platform.claude.com/docs/en/api/rate-limits>.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scope {
    /// A keyed hash of the credential: different for every process, so it identifies nothing
    /// outside of it. 0 when the request carries none.
    pub credential: u64,
    /// The endpoint family.
    pub endpoint: Endpoint,
    /// The group of models that share one bucket; empty where the endpoint has one for all, or no
    /// [model](RequestBody::model) is named.
    pub group: Arc<str>,
    /// Whether the request draws on the fast pool (`speed: "fast"`).
    pub fast: bool,
}

/// A scope by its parts, to look it up: to make one takes and gives back a count that all threads share.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeRef<'a> {
    /// See [`Scope::credential`].
    pub credential: u64,
    /// See [`Scope::endpoint`].
    pub endpoint: Endpoint,
    /// See [`Scope::group`].
    pub group: &'a str,
    /// See [`Scope::fast`].
    pub fast: bool,
}

/// What a map of scopes is asked by.
#[doc(hidden)]
pub trait AsScope {
    /// Its parts.
    fn as_scope(&self) -> ScopeRef<'_>;
}

impl AsScope for Scope {
    fn as_scope(&self) -> ScopeRef<'_> {
        ScopeRef {
            credential: self.credential,
            endpoint: self.endpoint,
            group: &self.group,
            fast: self.fast,
        }
    }
}

impl AsScope for ScopeRef<'_> {
    fn as_scope(&self) -> ScopeRef<'_> {
        *self
    }
}

impl<'a> std::borrow::Borrow<dyn AsScope + 'a> for Scope {
    fn borrow(&self) -> &(dyn AsScope + 'a) {
        self
    }
}

impl std::hash::Hash for dyn AsScope + '_ {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let scope = self.as_scope();
        state.write_u64(scope.credential ^ (scope.endpoint as u64) << 1 ^ u64::from(scope.fast));
        state.write(scope.group.as_bytes());
    }
}

impl std::hash::Hash for Scope {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let scope: &dyn AsScope = self;
        scope.hash(state);
    }
}

impl PartialEq for dyn AsScope + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.as_scope() == other.as_scope()
    }
}

impl Eq for dyn AsScope + '_ {}

impl<'a> ScopeRef<'a> {
    /// As [`Scope::of_call`]; `None` for a model that is not listed.
    #[must_use]
    pub fn of_call(request: &'a Request<RequestBody>, context: &Call) -> Option<Self> {
        let endpoint = Endpoint::of(request.uri().path());
        let messages = endpoint == Endpoint::Messages;
        let group = if messages {
            &*request.body().listed_model()?.rate_group
        } else {
            ""
        };
        Some(Self {
            credential: context.credential_of(request.headers()),
            endpoint,
            group,
            fast: messages && request.body().peek().is_some_and(Peek::fast),
        })
    }

    /// As [`Scope::of_model`]; `None` for a model that is not listed.
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

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

static NO_GROUP: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
static CREDENTIAL: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("credential"));
/// The key is the system's randomness, by way of the standard library's.
static HASH_KEY: LazyLock<SeedableRandomState> = LazyLock::new(|| {
    let seed = std::hash::RandomState::new().hash_one("credential");
    SeedableRandomState::with_seed(seed, SharedSeed::global_random())
});

impl Scope {
    /// A scope named by the caller, for limits that follow other lines than Claude's.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            credential: 0,
            endpoint: Endpoint::Other,
            group: Arc::from(name),
            fast: false,
        }
    }

    /// The scope Claude keeps for this request, by the built-in model catalog.
    #[must_use]
    pub fn of(request: &Request<RequestBody>) -> Self {
        let listed = request.body().listed_model();
        let whose = || credential(request.headers());
        Self::draws_on(request, ModelCatalog::builtin(), listed, whose)
    }

    /// The same, for a request of this call.
    #[must_use]
    pub fn of_call(request: &Request<RequestBody>, context: &Call) -> Self {
        let listed = request.body().listed_model();
        let whose = || context.credential_of(request.headers());
        Self::draws_on(request, ModelCatalog::builtin(), listed, whose)
    }

    /// The scope Claude keeps for this request, by this model catalog.
    #[must_use]
    pub fn with_catalog(request: &Request<RequestBody>, catalog: &ModelCatalog) -> Self {
        let model = request.body().model();
        let listed = model.and_then(|model| catalog.get(model));
        let whose = || credential(request.headers());
        Self::draws_on(request, catalog, listed, whose)
    }

    /// What a circuit is kept for: the endpoint family and the model, whatever the credential. The group
    /// is the model's canonical id; a model that the built-in catalog does not list goes by the name in the request.
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

    /// The credential alone, whatever is asked with it; given as [`credential_of`](Self::credential_of) has it.
    #[must_use]
    pub fn of_credential(credential: u64) -> Self {
        Self {
            credential,
            endpoint: Endpoint::Other,
            group: CREDENTIAL.clone(),
            fast: false,
        }
    }

    /// A keyed hash of `x-api-key`, else of `authorization`; 0 where there is neither. Different for every process.
    #[must_use]
    pub fn credential_of(headers: &HeaderMap) -> u64 {
        credential(headers)
    }

    fn draws_on(
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

/// `x-api-key`, else `authorization`, hashed with a key of this process.
pub(crate) fn credential(headers: &HeaderMap) -> u64 {
    headers
        .get(&API_KEY)
        .or_else(|| headers.get(AUTHORIZATION))
        .map_or(0, |value| HASH_KEY.hash_one(value.as_bytes()))
}

impl fmt::Display for Scope {
    /// `messages/sonnet-5.5`, with `/fast` for the fast pool. The credential is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.endpoint.as_str())?;
        if !self.group.is_empty() {
            write!(f, "/{}", self.group)?;
        }
        if self.fast {
            f.write_str("/fast")?;
        }
        Ok(())
    }
}
