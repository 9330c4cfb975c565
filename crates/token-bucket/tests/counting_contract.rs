//! The contract suite for `CountTokensLayer`. A service beside the script answers the counts, so
//! that the script sees the messages only.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Layer;
use tower_claude_core::{ClaudeClassify, Endpoint, RequestBody, driver::DriverLayer};
use tower_claude_tests::{Broken, FrameBody};
use tower_claude_token_bucket::CountTokensLayer;
use tower_service::Service;

#[derive(Clone, Debug)]
struct Layered(CountTokensLayer);

#[derive(Clone, Debug)]
struct Counts<S>(S);

pin_project! {
    struct Answered<F> {
        #[pin]
        call: Option<F>,
    }
}

/// A driver without policies. As in every use of the layer, a driver is inside of it.
type Inner = DriverLayer<(), (), ClaudeClassify>;

impl<S: Clone> Layer<S> for Layered {
    type Service = <CountTokensLayer as Layer<<Inner as Layer<Counts<S>>>::Service>>::Service;

    fn layer(&self, inner: S) -> Self::Service {
        let driver = Inner::new((), (), ClaudeClassify::default());
        self.0.layer(driver.layer(Counts(inner)))
    }
}

impl<S> Service<Request<RequestBody>> for Counts<S>
where
    S: Service<Request<RequestBody>, Response = Response<FrameBody>, Error = Broken>,
{
    type Response = S::Response;
    type Error = Broken;
    type Future = Answered<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let counts = Endpoint::of(request.uri().path()) == Endpoint::CountTokens;
        Answered {
            call: (!counts).then(|| self.0.call(request)),
        }
    }
}

impl<F> Future for Answered<F>
where
    F: Future<Output = Result<Response<FrameBody>, Broken>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project().call.as_pin_mut() {
            Some(call) => call.poll(cx),
            None => Poll::Ready(Ok(Response::new(FrameBody::full(r#"{"input_tokens":9}"#)))),
        }
    }
}

tower_claude_tests::contract!(Layered(CountTokensLayer::new()), stateless);
