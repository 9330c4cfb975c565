//! A layer that sets the deadline of each call.

use std::{
    any::TypeId,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    call::{Deadline, RequestTimeout},
    request_body::RequestBody,
};

/// A layer that gives each request a [`Deadline`].
///
/// It belongs outside of the layers that keep to the deadline. A request that has an earlier
/// deadline already keeps it, so an inner service can only shorten the time of an outer one.
///
/// The layer itself starts no timer and rejects nothing. It works with requests of any body type
/// that borrows nothing.
///
/// ```
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_claude_core::{Deadline, DeadlineLayer};
///
/// # async fn run() -> Result<(), std::convert::Infallible> {
/// let service = ServiceBuilder::new()
///     .layer(DeadlineLayer::new(Duration::from_secs(30)))
///     // The layers of this project, and the HTTP client, go here.
///     .service_fn(|request: http::Request<()>| async move {
///         Ok::<_, std::convert::Infallible>(request.extensions().get::<Deadline>().copied())
///     });
/// assert!(service.oneshot(http::Request::new(())).await?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct DeadlineLayer {
    time: Option<Duration>,
    request_timeout: Option<Duration>,
}

impl DeadlineLayer {
    /// Creates a layer that gives each call this much time, from the arrival of its request.
    ///
    /// With zero, the layers that keep to deadlines reject every call. A time that is too long for
    /// an instant to represent sets no deadline.
    pub const fn new(time: Duration) -> Self {
        Self {
            time: Some(time),
            request_timeout: None,
        }
    }

    /// Creates a layer that sets no deadline.
    pub const fn disabled() -> Self {
        Self {
            time: None,
            request_timeout: None,
        }
    }

    /// Sets the longest time in which the body of a request must arrive, where the layers inside
    /// read it. `None` by default, which leaves it to these layers.
    pub const fn with_request_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.request_timeout = timeout;
        self
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = SetDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SetDeadline {
            inner,
            layer: *self,
        }
    }
}

/// The service of a [`DeadlineLayer`].
#[derive(Clone, Copy, Debug)]
pub struct SetDeadline<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S, B> Service<Request<B>> for SetDeadline<S>
where
    S: Service<Request<B>>,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(deadline) = self
            .layer
            .time
            .and_then(|time| Instant::now().checked_add(time))
        {
            let extensions = request.extensions_mut();
            let earlier = extensions
                .get::<Deadline>()
                .map_or(deadline, |given| given.0.min(deadline));
            extensions.insert(Deadline(earlier));
        }
        if let Some(timeout) = self.layer.request_timeout
            && TypeId::of::<B>() != TypeId::of::<RequestBody>()
        {
            request.extensions_mut().insert(RequestTimeout(timeout));
        }
        self.inner.call(request)
    }
}
