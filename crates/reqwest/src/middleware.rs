//! A layer stack as a middleware.

use std::{error::Error as StdError, fmt, future::poll_fn, pin::Pin};

use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};
use tower_claude_core::{BoxError, RequestBody};
use tower_service::Service as _;

use crate::{Stack, convert, next::Borrowed};

/// A layer, or a stack of layers, as a [`Middleware`]. See the [crate documentation](crate).
///
/// `Layer::layer` runs for each request, around the rest of the chain; the state of this project's layers lives in the
/// layers and is shared. A layer must accept an inner service with a lifetime: see [`Stack`]. Those that start tasks, a
/// cache made `detached()` or tower's `buffer`, do not; the compiler then calls `Stack` "not general enough".
///
/// The caller's extensions (`RequestBuilder::with_extension`: a deadline, a priority, a tenant) are the request's for
/// the layers. Each attempt runs the rest of the chain with a clone of them; the caller gets back what the last one
/// left. What layers add to a request stays between layers.
///
/// A layer's refusal is an ordinary response, tagged in its extensions, with the URL of the request. Errors stay what
/// they are; an error that only tower knows (its timeout's, say) is wrapped in [`Error::Middleware`].
#[derive(Clone, Debug)]
pub struct TowerMiddleware<L> {
    layer: L,
    limit: usize,
}

impl<L> TowerMiddleware<L> {
    /// Runs requests through these layers.
    #[must_use]
    pub const fn new(layer: L) -> Self {
        let limit = RequestBody::DEFAULT_LIMIT;
        Self { layer, limit }
    }

    /// Reads streamed request bodies into memory up to this many bytes (default: 32 MiB); longer ones pass through
    /// and are sent once.
    #[must_use]
    pub const fn with_body_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }
}

impl<L> Middleware for TowerMiddleware<L>
where
    L: for<'a> Stack<'a> + Send + Sync + 'static,
{
    // What `async_trait` makes of `async fn handle`.
    fn handle<'this, 'extensions, 'next, 'future>(
        &'this self,
        request: Request,
        extensions: &'extensions mut Extensions,
        next: Next<'next>,
    ) -> Pin<Box<dyn Future<Output = Result<Response>> + Send + 'future>>
    where
        Self: 'future,
        'this: 'future,
        'extensions: 'future,
        'next: 'future,
    {
        Box::pin(async move {
            let url = request.url().clone();
            let (mut head, body) = http::Request::<reqwest::Body>::try_from(request)?.into_parts();
            let borrowed = Borrowed::take(extensions);
            let mut service = self.layer.layer(borrowed.service(next));
            // The request's own win: they may be newer, left by layers further out.
            let mut all = borrowed.given().clone();
            all.extend(std::mem::take(&mut head.extensions));
            head.extensions = all;
            let body = RequestBody::collect(body, self.limit).await;
            let ready = poll_fn(|cx| service.poll_ready(cx)).await;
            ready.map_err(|error| typed(error.into()))?;
            let answer = service.call(http::Request::from_parts(head, body)).await;
            let response = answer.map_err(|error| typed(error.into()))?;
            Ok(convert::outward(response, url))
        })
    }
}

/// The error under tower's `BoxError`, as it was.
fn typed(error: BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => match error.downcast::<reqwest::Error>() {
            Ok(error) => Error::Reqwest(*error),
            Err(error) => Error::middleware(LayerError(error)),
        },
    }
}

/// An error of a layer, with its words and its sources.
#[derive(Debug)]
struct LayerError(BoxError);

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for LayerError {
    /// The error itself, so that it can be found by its type.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.0.as_ref())
    }
}
