//! What a layer stack must be, to be a middleware.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_claude_core::{BoxError, RequestBody};
use tower_layer::Layer;
use tower_service::Service;

use crate::NextService;

/// A layer, or a stack of layers, that [`TowerMiddleware`](crate::TowerMiddleware) can run: an alias, implemented for
/// every layer that fits.
///
/// The service it makes of the rest of a chain of middleware must take a [`RequestBody`], answer with a body that can
/// be shared, and not need a `'static` inner service: the rest of a chain is borrowed from the client.
pub trait Stack<'a>: Layer<NextService<'a>, Service = Self::Outer> {
    /// The service.
    type Outer: Service<
            Request<RequestBody>,
            Response = Response<Self::Body>,
            Error = Self::Error,
            Future = Self::Future,
        > + Send;
    /// Its future.
    type Future: Future<Output = Result<Response<Self::Body>, Self::Error>> + Send;
    /// Its response body.
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Send + Sync + 'static;
    /// Its error: reqwest-middleware's, or what one of tower's own layers makes of it.
    type Error: Into<BoxError>;
}

impl<'a, L, S, R> Stack<'a> for L
where
    L: Layer<NextService<'a>, Service = S>,
    S: Service<Request<RequestBody>, Response = Response<R>> + Send,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + Sync + 'static,
{
    type Outer = S;
    type Future = S::Future;
    type Body = R;
    type Error = S::Error;
}
