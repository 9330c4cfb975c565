//! A reqwest client as the innermost service.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response, Version, uri::Authority};
use pin_project_lite::pin_project;
use reqwest::{Body, Client};
use tower_claude_core::RequestBody;
use tower_service::Service;

use crate::{convert, execute::Execute};

/// A reqwest client as a `Service<http::Request<RequestBody>>`. See the [crate
/// documentation](crate).
///
/// `C` is a [`reqwest::Client`] or, with the feature `middleware`, a
/// `reqwest_middleware::ClientWithMiddleware`. Status, headers, extensions and bytes of the
/// response are unchanged. Its URL is in the extensions, and `reqwest::Response::from` restores it.
/// The HTTP version of the request is ignored, because the client chooses it.
///
/// The error type is the client's own. A URI that is not an absolute `http` or `https` URL gives an
/// error of the kind [`is_builder`](reqwest::Error::is_builder).
#[derive(Clone, Copy, Debug)]
pub struct HttpService<C> {
    client: C,
}

impl HttpService<Client> {
    /// Returns a service with a client of its own that does not follow redirects. See
    /// [`client_builder`](crate::client_builder).
    ///
    /// # Errors
    /// Returns the error of reqwest's [`build`](reqwest::ClientBuilder::build).
    pub fn recommended() -> Result<Self, reqwest::Error> {
        crate::client().map(Self::new)
    }
}

impl<C> HttpService<C> {
    /// Returns a service that sends requests with `client`, which should not follow redirects. See
    /// [`recommended`](HttpService::recommended).
    #[must_use]
    pub const fn new(client: C) -> Self {
        Self { client }
    }

    /// Returns a reference to the client.
    pub const fn get_ref(&self) -> &C {
        &self.client
    }

    /// Returns the client.
    pub fn into_inner(self) -> C {
        self.client
    }
}

impl<C: Execute> Service<Request<RequestBody>> for HttpService<C> {
    type Response = Response<Body>;
    type Error = C::Error;
    type Future = ResponseFuture<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        // The client chooses the version. That of an incoming request may differ from the version
        // of the connection, and the client would refuse to send the request.
        *request.version_mut() = Version::default();
        let authority = request.uri().authority().cloned();
        ResponseFuture {
            authority,
            state: match self.client.execute(convert::outgoing(request)) {
                Ok(future) => State::Sent { future },
                Err(error) => State::Failed { error: Some(error) },
            },
        }
    }
}

pin_project! {
    /// The future of [`HttpService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        authority: Option<Authority>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Sent { #[pin] future: F },
        Failed { error: Option<reqwest::Error> },
    }
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<reqwest::Response, E>>,
    E: From<reqwest::Error>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.state.project() {
            StateProjection::Sent { future } => {
                let response = ready!(future.poll(cx))?;
                Poll::Ready(Ok(convert::incoming(response, this.authority.as_ref())))
            }
            StateProjection::Failed { error } => {
                let error = error.take().expect("polled after completion");
                Poll::Ready(Err(error.into()))
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
