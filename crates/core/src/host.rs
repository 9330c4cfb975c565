//! The host of a request.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Uri, header::HOST};

/// The greatest length of a host name with its port. A longer name is no host.
const MAX_LENGTH: usize = 261;

/// Returns the host in the authority of the URI, or else in the `host` header, in lower case. The
/// port is left out if it is the default of the scheme. Empty if there is none.
///
/// Borrowed if it is written in this form already.
#[must_use]
#[inline]
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Cow<'a, str> {
    host_or(uri, || host_header(headers))
}

/// Returns the `host` header. It is mostly the first, and a look-up by its hash takes as long as to
/// compare two dozen names.
#[inline]
pub(crate) fn host_header(headers: &HeaderMap) -> Option<&HeaderValue> {
    // Values are slower to pass through than names.
    if !headers.keys().any(|name| *name == HOST) {
        return None;
    }
    let mut headers = headers.iter();
    let (_, value) = headers.find(|(name, _)| *name == HOST)?;
    Some(value)
}

/// Returns the host of a URI, or else of this `host` header. See [`host`].
#[inline]
pub(crate) fn host_or<'a>(
    uri: &'a Uri,
    header: impl FnOnce() -> Option<&'a HeaderValue>,
) -> Cow<'a, str> {
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => match header().map(HeaderValue::to_str) {
            Some(Ok(host)) => host,
            _ => return Cow::Borrowed(""),
        },
    };
    // Without an early exit, so that the loop is vectorised.
    let is_plain = |plain, byte: u8| {
        plain & !(byte == b':' || byte == b'@' || byte.is_ascii_uppercase() || byte <= b' ')
    };
    if authority.bytes().fold(true, is_plain)
        && !authority.ends_with('.')
        && authority.len() <= MAX_LENGTH
    {
        return Cow::Borrowed(authority);
    }
    normalized(authority, uri.scheme_str())
}

fn normalized<'a>(authority: &'a str, scheme: Option<&str>) -> Cow<'a, str> {
    let host = authority.trim();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address are inside of brackets.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
        _ => (host, ""),
    };
    let is_default = match (scheme, port) {
        (_, "") => true,
        (Some("http"), port) => port == "80",
        (Some("https"), port) => port == "443",
        (_, port) => port == "80" || port == "443",
    };
    let has_dot = name.ends_with('.');
    let name = if has_dot {
        &name[..name.len() - 1]
    } else {
        name
    };
    let host = if is_default { name } else { host };
    if host.len() > MAX_LENGTH {
        return Cow::Borrowed("");
    }
    if has_dot && !is_default {
        return Cow::Owned(format!("{}:{port}", name.to_ascii_lowercase()));
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(host.to_ascii_lowercase());
    }
    Cow::Borrowed(host)
}
