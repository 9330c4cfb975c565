//! Scopes: the pools of limits that requests draw on.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use http::HeaderMap;

use crate::credential::credential;

/// A family of endpoints with separate limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
    /// `/v1/messages/batches` and the paths below it.
    Batches,
    /// `/v1/models`.
    Models,
    /// `/v1/files`.
    Files,
    /// Any other path.
    Other,
}

impl Endpoint {
    /// Returns the family of a path. The path may have a prefix before `/v1/`.
    #[must_use]
    #[inline]
    pub fn of(path: &str) -> Self {
        // The fast path: nearly every request, and several layers call this.
        if path == "/v1/messages" {
            return Self::Messages;
        }
        Self::search(path)
    }

    /// Returns the family of a path other than the most common one.
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

    /// Returns the name for logs and metrics.
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

/// Returns true if the path is that of the family, or below it.
fn is_or_below(path: &str, family: &str) -> bool {
    path.strip_prefix(family)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A pool of limits at the server.
///
/// The requests of one scope share their limits. They have the same credential, endpoint family and
/// group of models, and the same speed.
///
/// Source: <https://platform.claude.com/docs/en/api/rate-limits>.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scope {
    /// A keyed hash of the credential, which differs in every process. 0 for a request without a
    /// credential.
    pub credential: u64,
    /// The endpoint family.
    pub endpoint: Endpoint,
    /// The group of models that share one bucket. Empty if the endpoint has one bucket for all
    /// models, or if the request names no [model](crate::RequestBody::model).
    pub group: Arc<str>,
    /// True for the pool of fast requests (`speed: "fast"`).
    pub fast: bool,
}

/// A borrowed [`Scope`], to look up a map.
///
/// A `Scope` of its own would increment the reference count of its group, which all threads share.
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

/// A key of a map with [`Scope`] keys, either owned or borrowed.
pub trait AsScope {
    /// Returns the borrowed scope.
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

static CREDENTIAL_GROUP: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("credential"));

impl Scope {
    /// Creates a scope of this name, for limits that are not split as Claude's are.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            credential: 0,
            endpoint: Endpoint::Other,
            group: Arc::from(name),
            fast: false,
        }
    }

    /// Returns the scope of a credential, for any endpoint and model.
    ///
    /// `credential` is the value of [`credential_of`](Self::credential_of).
    #[must_use]
    pub fn of_credential(credential: u64) -> Self {
        Self {
            credential,
            endpoint: Endpoint::Other,
            group: CREDENTIAL_GROUP.clone(),
            fast: false,
        }
    }

    /// Returns a keyed hash of `x-api-key`, or else of `authorization`. Returns 0 if both are
    /// absent.
    ///
    /// The hash of a credential differs in every process.
    #[must_use]
    pub fn credential_of(headers: &HeaderMap) -> u64 {
        credential(headers)
    }
}

impl fmt::Display for Scope {
    /// Writes for example `messages/sonnet-5.5`, or `messages/sonnet-5.5/fast` for the fast pool.
    /// The credential is left out.
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
