//! The headers that a gateway may not pass on.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

/// The header of a key.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The response header by which the API and this gateway advise the SDKs on retries.
pub(crate) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The response header with the name of a request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The headers of one connection, which end at each proxy.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The headers by which a caller identifies itself, the one that counts first. Clients that get
/// their key from a helper program send the first two.
static CREDENTIALS: [HeaderName; 6] = [
    AUTHORIZATION,
    API_KEY,
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("cf-aig-authorization"),
    COOKIE,
];

/// Removes the headers of one connection, and those that `connection` names.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Removes the headers of a request that the gateway answers itself or sets anew.
///
/// A compressed response could not be read by the layers, so none is requested. The length is set
/// by the client from the body.
pub(crate) fn prepare_request(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in [HOST, EXPECT, CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Removes every credential of the caller.
pub(crate) fn remove_credentials(headers: &mut HeaderMap) {
    for name in &CREDENTIALS {
        headers.remove(name);
    }
}

/// Returns the values of all headers that may hold a credential, the one that counts first, without
/// the scheme `Bearer`.
pub(crate) fn credentials(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = CREDENTIALS.iter().flat_map(|name| headers.get_all(name));
    values.map(|value| {
        let value = value.as_bytes().trim_ascii();
        match value.split_at_checked(7) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
            _ => value,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_connection_names_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("connection", "x-other"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("anthropic-beta", "a"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("anthropic-beta"));
    }
}
