//! From reqwest's types to http's and back, losing nothing.

use http::{Extensions, Request, Response};
use reqwest::{Body, ResponseBuilderExt as _, Url};
use tower_claude_core::{Call, RequestBody};

/// Bytes stay bytes, so that the client can still re-send what a server never took.
pub(crate) fn outgoing(mut request: Request<RequestBody>) -> Request<Body> {
    Call::leave_in_extensions(&mut request);
    request.map(|body| match body.try_into_bytes() {
        Ok(bytes) => bytes.into(),
        Err(stream) => Body::wrap(stream),
    })
}

/// The response with its URL, which reqwest's own conversion drops.
pub(crate) fn incoming(response: reqwest::Response) -> Response<Body> {
    let url = response.url().clone();
    let mut response = Response::<Body>::from(response);
    response.extensions_mut().extend(url_extension(url));
    response
}

/// A response as reqwest's, with `url` where it brings none of its own: a layer has answered.
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

/// The extension's type is reqwest's secret; a builder makes one.
fn url_extension(url: Url) -> Extensions {
    let marked = Response::builder().url(url).body(());
    marked.map_or_else(
        |_| Extensions::new(),
        |marked| marked.into_parts().0.extensions,
    )
}
