//! The front hall of every layer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{BoxError, Collect, RequestBody, request_body::take_if_request_body, take_ready};

/// Takes `Request<B>` for any `B` and gives `Request<RequestBody>` inward. Costs nothing when the
/// body is a [`RequestBody`] already, so only the outermost layer of a stack ever buffers.
///
/// A body over the limit passes through as a stream: never an error, never retried.
///
/// Nothing happens before the future's first poll. Behind the outermost hall of a stack that poll has come:
/// there a call acts at once, and so needs neither a clone of what it calls nor a place to keep the request.
/// The service behind a hall may count on it that its future is polled as soon as it is made.
#[derive(Clone, Debug)]
pub struct BufferRequest<S> {
    inner: S,
    limit: usize,
}

impl<S> BufferRequest<S> {
    /// Buffers up to [`RequestBody::DEFAULT_LIMIT`] bytes.
    #[must_use]
    pub const fn new(inner: S) -> Self {
        Self::with_limit(inner, RequestBody::DEFAULT_LIMIT)
    }

    /// Buffers up to `limit` bytes.
    #[must_use]
    pub const fn with_limit(inner: S, limit: usize) -> Self {
        Self { inner, limit }
    }

    /// The service behind the hall.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service behind the hall.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service behind the hall.
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
        match take_if_request_body(body) {
            // Returned from where it is made, so that the future is not moved once more.
            Ok(body) if body.is_under_way() => BufferRequestFuture {
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
                    collect: RequestBody::collect(body, self.limit),
                    head: Some(head),
                    service: take_ready(&mut self.inner),
                },
            },
        }
    }
}

pin_project! {
    /// Future of [`BufferRequest`].
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
            request.body_mut().set_under_way();
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

/// What every layer of this project asks of the service inside it, under one name.
///
/// `R` is the response body. See [`check`].
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

/// Returns the service as it is. When it does not fit the layers, the compiler names the missing
/// bound here instead of failing somewhere inside a stack.
///
/// | it says that | then |
/// |---|---|
/// | `reqwest::Client` is no `Service<http::Request<RequestBody>>` | wrap it in the adaptor: `HttpService::new(client)` |
/// | hyper-util's `Client<_, Full<Bytes>>` is none | give it the layers' body: `Client<_, RequestBody>` |
/// | `Clone` is missing | tower's `buffer` around that service, or a box that can be cloned (`BoxCloneSyncService`) |
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
