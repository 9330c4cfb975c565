//! The service that buffers request bodies.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    BoxError,
    clone_source::take_ready,
    collect::Collect,
    request_body::{RequestBody, downcast},
};

/// A service that buffers request bodies. Every layer wraps its own service in it.
///
/// It accepts `Request<B>` for any body and calls the inner service with a `Request<RequestBody>`.
/// A body that is already a [`RequestBody`] is forwarded at no cost, so only the outermost layer of
/// a stack buffers. A body over the limit is forwarded as a stream, which is never an error and is
/// never sent again.
///
/// The inner service is called when the future is first polled. Further `BufferRequest` services
/// inside it are called during that poll. They call their own inner service immediately, and so
/// need neither a clone of it nor a place to store the request. The inner service may therefore
/// assume that the future it returns is polled immediately.
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
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BufferRequestFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        match downcast(body) {
            // Built in place, so that the future is not moved once more.
            Ok(body) if body.is_started() => BufferRequestFuture {
                state: State::Call {
                    future: self.inner.call(Request::from_parts(head, body)),
                },
            },
            Ok(body) => BufferRequestFuture {
                state: State::Start {
                    request: Some(Request::from_parts(head, body)),
                    service: take_ready(&mut self.inner),
                },
            },
            Err(body) => BufferRequestFuture {
                state: State::Collect {
                    collect: Collect::new(body, self.limit),
                    head: Some(head),
                    service: take_ready(&mut self.inner),
                },
            },
        }
    }
}

pin_project! {
    /// The future of [`BufferRequest`].
    #[must_use = "futures do nothing unless polled"]
    pub struct BufferRequestFuture<S, B>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B>
    where
        S: Service<Request<RequestBody>>,
    {
        Start { request: Option<Request<RequestBody>>, service: S },
        Collect { collect: Collect<B>, head: Option<Parts>, service: S },
        Call { #[pin] future: S::Future },
    }
}

impl<S, B> Future for BufferRequestFuture<S, B>
where
    S: Service<Request<RequestBody>>,
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let (mut request, service) = match state.as_mut().project() {
                StateProjection::Start { request, service } => {
                    (request.take().expect("polled after completion"), service)
                }
                StateProjection::Collect {
                    collect,
                    head,
                    service,
                } => {
                    let body = ready!(Pin::new(collect).poll(cx));
                    let head = head.take().expect("polled after completion");
                    (Request::from_parts(head, body), service)
                }
                StateProjection::Call { future } => return future.poll(cx),
            };
            request.body_mut().set_started();
            let future = service.call(request);
            state.set(State::Call { future });
        }
    }
}

impl<S, B> std::fmt::Debug for BufferRequestFuture<S, B>
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
    R: Body<Data = Bytes>,
{
}

impl<S, R> HttpInner<R> for S
where
    S: Service<Request<RequestBody>, Response = http::Response<R>> + Clone,
    R: Body<Data = Bytes>,
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
    R: Body<Data = Bytes>,
{
    service
}
