//! The service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_claude_core::{Classify, Observed, RequestBody, ResponseBody, take_ready};
use tower_service::Service;

use crate::{ResponseFuture, Watcher, call::BreakerCall, layer::Config};

/// Refuses calls while they would fail. Made by [`CircuitBreakerLayer`](crate::CircuitBreakerLayer), behind a
/// [`BufferRequest`](tower_claude_core::BufferRequest) through which it sees the model a request names.
#[derive(Clone)]
pub struct CircuitBreaker<S, C> {
    inner: S,
    config: Arc<Config>,
    classifier: C,
}

impl<S, C> CircuitBreaker<S, C> {
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

impl<S, R, C> Service<Request<RequestBody>> for CircuitBreaker<S, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: HttpBody<Data = Bytes> + Unpin,
    C: Classify<S::Error> + Clone,
{
    type Response = Response<ResponseBody<Observed<R, Watcher<C>>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, R, C>;

    /// Always ready: the call waits for the inner service's readiness itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let mut call = BreakerCall::new(self.config.clone(), self.classifier.clone());
        // No waker is needed: the future is polled as soon as it is returned (see `BufferRequest`), and asks again then.
        let cx = &mut Context::from_waker(Waker::noop());
        match call.admit(&mut self.inner, &mut request, cx) {
            Poll::Ready(Ok(tickets)) => {
                ResponseFuture::calling(call, self.inner.call(request), tickets)
            }
            Poll::Ready(Err(why)) => {
                // A service that was polled is not kept: it may hold a place in a queue, or have failed.
                self.inner = self.inner.clone();
                ResponseFuture::unsent(call, why)
            }
            Poll::Pending => {
                let service = take_ready(&mut self.inner);
                ResponseFuture::waiting(call, service, request)
            }
        }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for CircuitBreaker<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
