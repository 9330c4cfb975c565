//! Lossless conversion between reqwest's types and http's.

use http::{Extensions, Request, Response, uri::Authority};
use reqwest::{Body, ResponseBuilderExt as _, Url};
use tower_claude_core::{
    Call, RequestBody,
    toolkit::{OtherHost, report_redirect},
};

/// Converts a request for the client. A body of bytes stays one, so that the client can send it
/// again.
pub(crate) fn outgoing(mut request: Request<RequestBody>) -> Request<Body> {
    Call::leave_in_extensions(&mut request);
    request.map(|body| match body.try_into_bytes() {
        Ok(bytes) => bytes.into(),
        Err(stream) => Body::wrap(stream),
    })
}

/// Converts a response of the client, with its URL, which reqwest's own conversion drops. A
/// response from another host than `sent_to` is reported and marked.
pub(crate) fn incoming(response: reqwest::Response, sent_to: Option<&Authority>) -> Response<Body> {
    let url = response.url().clone();
    let is_from_other = sent_to.is_some_and(|sent_to| {
        sent_to.as_str() != url.authority() && report_redirect(sent_to, url.as_str().as_bytes())
    });
    let mut response = Response::<Body>::from(response);
    response.extensions_mut().extend(url_extension(url));
    if is_from_other {
        response.extensions_mut().insert(OtherHost);
    }
    response
}

/// Converts a response for the caller. A response that a layer made gets `url`, because it has
/// none.
#[cfg(feature = "middleware")]
pub(crate) fn outward<B>(mut response: Response<B>, url: Url) -> reqwest::Response
where
    B: http_body::Body + Send + Sync + 'static,
    B::Data: Into<bytes::Bytes>,
    B::Error: Into<tower_claude_core::BoxError>,
{
    let mut extensions = url_extension(url);
    extensions.extend(std::mem::take(response.extensions_mut()));
    *response.extensions_mut() = extensions;
    response.map(Body::wrap).into()
}

/// Returns extensions that contain the URL. Its extension type is private to reqwest, so a builder
/// makes it.
fn url_extension(url: Url) -> Extensions {
    let marked = Response::builder().url(url).body(());
    marked.map_or_else(
        |_| Extensions::new(),
        |marked| marked.into_parts().0.extensions,
    )
}
