//! The `count_tokens` request of a message.

use std::sync::Arc;

use http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT,
        TRANSFER_ENCODING,
    },
};
use tower_claude_core::{Call, Endpoint, Rejection, RequestBody, toolkit::ApiPath};

/// Headers that belong to the body or the response of the original request, and are not copied.
const NOT_COPIED: [HeaderName; 7] = [
    ACCEPT,
    ACCEPT_ENCODING,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    EXPECT,
    TRANSFER_ENCODING,
    HeaderName::from_static("idempotency-key"),
];

/// Returns true for a Messages request with the model in its body. The clouds that name it in the
/// path count at other paths, or not at all.
pub(super) fn is_countable(request: &Request<RequestBody>) -> bool {
    let path = ApiPath::parse(request.uri().path());
    request.method() == Method::POST
        && path.endpoint == Endpoint::Messages
        && path.form.is_none()
        && request.body().model().is_some()
}

/// Returns the request that counts the tokens of `message`. It has the same host, headers and
/// extensions, another body and a call of its own. `None` if the URI cannot take the longer path.
pub(super) fn count_request(
    message: &Request<RequestBody>,
    call: Call,
    body: Vec<u8>,
) -> Option<Request<RequestBody>> {
    let length = body.len();
    let mut request = Request::new(RequestBody::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = count_uri(message.uri())?;
    *request.version_mut() = message.version();
    let headers = request.headers_mut();
    headers.clone_from(message.headers());
    for name in &NOT_COPIED {
        headers.remove(name);
    }
    let json = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json);
    headers.insert(CONTENT_LENGTH, length.into());
    // A custom scope or an inner service may depend on them.
    request.extensions_mut().clone_from(message.extensions());
    Arc::new(call).attach(&mut request);
    Some(request)
}

/// Appends `/count_tokens` to the path, and keeps the query.
fn count_uri(uri: &Uri) -> Option<Uri> {
    let path = uri.path().trim_end_matches('/');
    let target = match uri.query() {
        Some(query) => format!("{path}/count_tokens?{query}"),
        None => format!("{path}/count_tokens"),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Returns the reason why a response with this head holds no count.
pub(super) fn failure<B>(response: &Response<B>) -> Option<&'static str> {
    if response.status() == http::StatusCode::OK {
        return None;
    }
    let local = response.extensions().get::<Rejection>().is_some();
    Some(if local { "refused" } else { "status" })
}

/// Returns true for a status with which the same count fails again.
pub(super) const fn is_permanent(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 404 | 405 | 413 | 422)
}

#[cfg(test)]
mod tests {
    use super::count_uri;

    #[test]
    fn count_uri_appends_to_the_path_and_keeps_the_rest() {
        for (from, to) in [
            ("/v1/messages", "/v1/messages/count_tokens"),
            (
                "https://a.b/v1/messages/",
                "https://a.b/v1/messages/count_tokens",
            ),
            (
                "http://h:8/proxy/v1/messages?beta=true",
                "http://h:8/proxy/v1/messages/count_tokens?beta=true",
            ),
        ] {
            let uri = count_uri(&from.parse().expect("a uri")).expect("a uri");
            assert_eq!(uri.to_string(), to);
        }
    }
}
