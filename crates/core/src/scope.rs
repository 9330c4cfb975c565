//! Scopes: the pools of limits that requests draw on.

use std::{
    collections::HashMap,
    fmt,
    hash::BuildHasher,
    sync::{Arc, LazyLock},
};

use http::Request;

use crate::{credential::credential, endpoint::Endpoint, text::write_escaped};

/// A pool of limits at the server.
///
/// The requests of one scope share their limits. They have the same credential, host, endpoint
/// family and group of models, and the same speed. Requests that name no host share one.
///
/// Source: <https://platform.claude.com/docs/en/api/rate-limits>.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scope {
    /// The value of [`credential_of`](Self::credential_of): a keyed hash of the credential at its
    /// host, which differs in every process unless a [common
    /// key](crate::toolkit::set_credential_key) is set. 0 for a request without a credential.
    pub credential: u64,
    /// The host that the URI or else the `host` header names, in lower case and without a default
    /// port. Empty if the request names none.
    pub host: Arc<str>,
    /// The endpoint family.
    pub endpoint: Endpoint,
    /// The group of models that share one bucket. Empty if the endpoint has one bucket for all
    /// models, or if the request names no [model](crate::toolkit::requested_model).
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
    /// See [`Scope::host`].
    pub host: &'a str,
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
            host: &self.host,
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
        // A hash of a credential contains the host.
        if scope.credential == 0 {
            state.write(scope.host.as_bytes());
        }
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

/// Returns the value of this scope in a map.
///
/// Most programs use one or two scopes. Their comparison takes less time than to hash the scope.
#[must_use]
pub fn get_by_scope<'a, T, S: BuildHasher>(
    map: &'a HashMap<Scope, T, S>,
    scope: &dyn AsScope,
) -> Option<&'a T> {
    if map.len() > 2 {
        return map.get(scope);
    }
    let wanted = scope.as_scope();
    let is_wanted = |(scope, _): &(&Scope, &T)| scope.is(&wanted);
    let mut all = map.iter();
    // Without a loop, which would load all of the wanted scope before it compares.
    let first = all.next().filter(is_wanted);
    let (_, value) = first.or_else(|| all.next().filter(is_wanted))?;
    Some(value)
}

/// Returns true if the texts are equal. Most are one text, that of the catalog.
#[inline]
fn is_same(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || a == b
}

static CREDENTIAL_GROUP: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("credential"));
static NO_HOST: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

impl Scope {
    /// Returns true if this is the borrowed scope. The texts are compared last, because that takes
    /// the most time.
    #[inline]
    fn is(&self, other: &ScopeRef<'_>) -> bool {
        self.credential == other.credential
            && self.endpoint == other.endpoint
            && self.fast == other.fast
            && is_same(&self.group, other.group)
            && is_same(&self.host, other.host)
    }

    /// Creates a scope of this name, for limits that are not split as Claude's are.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            credential: 0,
            host: NO_HOST.clone(),
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
            host: NO_HOST.clone(),
            endpoint: Endpoint::Other,
            group: CREDENTIAL_GROUP.clone(),
            fast: false,
        }
    }

    /// Returns a keyed hash of the credential at its host, or 0 for a request without a credential.
    ///
    /// The same key has one hash wherever it stands: in `x-api-key`, `api-key`, `x-goog-api-key`,
    /// `cf-aig-authorization`, or in `authorization` with or without the scheme `Bearer`. Of
    /// several, the first in this order counts, so a key wins over a token. An AWS signature counts
    /// as its access key id, region and service, in the header or in the query. A Google OAuth
    /// token counts as the project, location and workspace in the path. The header
    /// `anthropic-workspace-id` is a part of the credential. A [`CredentialId`] in the extensions
    /// replaces all of them but the workspace.
    ///
    /// The hash of a credential differs in every process, unless a
    /// [common key](crate::toolkit::set_credential_key) is set.
    ///
    /// [`CredentialId`]: crate::CredentialId
    #[must_use]
    pub fn credential_of<B>(request: &Request<B>) -> u64 {
        credential(request)
    }
}

impl fmt::Display for Scope {
    /// Writes for example `messages/sonnet-5.5`, or `messages/sonnet-5.5/fast` for the fast pool.
    /// The credential is left out, and the host as well, unless the alternate form `{:#}` is used:
    /// `messages/sonnet-5.5 at api.anthropic.com`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.endpoint.as_str())?;
        if !self.group.is_empty() {
            f.write_str("/")?;
            // A client may have named the model, so that a line break would forge a line of a log.
            write_escaped(&self.group, f)?;
        }
        if self.fast {
            f.write_str("/fast")?;
        }
        if f.alternate() && !self.host.is_empty() {
            f.write_str(" at ")?;
            write_escaped(&self.host, f)?;
        }
        Ok(())
    }
}
