//! What a client can do.

use std::task::{Context, Poll};

use http::Request;
use reqwest::{Body, Client, Response};
use tower_service::Service;

/// A client that sends HTTP requests and answers with reqwest's responses.
///
/// For [`reqwest::Client`] and, with the feature `middleware`, for `reqwest_middleware::ClientWithMiddleware`, whose
/// middleware finds the request's extensions in its own. Implement it for a client of yours to use it in
/// [`HttpService`](crate::HttpService).
pub trait Execute {
    /// The client's own error.
    type Error: From<reqwest::Error>;
    /// The call under way.
    type Future: Future<Output = Result<Response, Self::Error>>;

    /// Whether the client can take a request, by the rules of [`Service::poll_ready`].
    ///
    /// # Errors
    /// The client's.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>>;

    /// Sends the request.
    ///
    /// # Errors
    /// When it is no request that reqwest can send: the URI is relative, say.
    fn execute(&mut self, request: Request<Body>) -> Result<Self::Future, reqwest::Error>;
}

impl Execute for Client {
    type Error = reqwest::Error;
    type Future = <Self as Service<reqwest::Request>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        Service::poll_ready(self, cx)
    }

    fn execute(&mut self, request: Request<Body>) -> Result<Self::Future, reqwest::Error> {
        Ok(self.call(request.try_into()?))
    }
}

#[cfg(feature = "middleware")]
impl Execute for reqwest_middleware::ClientWithMiddleware {
    type Error = reqwest_middleware::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = reqwest_middleware::Result<Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<reqwest::Request>::poll_ready(self, cx)
    }

    fn execute(&mut self, request: Request<Body>) -> Result<Self::Future, reqwest::Error> {
        // Its own `Service` would begin with empty extensions.
        let mut extensions = request.extensions().clone();
        let request = reqwest::Request::try_from(request)?;
        let client = self.clone();
        Ok(Box::pin(async move {
            client
                .execute_with_extensions(request, &mut extensions)
                .await
        }))
    }
}
