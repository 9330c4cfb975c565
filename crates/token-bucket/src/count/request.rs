//! The request that counts, and what its answer says.

use std::sync::Arc;

use http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT,
        TRANSFER_ENCODING,
    },
};
use tower_claude_core::{Call, Endpoint, Rejected, RequestBody};

/// Headers that are about the body or the answer of the request itself, not about who asks.
const OF_THE_REQUEST: [HeaderName; 7] = [
    ACCEPT,
    ACCEPT_ENCODING,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    EXPECT,
    TRANSFER_ENCODING,
    HeaderName::from_static("idempotency-key"),
];

/// Whether the tokens of this request are worth a count: a Messages request that names a model.
pub(super) fn is_countable(request: &Request<RequestBody>) -> bool {
    request.method() == Method::POST
        && Endpoint::of(request.uri().path()) == Endpoint::Messages
        && request.body().model().is_some()
}

/// The same place, credentials, version, betas and extensions, another body and a context of its own. `None` when the URI allows no longer path.
pub(super) fn counting(
    message: &Request<RequestBody>,
    context: Call,
    body: Vec<u8>,
) -> Option<Request<RequestBody>> {
    let length = body.len();
    let mut request = Request::new(RequestBody::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = below(message.uri())?;
    *request.version_mut() = message.version();
    let headers = request.headers_mut();
    headers.clone_from(message.headers());
    for name in &OF_THE_REQUEST {
        headers.remove(name);
    }
    let json = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json);
    headers.insert(CONTENT_LENGTH, length.into());
    // What a scope of one's own or an inner service goes by.
    request.extensions_mut().clone_from(message.extensions());
    Arc::new(context).attach(&mut request);
    Some(request)
}

/// `…/v1/messages` becomes `…/v1/messages/count_tokens`; a query stays.
fn below(uri: &Uri) -> Option<Uri> {
    let path = uri.path().trim_end_matches('/');
    let target = match uri.query() {
        Some(query) => format!("{path}/count_tokens?{query}"),
        None => format!("{path}/count_tokens"),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Why an answer of this head holds no count.
pub(super) fn fault<B>(response: &Response<B>) -> Option<&'static str> {
    if response.status() == http::StatusCode::OK {
        return None;
    }
    let local = response.extensions().get::<Rejected>().is_some();
    Some(if local { "refused" } else { "status" })
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn the_path_grows_and_the_rest_stays() {
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
            let uri = below(&from.parse().expect("a uri")).expect("a uri");
            assert_eq!(uri.to_string(), to);
        }
    }
}
