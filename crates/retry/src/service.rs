//! The service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_claude_core::{Classify, CloneSource, RequestBody, ResponseBody, take_ready};
use tower_service::Service;

use crate::{Body, ResponseFuture, call::RetryCall, layer::Config, state::State};

/// Sends failed requests again. Made by [`RetryLayer`](crate::RetryLayer), behind a
/// [`BufferRequest`](tower_claude_core::BufferRequest) that makes every request body one that can be re-sent.
#[derive(Clone)]
pub struct Retry<S, C> {
    inner: S,
    shared: Arc<Shared<S>>,
    classifier: C,
}

/// What all calls through one service share.
pub(crate) struct Shared<S> {
    pub(crate) config: Arc<Config>,
    pub(crate) spare: CloneSource<S>,
}

impl<S, C> Retry<S, C> {
    pub(crate) fn new(inner: S, config: Arc<Config>, classifier: C) -> Self
    where
        S: Clone,
    {
        let spare = CloneSource::of(&inner);
        Self {
            inner,
            shared: Arc::new(Shared { config, spare }),
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

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let (config, classifier) = (self.shared.config.clone(), self.classifier.clone());
        let mut call = RetryCall::new(config, classifier, &request);
        let shared = self.shared.clone();
        if let Some(refusal) = call.came_too_late() {
            return ResponseFuture::new(shared, call, State::over(Ok(refusal)));
        }
        // No waker is needed: the future is polled as soon as it is returned (see `BufferRequest`), and asks again then.
        match self
            .inner
            .poll_ready(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(Ok(())) => {
                call.launch_first(&mut request);
                ResponseFuture::calling(shared, call, self.inner.call(request))
            }
            Poll::Ready(Err(error)) => {
                // A service is not polled again after an error: the next call has a fresh one.
                self.inner = shared.spare.get();
                call.wait_with(request);
                ResponseFuture::new(shared, call, State::over(Err(error)))
            }
            Poll::Pending => {
                call.wait_with(request);
                let service = take_ready(&mut self.inner);
                ResponseFuture::new(shared, call, State::Waiting { service })
            }
        }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Retry<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
