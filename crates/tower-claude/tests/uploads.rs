//! Uploads that stall or break, and bodies of the middleware of `tower-http`, in each layer alone
//! and in all six.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_claude::{
    CacheLayer, CircuitBreakerLayer, Deadline, FallbackModelLayer, HeaderBudgetLayer, Limits,
    Rejection, RequestBody, RetryLayer, TokenBucketLayer, recommended, retry::Timeouts,
};
use tower_claude_tests::{Broken, FrameBody, Piece};
use tower_http::timeout::{RequestBodyTimeoutLayer, ResponseBodyTimeoutLayer};

const SECOND: Duration = Duration::from_secs(1);

/// A server that answers every request at once, and counts them.
#[derive(Clone, Default)]
struct Server(Arc<AtomicUsize>);

impl Server {
    fn calls(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn service(
        &self,
    ) -> impl Service<
        Request<RequestBody>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + use<> {
        let calls = self.0.clone();
        service_fn(move |_: Request<RequestBody>| {
            calls.fetch_add(1, Ordering::Relaxed);
            ready(Ok(answer()))
        })
    }
}

fn answer() -> Response<Full<Bytes>> {
    const MESSAGE: &str = r#"{"id":"m","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":1}}"#;
    let response = Response::builder().header("content-type", "application/json");
    response.body(Full::from(MESSAGE)).expect("a response")
}

fn request<B>(body: B) -> Request<B> {
    Request::post("http://x/v1/messages")
        .header("x-api-key", "key")
        .body(body)
        .expect("a request")
}

fn stalled() -> FrameBody {
    FrameBody::new([Piece::Data("{\"model\":".into()), Piece::Stall])
}

fn broken() -> FrameBody {
    FrameBody::new([
        Piece::Data("{\"model\":".into()),
        Piece::Error(Broken("cut")),
    ])
}

fn per_minute(requests: u64) -> Limits {
    Limits::unlimited().with_requests_per_minute(requests.try_into().expect("not 0"))
}

/// Sends a request, and returns the status and the name of the layer that rejected it.
async fn send<S, B, R>(service: S, request: Request<B>) -> (u16, Option<&'static str>)
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    R: Body,
{
    let response = service.oneshot(request).await.expect("infallible");
    let rejection = response.extensions().get::<Rejection>();
    (
        response.status().as_u16(),
        rejection.map(|rejection| rejection.by),
    )
}

macro_rules! in_each_layer {
    ($server:ident, |$layer:ident| $check:expr) => {{
        macro_rules! check {
            ($made:expr) => {{
                let $server = Server::default();
                let $layer = $made;
                $check;
            }};
        }
        check!(RetryLayer::new());
        check!(CircuitBreakerLayer::new());
        check!(TokenBucketLayer::new(per_minute(6)));
        check!(HeaderBudgetLayer::new());
        check!(FallbackModelLayer::new(["claude-haiku-5-5"]));
        check!(CacheLayer::default());
        check!(recommended());
        check!(recommended().with_fallback(["claude-haiku-5-5"]));
    }};
}

#[tokio::test(start_paused = true)]
async fn stalled_upload_ends_at_the_deadline_in_every_layer() {
    in_each_layer!(server, |layer| {
        let start = Instant::now();
        let mut request = request(stalled());
        request.extensions_mut().insert(Deadline(start + SECOND));
        let answer = send(layer.layer(server.service()), request).await;
        assert_eq!(answer, (504, Some("request-body")));
        assert_eq!((start.elapsed(), server.calls()), (SECOND, 0));
    });
}

#[tokio::test(start_paused = true)]
async fn stalled_upload_ends_at_the_timeouts_of_the_recommended_stack() {
    let none = Timeouts::NONE;
    for (timeouts, seconds) in [
        (none.with_total(Some(SECOND)), 1),
        (none.with_head(Some(2 * SECOND)), 2),
        (Timeouts::new(), 600),
    ] {
        let start = Instant::now();
        let server = Server::default();
        let stack = recommended().with_retry(RetryLayer::new().with_timeouts(timeouts));
        let answer = send(stack.layer(server.service()), request(stalled())).await;
        assert_eq!(answer, (504, Some("request-body")));
        assert_eq!((start.elapsed(), server.calls()), (seconds * SECOND, 0));
    }
}

#[tokio::test]
async fn broken_upload_is_answered_without_a_call_in_every_layer() {
    in_each_layer!(server, |layer| {
        let service = layer.layer(server.service());
        for _ in 0..10 {
            let answer = send(service.clone(), request(broken())).await;
            assert_eq!(answer, (400, Some("request-body")));
            let long = Limited::new(Full::<Bytes>::from("12345"), 3);
            let answer = send(service.clone(), request(long)).await;
            assert_eq!(answer, (413, Some("request-body")));
        }
        assert_eq!(server.calls(), 0);
        // Nothing was charged, and no circuit is open.
        for _ in 0..6 {
            let body = Full::<Bytes>::from("{\"model\":\"claude-sonnet-5-5\"}");
            assert_eq!(send(service.clone(), request(body)).await, (200, None));
        }
    });
}

/// A client passes the error of the body on, as hyper and reqwest do.
#[tokio::test]
async fn upload_that_breaks_while_it_is_streamed_is_no_failure_of_the_server() {
    let client = service_fn(|request: Request<RequestBody>| async {
        request.into_body().collect().await?;
        Ok::<_, BoxError>(answer())
    });
    let bucket = TokenBucketLayer::new(per_minute(6))
        .with_max_wait(Duration::ZERO)
        .with_body_limit(1);
    let breaker = CircuitBreakerLayer::new().with_body_limit(1);
    let retry = RetryLayer::new().with_body_limit(1);
    let service = ServiceBuilder::new()
        .layer(&retry)
        .layer(&breaker)
        .layer(&bucket)
        .service(client);
    for _ in 0..20 {
        let error = service.clone().oneshot(request(broken())).await;
        assert!(error.expect_err("the error of the client").is::<Broken>());
    }
    let handle = breaker.handle().snapshot();
    assert_eq!((handle.opened, retry.handle().snapshot().retries), (0, 0));
    for status in [200, 200, 200, 200, 200, 200, 429] {
        let body = Full::<Bytes>::from("{}");
        let response = service.clone().oneshot(request(body)).await;
        assert_eq!(response.expect("no error").status(), status);
    }
}

/// These bodies hold a timer, so they are not `Unpin`.
#[tokio::test]
async fn bodies_with_timeouts_fit_around_and_inside_every_layer() {
    in_each_layer!(server, |layer| {
        let service = ServiceBuilder::new()
            .layer(RequestBodyTimeoutLayer::new(SECOND))
            .layer(layer)
            .map_response(|response: Response<_>| response.map(Box::pin))
            .layer(ResponseBodyTimeoutLayer::new(SECOND))
            .service(server.service());
        let body = Full::<Bytes>::from("{\"model\":\"claude-sonnet-5-5\"}");
        assert_eq!(send(service, request(body)).await, (200, None));
    });
}

#[tokio::test(start_paused = true)]
async fn timeout_of_the_upload_around_the_layers_is_the_fault_of_the_caller() {
    let server = Server::default();
    let service = ServiceBuilder::new()
        .layer(RequestBodyTimeoutLayer::new(SECOND))
        .layer(recommended())
        .service(server.service());
    let answer = send(service, request(stalled())).await;
    assert_eq!(answer, (504, Some("request-body")));
    assert_eq!(server.calls(), 0);
}
