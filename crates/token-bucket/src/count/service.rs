//! The service of the layer.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_claude_core::RequestBody;
use tower_service::Service;

use super::{CountTokensFuture, layer::Counter};

/// The service of a [`CountTokensLayer`](super::CountTokensLayer).
#[derive(Clone)]
pub struct CountTokens<S> {
    inner: S,
    counter: Arc<Counter>,
}

impl<S> CountTokens<S> {
    pub(super) const fn new(inner: S, counter: Arc<Counter>) -> Self {
        Self { inner, counter }
    }
}

impl<S, B> Service<Request<RequestBody>> for CountTokens<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes> + Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CountTokensFuture<S, B>;

    /// Always ready: the inner service is readied inside the future.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        CountTokensFuture::new(self.counter.clone(), self.inner.clone(), request)
    }
}

impl<S: fmt::Debug> fmt::Debug for CountTokens<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountTokens")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
