//! The service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    attempt_policy::AttemptPolicy, body::Rest, call_policy::CallPolicy, call_state::CallState,
    future::DriverFuture,
};
use crate::{Classify, CloneSource, RequestBody, ResponseBody, take_ready};

/// Drives calls through its stages. Behind a [`BufferRequest`](crate::BufferRequest).
pub struct Driver<S, Re, G, C> {
    inner: S,
    shared: Arc<Shared<S, Re, G, C>>,
}

impl<S: Clone, Re, G, C> Clone for Driver<S, Re, G, C> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
        }
    }
}

pub(super) struct Shared<S, Re, G, C> {
    pub(super) stages: Arc<Policies<Re, G, C>>,
    pub(super) spare: CloneSource<S>,
}

pub(super) struct Policies<Re, G, C> {
    pub(super) resends: Re,
    pub(super) guards: G,
    pub(super) classifier: C,
    /// Whether to take the class that an inner layer left.
    pub(super) reuse_class: bool,
}

impl<S: Clone, Re, G, C> Driver<S, Re, G, C> {
    /// Around this service.
    pub fn new(inner: S, resends: Re, guards: G, classifier: C, reuse_class: bool) -> Self {
        let stages = Arc::new(Policies {
            resends,
            guards,
            classifier,
            reuse_class,
        });
        let spare = CloneSource::of(&inner);
        Self {
            inner,
            shared: Arc::new(Shared { stages, spare }),
        }
    }
}

impl<S, R, Re, G, C> Service<Request<RequestBody>> for Driver<S, Re, G, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: Body<Data = Bytes> + Unpin,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: Classify<S::Error>,
{
    type Response = Response<ResponseBody<Rest<R, Re, G, C>>>;
    type Error = S::Error;
    type Future = DriverFuture<S, R, Re, G, C>;

    /// Always ready: the call waits for the inner service itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let shared = self.shared.clone();
        let stages = &*shared.stages;
        let now = Instant::now();
        let mut call = CallState::begin(stages, &mut request, now);
        if let Some(refusal) = stages.resends.too_late(&mut call.trip, &call.context) {
            return DriverFuture::late(shared, call, refusal);
        }
        // No waker is needed: the future is polled as soon as it is returned (see `BufferRequest`), and asks again then.
        let cx = &mut Context::from_waker(Waker::noop());
        match call.poll_send(stages, &mut self.inner, &mut request, &mut Some(now), cx) {
            Poll::Ready(Ok(())) => DriverFuture::calling(shared, call, self.inner.call(request)),
            Poll::Ready(Err(why)) => {
                // A service is not polled again after an error: the next call has a fresh one.
                self.inner = shared.spare.get();
                DriverFuture::unsent(shared, call, why)
            }
            Poll::Pending => {
                let service = take_ready(&mut self.inner);
                DriverFuture::waiting(shared, call, service, request)
            }
        }
    }
}

impl<S: fmt::Debug, Re, G, C> fmt::Debug for Driver<S, Re, G, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
