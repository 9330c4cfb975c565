//! The extensions and headers of requests and responses that concern their target.

use std::{fmt, sync::Arc};

use http::{
    HeaderName, HeaderValue, Request, Uri, header::HOST, response::Parts, uri::PathAndQuery,
};
use tower_claude_core::{CredentialId, RequestBody};
use tower_claude_wire::cloud::Target;

use crate::{options::SpreadTarget, skip::Skip, spreader::Binding};

/// Response header: the name of the target that was sent the request. Absent if the layer has only
/// one target.
pub const TARGET: HeaderName = HeaderName::from_static("x-tower-claude-target");

/// The areas, or the targets, that may process a request.
///
/// Insert it into the extensions of a request. It narrows what the layer allows and never widens
/// it. A target is allowed if an entry is its area or its name. The area is the inference profile,
/// such as `eu` or `global`, or else the location, such as `us-east-1`. An entry that ends with `*`
/// allows all that begin like it.
///
/// ```
/// use tower_claude_spread::{Residency, SpreadTarget};
/// use tower_claude_wire::cloud::Target;
///
/// let frankfurt = SpreadTarget::new(Target::bedrock("eu-central-1")?);
/// assert!(Residency::new(["eu-*"]).allows(&frankfurt));
/// assert!(!Residency::new(["us", "global"]).allows(&frankfurt));
/// # Ok::<(), tower_claude_wire::cloud::InvalidTarget>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residency(Arc<[Box<str>]>);

impl Residency {
    /// Creates a list of areas and targets. An empty list allows none.
    #[must_use]
    pub fn new<T: AsRef<str>>(entries: impl IntoIterator<Item = T>) -> Self {
        Self(entries.into_iter().map(|it| it.as_ref().into()).collect())
    }

    /// Returns true if the list allows a target.
    #[must_use]
    pub fn allows(&self, target: &SpreadTarget) -> bool {
        let (area, name) = (target.area(), target.target().name());
        self.0.iter().any(|entry| match entry.strip_suffix('*') {
            Some(begin) => area.starts_with(begin) || name.starts_with(begin),
            None => **entry == *area || **entry == *name,
        })
    }
}

/// The account that made the thinking in the conversation of a request.
///
/// Insert it into the extensions of a request if the conversation was kept elsewhere, for instance
/// over a restart. The response to an earlier turn names the account in its [`Route`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinkingAccount(pub(crate) Arc<str>);

impl ThinkingAccount {
    /// Creates the name of an account. See [`Target::account`].
    #[must_use]
    pub fn new(account: impl Into<Arc<str>>) -> Self {
        Self(account.into())
    }
}

/// Response extension: the way of a call to the target that was sent the last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The target.
    pub target: Target,
    /// The account to which the thinking of the conversation is bound.
    pub binding: Binding,
    /// The number of attempts that were assigned to a target, from 1.
    pub attempts: usize,
    /// The targets that failed or could not be chosen, with the reason.
    pub skipped: Arc<[(Target, Skip)]>,
}

impl Route {
    /// Sets the extension, and the header if there are several targets.
    pub(crate) fn mark(self, head: &mut Parts, has_others: bool) {
        // A name has visible characters only.
        if let Ok(name) = HeaderValue::from_str(self.target.name())
            && has_others
        {
            head.headers.insert(TARGET, name);
        }
        head.extensions.insert(self);
    }
}

/// The reasons for which no target is left.
pub(crate) struct Skipped<'a>(pub(crate) &'a [(Target, Skip)]);

impl fmt::Display for Skipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no target is configured");
        }
        for (index, (target, skip)) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{target} {skip}")?;
        }
        Ok(())
    }
}

/// Sends a request to a target: sets its host, and names the target and its credential.
pub(crate) fn assign(
    request: &mut Request<RequestBody>,
    target: &Target,
    credential: Option<&CredentialId>,
) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(target.scheme().clone());
    parts.authority = Some(target.authority().clone());
    parts
        .path_and_query
        .get_or_insert(PathAndQuery::from_static("/"));
    // Scheme, authority and path make a URI.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    // It names the host that the caller meant.
    request.headers_mut().remove(HOST);
    let extensions = request.extensions_mut();
    extensions.insert(target.clone());
    if let Some(credential) = credential {
        extensions.insert(credential.clone());
    }
}
