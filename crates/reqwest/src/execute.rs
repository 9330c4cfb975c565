//! The trait of clients.

use std::task::{Context, Poll};

use http::Request;
use reqwest::{Body, Client, Response};
use tower_service::Service;

/// A client that sends HTTP requests and answers with reqwest's responses.
///
/// Implemented for [`reqwest::Client`] and, with the feature `middleware`, for
/// `reqwest_middleware::ClientWithMiddleware`, whose middleware gets the request's extensions.
/// Implement it for your own client to use it in [`HttpService`](crate::HttpService).
pub trait Execute {
    /// The error of the client.
    type Error: From<reqwest::Error>;
    /// The future of a call.
    type Future: Future<Output = Result<Response, Self::Error>>;

    /// Polls the client for readiness, by the rules of [`Service::poll_ready`].
    ///
    /// # Errors
    /// Returns the error of the client.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>>;

    /// Sends the request.
    ///
    /// # Errors
    /// Returns an error if reqwest cannot send the request, for example because its URI is
    /// relative.
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
        // The client's own `Service` starts with empty extensions.
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
