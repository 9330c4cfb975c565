//! A layer that sets the status and the body of rejections.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    Request, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::rejection::Rejection;

type Render = dyn Fn(&Rejection) -> Response<Bytes> + Send + Sync;

/// A layer that replaces the responses of inner layers that reject requests.
///
/// By default a [`Rejection`] looks like an error of the Claude API. Over another service, or
/// towards callers with an error format of their own, this layer gives it another status and body.
/// It belongs outside of the layers whose rejections it replaces, single ones or a whole stack.
/// Responses of the server pass through.
///
/// The response keeps the extensions [`Rejection`] and [`Class`](crate::Class), and the headers
/// `x-tower-claude-refused-by` and `retry-after` unless the function sets them. Outer layers
/// therefore still recognize it.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_claude_core::{RejectReason, Rejection, RejectionLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), std::convert::Infallible> {
/// let service = ServiceBuilder::new()
///     .layer(RejectionLayer::new(|rejection| {
///         let status = match rejection.status().as_u16() {
///             529 => StatusCode::SERVICE_UNAVAILABLE,
///             _ => rejection.status(),
///         };
///         let mut response = Response::new(format!("{{\"error\":\"{}\"}}", rejection.by));
///         *response.status_mut() = status;
///         response
///     }))
///     // The layers of this project, and the HTTP client, go here.
///     .service_fn(|_: Request<()>| async {
///         let reason = RejectReason::QueueFull { waiting: 9, limit: 9 };
///         let rejection = Rejection::new("my-layer", reason);
///         Ok::<_, std::convert::Infallible>(rejection.into_response::<Full<Bytes>>())
///     });
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!((response.status().as_u16(), response.headers().len()), (429, 2));
/// let body = response.into_body().collect().await?.to_bytes();
/// assert_eq!(body, r#"{"error":"my-layer"}"#);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct RejectionLayer {
    render: Option<Arc<Render>>,
}

impl RejectionLayer {
    /// Creates a layer that makes the response to a rejection by this function. An own
    /// `content-length` is replaced by the length of the body.
    pub fn new<F, B>(render: F) -> Self
    where
        F: Fn(&Rejection) -> Response<B> + Send + Sync + 'static,
        B: Into<Bytes>,
    {
        Self {
            render: Some(Arc::new(move |rejection| render(rejection).map(Into::into))),
        }
    }

    /// Creates a layer that changes nothing.
    pub const fn disabled() -> Self {
        Self { render: None }
    }
}

impl<S> Layer<S> for RejectionLayer {
    type Service = RenderRejection<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RenderRejection {
            inner,
            render: self.render.clone(),
        }
    }
}

impl fmt::Debug for RejectionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RejectionLayer")
            .field(&self.render.is_some())
            .finish()
    }
}

/// The service of a [`RejectionLayer`].
#[derive(Clone)]
pub struct RenderRejection<S> {
    inner: S,
    render: Option<Arc<Render>>,
}

impl<S, Q, B> Service<Request<Q>> for RenderRejection<S>
where
    S: Service<Request<Q>, Response = Response<B>>,
    B: From<Bytes>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = RenderRejectionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let render = self.render.clone();
        // Built in place, so that the inner future is not moved once more.
        RenderRejectionFuture {
            future: self.inner.call(request),
            render,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for RenderRejection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenderRejection")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of a [`RenderRejection`].
    #[must_use = "futures do nothing unless polled"]
    pub struct RenderRejectionFuture<F> {
        #[pin]
        future: F,
        render: Option<Arc<Render>>,
    }
}

impl<F, B, E> Future for RenderRejectionFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: From<Bytes>,
{
    type Output = Result<Response<B>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(render) = this.render else {
            return this.future.poll(cx);
        };
        let response = ready!(this.future.poll(cx))?;
        Poll::Ready(Ok(
            match response.extensions().get::<Rejection>().copied() {
                Some(rejection) => replaced(response, render(&rejection)),
                None => response,
            },
        ))
    }
}

/// Returns the new response, with the extensions and the headers of the old one that do not
/// describe its body.
fn replaced<B: From<Bytes>>(old: Response<B>, new: Response<Bytes>) -> Response<B> {
    let (old, _) = old.into_parts();
    let (mut head, body) = new.into_parts();
    for (name, value) in &old.headers {
        let is_of_body = [CONTENT_TYPE, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name);
        if !is_of_body && !head.headers.contains_key(name) {
            head.headers.append(name.clone(), value.clone());
        }
    }
    head.headers.insert(CONTENT_LENGTH, body.len().into());
    let own = std::mem::replace(&mut head.extensions, old.extensions);
    head.extensions.extend(own);
    Response::from_parts(head, body.into())
}

impl<F> fmt::Debug for RenderRejectionFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenderRejectionFuture")
            .finish_non_exhaustive()
    }
}
