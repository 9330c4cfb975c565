//! Base URLs of upstreams, targets and this gateway.

use http::Uri;

/// Parses a base URL.
pub(crate) fn base_url(url: &str) -> Result<Uri, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("does not begin with http:// or https://");
    }
    match uri.authority() {
        Some(authority) if !authority.as_str().contains('@') => {}
        _ => return Err("has no host, or a user"),
    }
    if uri.query().is_some() {
        return Err("has a query");
    }
    if uri.path().trim_end_matches('/').ends_with("/v1") {
        return Err("ends in /v1, which is a part of every path");
    }
    Ok(uri)
}
