//! A layer stack as a reqwest middleware.

use std::{error::Error as StdError, fmt, future::poll_fn, pin::Pin};

use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};
use tower_claude_core::{BoxError, RequestBody, toolkit::Collect};
use tower_service::Service as _;

use crate::{convert, next::BorrowedExtensions, stack::Stack};

/// A layer, or a stack of layers, as a [`Middleware`]. See the [crate documentation](crate).
///
/// `Layer::layer` runs for each request, around the rest of the chain. The state of this project's
/// layers is in the layers and is shared. A layer must accept an inner service with a lifetime, see
/// [`Stack`]. Layers that spawn tasks, such as a `detached()` cache or tower's `buffer`, do not.
/// The compiler then reports that `Stack` is "not general enough".
///
/// The layers get the caller's extensions (set by `RequestBuilder::with_extension`, for example a
/// deadline, a priority or a tenant) as the request's extensions. Each attempt runs the rest of the
/// chain with a clone of them, and the caller gets the extensions of the last attempt back.
/// Extensions that layers add to a request stay between the layers.
///
/// A rejection by a layer is an ordinary response, tagged in its extensions, with the URL of the
/// request. Errors keep their type. An error of one of tower's layers (for example of its timeout)
/// is wrapped in [`Error::Middleware`].
#[derive(Clone, Debug)]
pub struct TowerMiddleware<L> {
    layer: L,
    limit: usize,
}

impl<L> TowerMiddleware<L> {
    /// Returns a middleware that runs requests through `layer`.
    #[must_use]
    pub const fn new(layer: L) -> Self {
        let limit = RequestBody::DEFAULT_LIMIT;
        Self { layer, limit }
    }

    /// Sets up to how many bytes streamed request bodies are buffered. Default: 32 MiB. Longer
    /// bodies pass through and are sent once.
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
    // The signature that `async_trait` generates for `async fn handle`.
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
            let borrowed = BorrowedExtensions::take(extensions);
            let mut service = self.layer.layer(borrowed.service(next));
            // The request's own extensions win: outer layers may have set them later.
            let mut all = borrowed.given().clone();
            all.extend(std::mem::take(&mut head.extensions));
            head.extensions = all;
            let body = Collect::new(body, self.limit).await;
            let ready = poll_fn(|cx| service.poll_ready(cx)).await;
            ready.map_err(|error| unboxed(error.into()))?;
            let answer = service.call(http::Request::from_parts(head, body)).await;
            let response = answer.map_err(|error| unboxed(error.into()))?;
            Ok(convert::outward(response, url))
        })
    }
}

/// Returns the original error inside of tower's `BoxError`.
fn unboxed(error: BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => match error.downcast::<reqwest::Error>() {
            Ok(error) => Error::Reqwest(*error),
            Err(error) => Error::middleware(LayerError(error)),
        },
    }
}

/// An error of a layer, with its message and its sources.
#[derive(Debug)]
struct LayerError(BoxError);

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for LayerError {
    /// Returns the error itself, so that it can be found by its type.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.0.as_ref())
    }
}
