//! The service that buffers request bodies.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header::CONTENT_LENGTH, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use crate::{
    BoxError,
    body_failure::BodyFailure,
    call::{Call, RequestTimeout},
    clone_source::take_ready,
    collect::Collect,
    request_body::{RequestBody, downcast},
};

/// A service that buffers request bodies. A layer that has its own service wraps that service in a
/// `BufferRequest`. A [`Driver`](crate::driver::Driver) buffers by itself.
///
/// It accepts `Request<B>` for any body and calls the inner service with a `Request<RequestBody>`.
/// A body that is already a [`RequestBody`] is forwarded at no cost, so only the outermost layer of
/// a stack buffers. A body over the limit is forwarded as a stream, which is never an error and is
/// never sent again.
///
/// Reading ends at the [`Deadline`](crate::Deadline) of the request and after the
/// [timeout](crate::DeadlineLayer::with_request_timeout) of an outer layer. The inner service then
/// gets a body with a [`rejection`](RequestBody::rejection), as for a body that ends with an error.
///
/// If the body is there, the inner service is called immediately, as by the middleware of tower.
/// That needs neither a clone of the service nor a place to store the request. Otherwise it is
/// called when the body is read.
#[derive(Clone, Debug)]
pub struct BufferRequest<S> {
    inner: S,
    limit: usize,
}

impl<S> BufferRequest<S> {
    /// Wraps a service. Bodies up to [`RequestBody::DEFAULT_LIMIT`] bytes are buffered.
    #[must_use]
    pub const fn new(inner: S) -> Self {
        Self::with_limit(inner, RequestBody::DEFAULT_LIMIT)
    }

    /// Wraps a service. Bodies up to `limit` bytes are buffered.
    #[must_use]
    pub const fn with_limit(inner: S, limit: usize) -> Self {
        Self { inner, limit }
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for BufferRequest<S>
where
    S: Service<Request<RequestBody>> + Clone,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BufferRequestFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = match buffer(request, self.limit, None) {
            Ok(request) => State::Call {
                future: self.inner.call(request),
            },
            Err(arriving) => State::Collect {
                pending: Box::new((arriving, take_ready(&mut self.inner))),
            },
        };
        BufferRequestFuture { state }
    }
}

/// Buffers the body of a request, up to `limit` bytes. Returns the request if its body is there or
/// is a [`RequestBody`] already. Otherwise returns the reading to finish, which ends after
/// `timeout`.
#[inline]
pub(crate) fn buffer<B>(
    request: Request<B>,
    limit: usize,
    timeout: Option<Duration>,
) -> Result<Request<RequestBody>, Box<ArrivingRequest>>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let request = match downcast(request) {
        Ok(request) => return Ok(request),
        Err(request) => request,
    };
    let (head, body) = Request::into_parts(request);
    let mut collect = Collect::new(body, limit);
    // If the body is pending, the future polls it again with the waker of its task.
    let cx = &mut Context::from_waker(Waker::noop());
    match Pin::new(&mut collect).poll(cx) {
        Poll::Ready(body) => {
            let body = whole(body, &head);
            Ok(Request::from_parts(head, body))
        }
        Poll::Pending => {
            let now = Instant::now();
            let left = head.extensions.get::<Arc<Call>>().cloned();
            let call = left.unwrap_or_else(|| Arc::new(Call::new(&head.extensions, now)));
            let outer = head.extensions.get::<RequestTimeout>();
            let timeouts = timeout.into_iter().chain(outer.map(|outer| outer.0));
            let timeout = timeouts.min().and_then(|timeout| now.checked_add(timeout));
            let until = call.deadline().into_iter().chain(timeout).min();
            Err(Box::new(ArrivingRequest {
                collect,
                until,
                timer: None,
                request: Some((head, call)),
            }))
        }
    }
}

/// Returns the body, or a failed one if it is shorter than its `content-length`. A client cannot
/// send such a body, and the server would wait for the rest of it.
fn whole(body: RequestBody, head: &Parts) -> RequestBody {
    let length = head.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let is_short = |length| body.bytes().is_some_and(|bytes| bytes.len() < length);
    if length.is_some_and(is_short) {
        return RequestBody::unread(BodyFailure::Broken);
    }
    body
}

/// A request whose body is being read.
pub(crate) struct ArrivingRequest {
    collect: Collect,
    /// The end of the time to read the body.
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    request: Option<(Parts, Arc<Call>)>,
}

impl ArrivingRequest {
    /// Returns the request when its body was read, has failed or was not read in time.
    pub(crate) fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Request<RequestBody>> {
        let mut body = match Pin::new(&mut self.collect).poll(cx) {
            Poll::Ready(body) => body,
            Poll::Pending => {
                let Some(until) = self.until else {
                    return Poll::Pending;
                };
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(sleep_until(until)));
                ready!(timer.as_mut().poll(cx));
                RequestBody::unread(BodyFailure::TimedOut)
            }
        };
        let (head, call) = self.request.take().expect("polled after completion");
        call.set_read_since_arrival();
        body = whole(body, &head);
        body.set_call(call);
        Poll::Ready(Request::from_parts(head, body))
    }
}

pin_project! {
    /// The future of [`BufferRequest`].
    #[must_use = "futures do nothing unless polled"]
    pub struct BufferRequestFuture<S>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        state: State<S>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S>
    where
        S: Service<Request<RequestBody>>,
    {
        // Boxed, because most bodies are there and this would enlarge every future.
        Collect { pending: Box<(Box<ArrivingRequest>, S)> },
        Call { #[pin] future: S::Future },
    }
}

impl<S> Future for BufferRequestFuture<S>
where
    S: Service<Request<RequestBody>>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let future = match state.as_mut().project() {
                StateProjection::Collect { pending } => {
                    let (arriving, service) = &mut **pending;
                    service.call(ready!(arriving.poll_request(cx)))
                }
                StateProjection::Call { future } => return future.poll(cx),
            };
            state.set(State::Call { future });
        }
    }
}

impl<S> std::fmt::Debug for BufferRequestFuture<S>
where
    S: Service<Request<RequestBody>>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufferRequestFuture")
            .finish_non_exhaustive()
    }
}

/// The bounds that every layer of this project puts on its inner service.
///
/// `R` is the response body. The trait is implemented for every service that fits. See [`check`].
pub trait HttpInner<R>:
    Service<Request<RequestBody>, Response = http::Response<R>> + Clone
where
    R: Body<Data = Bytes> + Unpin,
{
}

impl<S, R> HttpInner<R> for S
where
    S: Service<Request<RequestBody>, Response = http::Response<R>> + Clone,
    R: Body<Data = Bytes> + Unpin,
{
}

/// Returns the service unchanged, and checks at compile time that the layers accept it.
///
/// If the service does not fit, the compiler names the missing bound here, and not somewhere inside
/// a stack of layers.
///
/// | Missing bound | Remedy |
/// |---|---|
/// | `Service<..>` for `reqwest::Client` | Wrap it in the adaptor: `HttpService::new(client)` |
/// | `Service<..>` for hyper-util's `Client<_, Full<Bytes>>` | Use `Client<_, RequestBody>` |
/// | `Clone` | Wrap the service in tower's `Buffer` or in a `BoxCloneSyncService` |
/// | `Unpin` for the response body, as of tower-http's `ResponseBodyTimeoutLayer` | Box the body: `.map_response(\|response: http::Response<_>\| response.map(Box::pin))` |
///
/// The request body of the outermost layer may be any body, and need not be `Unpin`.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower_claude_core::{RequestBody, check};
///
/// let service = check(tower::service_fn(|_: Request<RequestBody>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("{}"))))
/// }));
/// # let _ = service;
/// ```
pub const fn check<S, R>(service: S) -> S
where
    S: HttpInner<R>,
    R: Body<Data = Bytes> + Unpin,
{
    service
}
