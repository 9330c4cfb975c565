//! Responses that an inner retry layer has held.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::{Either, FutureExt};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceBuilder};
use tower_claude_core::{Class, Classify, ClassifyResponse, ClaudeClassify, RequestBody};
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_retry::{Backoff, Jitter, RetryLayer};
use tower_claude_wire::ApiError;

use crate::api::*;

fn retry() -> RetryLayer {
    RetryLayer::new().with_backoff(Backoff::new(SECOND, SECOND, Jitter::None))
}

/// A classifier that fails a successful response with a certain header.
#[derive(Clone)]
struct ByHeader;

impl ClassifyResponse for ByHeader {
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Option<Class> {
        if headers.contains_key("x-bad") {
            return Some(Class::new(tower_claude_core::Kind::Overloaded));
        }
        ClaudeClassify::default().head(status, headers)
    }

    fn body(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Class {
        ClaudeClassify::default().body(status, headers, body)
    }

    fn stream_error(&self, error: &ApiError) -> Class {
        ClaudeClassify::default().stream_error(error)
    }
}

impl Classify<io::Error> for ByHeader {
    fn error(&self, error: &io::Error) -> Class {
        Classify::<io::Error>::error(&ClaudeClassify::default(), error)
    }
}

/// A service that sends requests for Opus through a retry layer, and all others directly.
#[derive(Clone)]
struct ByModel<A>(A, Api);

impl<A, B> Service<Request<RequestBody>> for ByModel<A>
where
    A: Service<Request<RequestBody>, Response = Response<B>, Error = io::Error>,
    B: http_body::Body<Data = Bytes, Error = io::Error> + Send + 'static,
    A::Future: Send + 'static,
{
    type Response = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>>;
    type Error = io::Error;
    type Future = futures_util::future::BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        assert!(self.0.poll_ready(cx).is_ready());
        self.1.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let answer = if request.body().model() == Some(OPUS) {
            let call = self.0.call(request);
            Either::Left(call.map(|got| got.map(|got| got.map(BodyExt::boxed_unsync))))
        } else {
            let call = self.1.call(request);
            Either::Right(call.map(|got| got.map(|got| got.map(BodyExt::boxed_unsync))))
        };
        answer.boxed()
    }
}

/// A response that was held does not count for the next response.
#[tokio::test(start_paused = true)]
async fn each_response_is_held_separately() {
    let api = Api::by_model(|model| match model {
        OPUS => Reply::fine().header("x-bad", "yes"),
        SONNET => Reply::stream([data(START), data(ERROR)]),
        _ => Reply::fine(),
    });
    let fallback = FallbackModelLayer::new([SONNET, HAIKU]).with_classifier(ByHeader);
    let stack = fallback.layer(ByModel(retry().layer(api.clone()), api.clone()));
    let answer = send(&stack, request()).await.unwrap();
    assert_eq!(api.models(), [OPUS, SONNET, HAIKU]);
    assert_eq!((answer.status, answer.by()), (200, HAIKU));
}

/// The fallback layer holds responses that the retry layer does not hold.
#[tokio::test(start_paused = true)]
async fn inactive_retry_layer_leaves_holding_to_the_fallback() {
    let api = opus(Reply::stream([data(START), data(ERROR)]));
    let stack = ServiceBuilder::new()
        .layer(retry())
        .layer(FallbackModelLayer::new([SONNET]))
        .layer(retry())
        .service(api.clone());
    let answer = send(&stack, request()).await.unwrap();
    assert_eq!((answer.status, answer.by()), (200, SONNET));
    assert_eq!(api.models(), [OPUS, SONNET]);
}

/// A response in which the model declined is a success for the retry layer, and a failure here.
#[tokio::test(start_paused = true)]
async fn refusal_forwarded_by_retry_leads_to_fallback() {
    let declined = r#"{"type":"message","content":[],"stop_reason":"refusal"}"#;
    let api = opus(Reply::json(200, declined));
    let fallback = FallbackModelLayer::new([SONNET]);
    for (falls_back, by) in [(true, SONNET), (false, "")] {
        let fallback = fallback.clone().with_refusals(falls_back);
        let stack = fallback.layer(retry().layer(api.clone()));
        assert_eq!(send(&stack, request()).await.unwrap().by(), by);
    }
}
