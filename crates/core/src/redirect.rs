//! Redirects, which no layer follows.
//!
//! A client that follows them sends the key, and after a 307 the prompt as well, to the host that
//! the response names.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use http::{Extensions, HeaderMap, HeaderValue, StatusCode, Uri, header::LOCATION, uri::Authority};

use crate::{
    body_tracker::ExpectedBody,
    class::{Class, Kind, Reach},
    host::{host, host_header},
};

/// The most pairs of hosts that are remembered. Further pairs are not reported.
const MAX_PAIRS: usize = 256;

static REPORTED: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// Reports that a request for one host was redirected to another, or was answered by it.
///
/// It is a `WARN` event with the `decision` `redirected`, emitted once for each pair of hosts.
/// `location` is the URL that the response names, or that has answered. A relative one, or one with
/// the same host, is not reported. Returns true if it has another host.
pub fn report_redirect(from: &Authority, location: &[u8]) -> bool {
    // A location without a scheme may name a host as well.
    let location = match location.strip_prefix(b"//") {
        Some(rest) => {
            let end = rest.iter().position(|byte| b"/?#".contains(byte));
            Uri::try_from(&rest[..end.unwrap_or(rest.len())])
        }
        None => Uri::try_from(location),
    };
    let Ok(location) = location else {
        return false;
    };
    // The scheme decides which port is the default. Without one, both are.
    let none = HeaderMap::new();
    let from = Uri::from(from.clone());
    let (from, to) = (host(&from, &none), host(&location, &none));
    if to.is_empty() || from == to {
        return false;
    }
    let pair = (from.into_owned(), to.into_owned());
    let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
    if reported.contains(&pair) || reported.len() >= MAX_PAIRS {
        return true;
    }
    let (from, to) = &pair;
    tracing::warn!(
        target: "tower_claude", layer = "client", decision = "redirected", from, to,
        "a request to {from} was redirected to {to}",
    );
    reported.insert(pair);
    true
}

/// A response extension: another host than that of the request has answered.
///
/// A client that follows redirects gets such responses. No limit is learned from the headers of
/// one, and its status delays or rejects no other request, since the host may be anybody's. An
/// error inside its stream counts for the circuit like any other. The adaptors for reqwest insert
/// it. A service over another client inserts it too, if it knows the last URL:
///
/// ```
/// use http::{Response, Uri, uri::Authority};
/// use tower_claude_core::toolkit::{OtherHost, report_redirect};
///
/// fn mark<B>(response: &mut Response<B>, sent_to: &Authority, answered_by: &Uri) {
///     if report_redirect(sent_to, answered_by.to_string().as_bytes()) {
///         response.extensions_mut().insert(OtherHost);
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a marker, created by adaptors")]
pub struct OtherHost;

/// Returns the class of a failed response, which concerns its own request only if another host has
/// answered.
#[cold]
pub(crate) fn bounded(class: Class, extensions: &Extensions) -> Class {
    match extensions.get::<OtherHost>() {
        Some(OtherHost) => class.with_reach(Reach::Request),
        None => class,
    }
}

/// The host that a request is sent to, as it is written there.
pub(crate) enum Origin {
    Authority(Authority),
    /// The `host` header of a request whose URI names no host. Boxed, because it is rare and every
    /// future has the place.
    Header(Option<Box<HeaderValue>>),
}

impl Origin {
    /// Copies the host of a request, without an allocation if its URI names it.
    // Always inlined, like the other steps of every call: the call of the function is a quarter of
    // its time.
    #[inline(always)]
    pub(crate) fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        if let Some(authority) = uri.authority() {
            return Self::Authority(authority.clone());
        }
        Self::Header(host_header(headers).map(|host| Box::new(host.clone())))
    }

    /// Returns the `host` header, if the URI names no host.
    pub(crate) fn header(&self) -> Option<&HeaderValue> {
        match self {
            Self::Header(host) => host.as_deref(),
            Self::Authority(_) => None,
        }
    }

    fn authority(&self) -> Option<Authority> {
        match self {
            Self::Authority(authority) => Some(authority.clone()),
            Self::Header(host) => Authority::try_from(host.as_ref()?.as_bytes()).ok(),
        }
    }
}

/// Returns the class of a redirect in place of a message or a count, and reports one to another
/// host. `None` for any other response.
///
/// It is no success, because it has no message, and no fault of the model or the credential. The
/// same request is redirected again, so it is not retried.
#[cold]
pub(crate) fn class_of_redirect(
    status: StatusCode,
    headers: &HeaderMap,
    expected: ExpectedBody,
    from: &Origin,
) -> Option<Class> {
    if !status.is_redirection() || !expected.is_judged() {
        return None;
    }
    if let (Some(from), Some(location)) = (from.authority(), headers.get(LOCATION)) {
        report_redirect(&from, location.as_bytes());
    }
    Some(Class::new(Kind::BadRequest))
}
