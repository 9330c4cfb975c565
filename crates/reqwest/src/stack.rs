//! The requirements on a layer stack that is run as a middleware.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_claude_core::{BoxError, RequestBody};
use tower_layer::Layer;
use tower_service::Service;

use crate::next::NextService;

/// A trait alias for the layers that [`TowerMiddleware`](crate::TowerMiddleware) can run.
///
/// The service that the layer makes must take a [`RequestBody`] and return a body that is `Sync`.
/// It must not need a `'static` inner service, because the rest of the middleware chain is borrowed
/// from the client.
pub trait Stack<'a>: Layer<NextService<'a>, Service = Self::Outer> {
    /// The service that the layer makes.
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
    /// Its error: reqwest-middleware's error, or the error in which one of tower's layers wraps it.
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
