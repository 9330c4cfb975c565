//! The service and its future.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_claude_core::{Rejection, RequestBody, ResponseBody, toolkit::take_ready};
use tower_service::Service;

use crate::{
    body::{Body, CacheBody},
    call::{CacheStatus, Found, Lookup},
    coalesce::{
        fetch_future::{FetchFuture, FetchResult},
        leader_call::{CallTable, LeaderCall},
    },
    config::Config,
    detach::{Detach, Inline},
    store::{Store, memory::MemoryStore},
};

/// A service that answers equal requests once. [`CacheLayer`](crate::CacheLayer) makes it, behind a
/// [`BufferRequest`](tower_claude_core::toolkit::BufferRequest) that buffers the request bodies.
pub struct Cache<S, D = Inline, T = MemoryStore>
where
    S: Service<Request<RequestBody>>,
{
    inner: S,
    calls: Arc<CallTable<S>>,
    config: Arc<Config<T>>,
    detach: D,
}

impl<S, D, T> Cache<S, D, T>
where
    S: Service<Request<RequestBody>>,
{
    pub(crate) fn new(inner: S, config: Arc<Config<T>>, detach: D) -> Self {
        Self {
            inner,
            calls: Arc::default(),
            config,
            detach,
        }
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, R, D, T> Service<Request<RequestBody>> for Cache<S, D, T>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
    D: Detach<LeaderCall<S>> + Clone,
    T: Store,
{
    type Response = Response<ResponseBody<Body<R>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, D, T>;

    /// Always ready: a hit does not need the inner service, and a miss waits for its readiness in
    /// the call.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        if let Some(rejection) = request.body().rejection() {
            let rejection = Some(Box::new(rejection));
            return ResponseFuture::new(State::Rejected { rejection });
        }
        if self.config.settings.policy.may_apply(&request) {
            let (config, detach) = (self.config.clone(), self.detach.clone());
            let (service, calls) = (self.inner.clone(), self.calls.clone());
            let lookup = Lookup::new(service, calls, config, request, detach);
            return ResponseFuture::new(State::Lookup {
                lookup: Some(Box::new(lookup)),
            });
        }
        // No waker is needed, because the future polls for readiness again.
        let mut cx = Context::from_waker(Waker::noop());
        match self.inner.poll_ready(&mut cx) {
            // Built in place, so that the inner future is not moved once more.
            Poll::Ready(Ok(())) => ResponseFuture {
                state: State::Calling {
                    future: self.inner.call(request),
                    bypassed: false,
                },
            },
            Poll::Ready(Err(error)) => {
                // A service must not be polled again after an error, so the next call gets a new
                // clone.
                self.inner = self.inner.clone();
                ResponseFuture::new(State::Unready { error: Some(error) })
            }
            Poll::Pending => ResponseFuture::new(State::Waiting {
                waiting: Some(Box::new((take_ready(&mut self.inner), request))),
                bypassed: false,
            }),
        }
    }
}

impl<S, D, T> Clone for Cache<S, D, T>
where
    S: Service<Request<RequestBody>> + Clone,
    D: Clone,
{
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            calls: self.calls.clone(),
            config: self.config.clone(),
            detach: self.detach.clone(),
        }
    }
}

impl<S, D, T> fmt::Debug for Cache<S, D, T>
where
    S: Service<Request<RequestBody>> + fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`Cache`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, D, T>
    where
        S: Service<Request<RequestBody>>,
        T: Store,
    {
        #[pin]
        state: State<S, D, T>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, D, T>
    where
        S: Service<Request<RequestBody>>,
        T: Store,
    {
        /// Without the cache: waits for the readiness of the inner service.
        // Boxed, like the others below: larger than the state of a request that passes through.
        Waiting { waiting: Option<Box<(S, Request<RequestBody>)>>, bypassed: bool },
        /// Without the cache: waits for the response head.
        Calling { #[pin] future: S::Future, bypassed: bool },
        /// Without the cache: the inner service failed to become ready.
        Unready { error: Option<S::Error> },
        /// The body of the request failed while it was read.
        Rejected { rejection: Option<Box<Rejection>> },
        /// Waits for the store.
        Lookup { lookup: Option<Box<Lookup<S, D, T>>> },
        /// Waits for a shared fetch.
        Fetch { fetch: Pin<Box<FetchFuture<S, D, T>>> },
        Done,
    }
}

impl<S, D, T> ResponseFuture<S, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    const fn new(state: State<S, D, T>) -> Self {
        Self { state }
    }
}

impl<S, R, D, T> Future for ResponseFuture<S, D, T>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
    D: Detach<LeaderCall<S>>,
    T: Store,
{
    type Output = Result<Response<ResponseBody<Body<R>>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let result = loop {
            let next = match state.as_mut().project() {
                StateProjection::Waiting { waiting, bypassed } => {
                    let (service, _) = &mut **waiting.as_mut().expect("not called before");
                    ready!(service.poll_ready(cx))?;
                    let (mut service, request) = *waiting.take().expect("looked at before");
                    State::Calling {
                        future: service.call(request),
                        bypassed: *bypassed,
                    }
                }
                StateProjection::Calling { future, bypassed } => {
                    let status = bypassed.then_some(CacheStatus::Bypass);
                    // Returned from here, so that the response is moved only once.
                    return match future.poll(cx) {
                        Poll::Ready(Ok(response)) => {
                            state.set(State::Done);
                            Poll::Ready(Ok(passing(response, status)))
                        }
                        Poll::Ready(Err(error)) => {
                            state.set(State::Done);
                            Poll::Ready(Err(error))
                        }
                        Poll::Pending => Poll::Pending,
                    };
                }
                StateProjection::Unready { error } => {
                    break Err(error.take().expect("polled after completion"));
                }
                StateProjection::Rejected { rejection } => {
                    let rejection = rejection.take().expect("polled after completion");
                    break Ok(rejection.into_response());
                }
                StateProjection::Lookup { lookup: slot } => {
                    let lookup = slot.as_mut().expect("set in this state");
                    match ready!(lookup.poll(cx)) {
                        Found::Hit(entry) => {
                            break Ok(lookup.call.hit(entry).map(CacheBody::into_body));
                        }
                        Found::Fetch(subscriber) => {
                            let lookup = *slot.take().expect("set in this state");
                            State::Fetch {
                                fetch: Box::pin(FetchFuture::new(subscriber, lookup)),
                            }
                        }
                        Found::Inner { bypassed } => {
                            let lookup = *slot.take().expect("set in this state");
                            let request = lookup.call.request.expect("kept until it is sent");
                            State::Waiting {
                                waiting: Some(Box::new((lookup.service, request))),
                                bypassed,
                            }
                        }
                    }
                }
                StateProjection::Fetch { fetch } => match ready!(fetch.as_mut().poll(cx)) {
                    FetchResult::Cache(response) => break Ok(response.map(CacheBody::into_body)),
                    FetchResult::Own(response) => {
                        break Ok(passing(response, Some(CacheStatus::Miss)));
                    }
                    FetchResult::Error(error) => break Err(error),
                    FetchResult::Rejected(rejection) => {
                        let mut response = rejection.into_response();
                        CacheStatus::Miss.label(response.headers_mut());
                        break Ok(response);
                    }
                    FetchResult::Bypass(service, request) => State::Waiting {
                        waiting: Some(Box::new((service, request))),
                        bypassed: true,
                    },
                },
                StateProjection::Done => panic!("polled after completion"),
            };
            state.set(next);
        };
        state.set(State::Done);
        Poll::Ready(result)
    }
}

/// Returns the inner service's own response. `status` is `None` if the request carries no marker.
#[inline]
fn passing<R>(
    mut response: Response<R>,
    status: Option<CacheStatus>,
) -> Response<ResponseBody<Body<R>>>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
{
    if let Some(status) = status {
        status.label(response.headers_mut());
    }
    response.map(|body| ResponseBody::inner(Body::passing(body)))
}

impl<S, D, T> fmt::Debug for ResponseFuture<S, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
