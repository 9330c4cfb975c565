//! The service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_claude_core::{RequestBody, ResponseBody, take_ready};
use tower_service::Service;

use crate::{
    Body, Detach, Fill, Inline, MemoryStore, ResponseFuture, Store, config::Config, lookup::Lookup,
};

/// Answers equal requests once. Made by [`CacheLayer`](crate::CacheLayer), behind a
/// [`BufferRequest`](tower_claude_core::BufferRequest) that makes every request body one that can be read.
#[derive(Clone)]
pub struct Cache<S, D = Inline, T = MemoryStore> {
    inner: S,
    config: Arc<Config<T>>,
    detach: D,
}

impl<S, D, T> Cache<S, D, T> {
    pub(crate) const fn new(inner: S, config: Arc<Config<T>>, detach: D) -> Self {
        Self {
            inner,
            config,
            detach,
        }
    }

    /// The service inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, R, D, T> Service<Request<RequestBody>> for Cache<S, D, T>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
    D: Detach<Fill<S, R>> + Clone,
    T: Store,
{
    type Response = Response<ResponseBody<Body<R>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, R, D, T>;

    /// Always ready: a hit needs nothing of the inner service, and a miss waits for it itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        if !self.config.policy.may_be_asked(&request) {
            // No waker is needed: the future is polled as soon as it is returned (see `BufferRequest`), and asks again then.
            return match self
                .inner
                .poll_ready(&mut Context::from_waker(Waker::noop()))
            {
                Poll::Ready(Ok(())) => ResponseFuture::calling(self.inner.call(request)),
                Poll::Ready(Err(error)) => {
                    // A service is not polled again after an error: the next call has a fresh one.
                    self.inner = self.inner.clone();
                    ResponseFuture::unready(error)
                }
                Poll::Pending => {
                    let service = take_ready(&mut self.inner);
                    ResponseFuture::past(service, request)
                }
            };
        }
        let service = self.inner.clone();
        let (config, detach) = (self.config.clone(), self.detach.clone());
        ResponseFuture::looking(Lookup::new(service, config, request, detach))
    }
}

impl<S: fmt::Debug, D, T> fmt::Debug for Cache<S, D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
