//! The service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_claude_core::{Classify, RequestBody, ResponseBody};
use tower_service::Service;

use crate::{Body, ResponseFuture, call::Call, layer::Config};

/// Sends failed requests again. Made by [`RetryLayer`](crate::RetryLayer), behind a
/// [`Buffered`](tower_claude_core::Buffered) that makes every request body one that can be re-sent.
#[derive(Clone)]
pub struct Retry<S, C> {
    inner: S,
    config: Arc<Config>,
    classifier: C,
}

impl<S, C> Retry<S, C> {
    pub(crate) const fn new(inner: S, config: Arc<Config>, classifier: C) -> Self {
        Self {
            inner,
            config,
            classifier,
        }
    }

    /// The service inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, R, C> Service<Request<RequestBody>> for Retry<S, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: HttpBody<Data = Bytes> + Unpin,
    C: Classify<S::Error> + Clone,
{
    type Response = Response<ResponseBody<Body<R, C>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, R, C>;

    /// Always ready: each attempt waits for the inner service's readiness itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let call = Call::new(self.config.clone(), self.classifier.clone(), request);
        ResponseFuture::new(self.inner.clone(), call)
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Retry<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
