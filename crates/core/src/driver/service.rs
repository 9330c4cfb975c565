//! The layer and the service of the driver.

use std::{
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
    buffer_request::BufferRequest,
    classify::Classify,
    clone_source::{CloneSource, take_ready},
    request_body::RequestBody,
    response_body::ResponseBody,
};

/// The service that a [`DriverLayer`] makes: buffers the request, then drives it through the
/// policies.
pub type Driven<S, P, A, C> = BufferRequest<Driver<S, P, A, C>>;

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
    type Service = Driven<S, P, A, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let clone_source = CloneSource::of(&inner);
        let policies = self.policies.clone();
        let shared = Arc::new(Shared {
            policies,
            clone_source,
        });
        let timeout = shared.policies.call.request_timeout();
        BufferRequest::with_limit(Driver { inner, shared }, self.body_limit).with_timeout(timeout)
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
/// It is always ready, and waits for the readiness of the inner service in the call. It stands
/// behind a [`BufferRequest`].
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

impl<S, R, P, A, C> Service<Request<RequestBody>> for Driver<S, P, A, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
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
    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let shared = self.shared.clone();
        let policies = &*shared.policies;
        let now = Instant::now();
        let mut progress = Progress::start(policies, &mut request, now);
        let _entered = progress.enter_call();
        let rejection = request.body().rejection().or_else(|| {
            let (state, call) = (&mut progress.state, &progress.call);
            policies.call.check_deadline(state, call)
        });
        if let Some(rejection) = rejection {
            return ResponseFuture::rejected(shared, progress, rejection);
        }
        // If anything is pending, the future polls it again with the waker of its task.
        let cx = &mut Context::from_waker(Waker::noop());
        let clock = &mut Clock::at(now);
        match progress.poll_send(policies, &mut self.inner, &mut request, clock, cx) {
            Poll::Ready(Ok(())) => {
                let future = {
                    let _entered = progress.enter_attempt();
                    self.inner.call(request)
                };
                progress.called(policies);
                // Built here, because a constructor would move it once more.
                ResponseFuture {
                    state: State::Calling { future },
                    progress,
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
