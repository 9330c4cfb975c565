//! Around a handler, as axum uses layers: `layer()` is called for each request, the error is
//! `Infallible`, and the body comes off a socket.

use std::{
    convert::Infallible,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt;
use tower_claude_core::{ClaudeClassify, RequestBody};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{Limiter, Limits};
use tower_claude_retry::{Backoff, Jitter, RetryLayer};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;

use crate::{
    bounded,
    common::{SONNET, assert_idle, request_to, rpm, send},
};

/// Fails every other time.
#[derive(Clone, Default)]
struct Handler {
    calls: Arc<AtomicUsize>,
}

impl Handler {
    async fn answer(
        self,
        request: Request<RequestBody>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let model = request.body().model().unwrap_or("none").to_owned();
        let (status, text) = if calls.is_multiple_of(2) {
            (
                529,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#
                    .to_owned(),
            )
        } else {
            let text = format!(
                r#"{{"type":"message","model":"{model}","usage":{{"input_tokens":3,"output_tokens":2}}}}"#
            );
            (200, text)
        };
        let response = Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(text)));
        Ok(response.expect("valid"))
    }
}

/// Serves on a free port. Each request gets new services of the layers around the handler.
async fn serve(
    retry: RetryLayer,
    bucket: TokenBucketLayer,
    handler: Handler,
) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let budget: HeaderBudgetLayer<_, _, ClaudeClassify> = HeaderBudgetLayer::over(bucket.limiter());
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let (retry, bucket, budget) = (retry.clone(), bucket.clone(), budget.clone());
            let handler = handler.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let handler = handler.clone();
                    let inner = tower::service_fn(move |request| handler.clone().answer(request));
                    let layered = retry.layer(bucket.layer(budget.layer(inner)));
                    layered.oneshot(request)
                });
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (url, task)
}

fn client() -> Client<HttpConnector, RequestBody> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn at_once() -> RetryLayer {
    RetryLayer::new().with_backoff(Backoff::new(Duration::ZERO, Duration::ZERO, Jitter::None))
}

#[tokio::test]
async fn layers_made_per_request_share_their_state() {
    bounded(async {
        let handler = Handler::default();
        let retry = at_once();
        // Ten attempts fit, and what does not fit is refused at once.
        let bucket = TokenBucketLayer::new(rpm(10)).with_max_wait(Duration::ZERO);
        let (limiter, handle) = (bucket.limiter(), retry.handle());
        let (url, server) = serve(retry, bucket, handler.clone()).await;
        for _ in 0..5 {
            let seen = send(&client(), request_to(&url, SONNET, false))
                .await
                .expect("an answer");
            assert_eq!(seen.status, 200, "{seen:?}");
            assert!(
                seen.contains("claude-sonnet-5-5"),
                "the handler saw the body: {seen:?}"
            );
            assert_eq!(seen.headers["content-type"], "application/json");
        }
        assert_eq!(handler.calls.load(Ordering::Relaxed), 10);
        assert_eq!(handle.snapshot().retries, 5);
        let seen = send(&client(), request_to(&url, SONNET, false))
            .await
            .expect("an answer");
        assert_eq!(seen.status, 429, "{seen:?}");
        assert_eq!(seen.headers["x-tower-claude-refused-by"], "token-bucket");
        assert!(seen.headers.contains_key("retry-after"));
        assert!(seen.contains("rate_limit_error"));
        assert_eq!(handler.calls.load(Ordering::Relaxed), 10);
        assert_eq!(limiter.snapshot().len(), 1);
        assert_idle(&limiter, "a handler");
        server.abort();
    })
    .await;
}

/// An estimate over a limit is tried while the limit is unused. It then delays the retry too long.
#[tokio::test]
async fn request_estimated_over_a_limit_reaches_the_handler_once() {
    bounded(async {
        let handler = Handler::default();
        let limits = Limits::new()
            .with_input_tokens_per_minute(NonZeroU64::new(100).expect("a limit"));
        let (url, server) = serve(at_once(), TokenBucketLayer::new(limits), handler.clone()).await;
        let text = "word ".repeat(1_000);
        let body = format!(
            r#"{{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{{"role":"user","content":"{text}"}}]}}"#
        );
        let request = request_to(&url, SONNET, false).map(|_| RequestBody::from(body));
        let seen = send(&client(), request).await.expect("an answer");
        assert_eq!(seen.status, 429, "{seen:?}");
        assert_eq!(seen.headers["x-tower-claude-refused-by"], "token-bucket");
        assert_eq!(handler.calls.load(Ordering::Relaxed), 1);
        server.abort();
    })
    .await;
}
