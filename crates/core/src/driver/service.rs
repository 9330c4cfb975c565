//! The layer and the service of the driver.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    attempt_policy::{AttemptPolicy, Clock},
    body::Body,
    call_policy::CallPolicy,
    future::{ResponseFuture, State},
    policies::{Policies, Shared},
    progress::Progress,
};
use crate::{
    BoxError,
    buffer_request::buffer,
    classify::Classify,
    clone_source::{CloneSource, take_ready},
    request_body::RequestBody,
    response_body::ResponseBody,
};

/// A layer of a call policy, an attempt policy and the classifier that both read.
///
/// Use `()` for a policy that is not needed, and a pair for two, the outer one first. All services
/// of a layer and of its clones share the policies.
#[must_use = "layers do nothing until they wrap a service"]
pub struct DriverLayer<P, A, C> {
    policies: Arc<Policies<P, A, C>>,
    body_limit: usize,
}

impl<P, A, C> DriverLayer<P, A, C> {
    /// Creates the layer. A [`Class`](crate::Class) that an inner layer left in a response stands.
    pub fn new(call: P, attempts: A, classifier: C) -> Self {
        Self::with_reuse(call, attempts, classifier, true)
    }

    /// Creates the layer. With `reuses_class` false, the classifier overrules the class that an
    /// inner layer left, except for a local rejection.
    pub fn with_reuse(call: P, attempts: A, classifier: C, reuses_class: bool) -> Self {
        let policies = Arc::new(Policies {
            call,
            attempts,
            classifier,
            reuses_class,
            reporter: OnceLock::new(),
        });
        Self {
            policies,
            body_limit: RequestBody::DEFAULT_LIMIT,
        }
    }

    /// Buffers request bodies up to `bytes`. The default is [`RequestBody::DEFAULT_LIMIT`]. A
    /// longer body passes through as a stream, is not read by the policies and is sent once.
    pub const fn with_body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }
}

impl<S: Clone, P: CallPolicy, A, C> Layer<S> for DriverLayer<P, A, C> {
    type Service = Driver<S, P, A, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let clone_source = CloneSource::of(&inner);
        let policies = self.policies.clone();
        let shared = Arc::new(Shared {
            policies,
            body_limit: self.body_limit,
            clone_source,
        });
        Driver { inner, shared }
    }
}

impl<P, A, C> Clone for DriverLayer<P, A, C> {
    fn clone(&self) -> Self {
        Self {
            policies: self.policies.clone(),
            body_limit: self.body_limit,
        }
    }
}

impl<P, A, C> fmt::Debug for DriverLayer<P, A, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverLayer").finish_non_exhaustive()
    }
}

/// The one service of all layers: drives calls through its policies.
///
/// It is always ready, and waits for the readiness of the inner service in the call.
///
/// It accepts any request body, and buffers it as
/// [`BufferRequest`](crate::toolkit::BufferRequest) does before the policies see the request. A
/// request whose body arrives later is sent to a clone of the inner service, as another attempt is.
pub struct Driver<S, P, A, C> {
    inner: S,
    shared: Arc<Shared<S, P, A, C>>,
}

impl<S, P, A, C> Driver<S, P, A, C> {
    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, B, R, P, A, C> Service<Request<B>> for Driver<S, P, A, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: Classify<S::Error>,
{
    type Response = Response<ResponseBody<Body<R, P, A, C>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, R, P, A, C>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The request stays in its slot until it is sent, because each move of it costs time.
        let mut slot = Some(request);
        let any: &mut dyn Any = &mut slot;
        if let Some(slot) = any.downcast_mut() {
            return self.start(slot);
        }
        let request = slot.expect("a request");
        let timeout = self.shared.policies.call.request_timeout();
        match buffer(request, self.shared.body_limit, timeout) {
            Ok(request) => self.start(&mut Some(request)),
            Err(arriving) => ResponseFuture::collecting(self.shared.clone(), arriving),
        }
    }
}

impl<S, P, A, C> Driver<S, P, A, C> {
    /// Starts the call of the request in this slot.
    #[inline]
    fn start<R>(&mut self, slot: &mut Option<Request<RequestBody>>) -> ResponseFuture<S, R, P, A, C>
    where
        S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
        R: http_body::Body<Data = Bytes> + Unpin,
        P: CallPolicy,
        A: AttemptPolicy,
        C: Classify<S::Error>,
    {
        let request = slot.as_mut().expect("a request");
        let shared = self.shared.clone();
        let policies = &*shared.policies;
        let now = Instant::now();
        let mut progress = Progress::start(policies, request, now);
        let _entered = progress.enter_call();
        if let Some(rejection) = progress.check_start(policies, request) {
            return ResponseFuture::rejected(shared, progress, rejection);
        }
        // If anything is pending, the future polls it again with the waker of its task.
        let cx = &mut Context::from_waker(Waker::noop());
        let clock = &mut Clock::at(now);
        match progress.poll_send(policies, &mut self.inner, request, clock, cx) {
            Poll::Ready(Ok(())) => {
                let future = {
                    let _entered = progress.enter_attempt();
                    self.inner.call(slot.take().expect("a request"))
                };
                progress.called(policies);
                // Built here, because a constructor would move it once more.
                ResponseFuture {
                    state: State::Calling { future },
                    progress: Some(progress),
                    shared,
                }
            }
            Poll::Ready(Err(reason)) => {
                // A service must not be polled again after an error, and one that was polled ready
                // may hold a permit.
                self.inner = shared.clone_source.get();
                ResponseFuture::not_sent(shared, progress, reason)
            }
            Poll::Pending => {
                let service = take_ready(&mut self.inner);
                let request = slot.take().expect("a request");
                ResponseFuture::waiting(shared, progress, service, request)
            }
        }
    }
}

impl<S: Clone, P, A, C> Clone for Driver<S, P, A, C> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<S: fmt::Debug, P, A, C> fmt::Debug for Driver<S, P, A, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
