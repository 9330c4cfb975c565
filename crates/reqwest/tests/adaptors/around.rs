//! Layer stacks around a client.

use std::{
    future::{Ready, ready},
    num::NonZeroU64,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Extensions, Request};
use http_body_util::BodyExt;
use reqwest::{Body, Client, Response};
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_claude_core::{Class, RequestBody, check};
use tower_claude_fake_claude::{FakeClaude, Fault, HeaderFamily};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_reqwest::{Execute, HttpService, ReqwestClassify};
use tower_claude_token_bucket::TokenBucketLayer;

use crate::common::{
    HOUR, SONNET, at_once, bounded, middleware, prompt, quiet, request_to, statuses, timeless,
};

/// Status, headers and bytes equal the response that the client gets without the adaptor.
async fn answers_are_untouched<C: Execute + Clone>(client: C)
where
    C::Error: std::fmt::Debug,
{
    let (plain, adapted) = (quiet(), quiet());
    let (one, other) = (plain.serve().await.unwrap(), adapted.serve().await.unwrap());
    for (stream, fault) in [(false, None), (true, None), (false, Some(Fault::SpendCap))] {
        if let Some(fault) = fault {
            plain.inject(fault.clone());
            adapted.inject(fault);
        }
        let bare = Client::new()
            .post(format!("{}/v1/messages", one.url()))
            .header("x-api-key", "key-a")
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json")
            .body(prompt(SONNET, stream));
        let bare = bare.send().await.unwrap();
        let service = check(HttpService::new(client.clone()));
        let seen = service
            .oneshot(request_to(&other.url(), SONNET, stream))
            .await
            .unwrap();
        assert_eq!(seen.status(), bare.status());
        assert_eq!(seen.version(), bare.version());
        assert_eq!(timeless(seen.headers()), timeless(bare.headers()));
        let seen = seen.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(seen, bare.bytes().await.unwrap());
    }
    assert_eq!(statuses(&plain), [200, 200, 429]);
    assert_eq!(statuses(&adapted), [200, 200, 429]);
}

#[tokio::test]
async fn response_of_either_client_is_unchanged() {
    bounded(async {
        answers_are_untouched(Client::new()).await;
        answers_are_untouched(middleware()).await;
    })
    .await;
}

/// Sends a request through all three layers, with two failures before the response.
async fn failures_are_retried<C>(client: C)
where
    C: Execute + Clone,
    C::Error: std::fmt::Debug,
    tower_claude_core::ClaudeClassify: tower_claude_core::Classify<C::Error>,
    tower_claude_reqwest::ReqwestClassify: tower_claude_core::Classify<C::Error>,
{
    let fake = quiet();
    let server = fake.serve().await.unwrap();
    let bucket = TokenBucketLayer::new(Limits::new());
    let budget: HeaderBudgetLayer = HeaderBudgetLayer::over(bucket.limiter());
    let claude = ServiceBuilder::new()
        .layer(at_once())
        .layer(bucket)
        .layer(budget)
        .service(HttpService::new(client));
    for (stream, end) in [(false, "\"usage\""), (true, "event: message_stop")] {
        fake.inject(Fault::Overloaded);
        fake.inject(Fault::Reset);
        let response = claude
            .clone()
            .oneshot(request_to(&server.url(), SONNET, stream))
            .await;
        let response = Response::from(response.unwrap().map(Body::wrap));
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.url().as_str(),
            format!("{}/v1/messages", server.url()),
            "the URL that answered"
        );
        assert!(response.text().await.unwrap().contains(end));
    }
    assert_eq!(statuses(&fake), [529, 0, 200, 529, 0, 200]);
}

#[tokio::test]
async fn failure_is_retried_through_either_client() {
    bounded(async {
        failures_are_retried(Client::new()).await;
        failures_are_retried(middleware()).await;
    })
    .await;
}

#[tokio::test]
async fn invalid_request_is_not_sent_and_not_retried() {
    for uri in ["/v1/messages", "ftp://localhost/v1/messages"] {
        let retry = at_once();
        let handle = retry.handle();
        let request = || Request::post(uri).body(RequestBody::from("{}")).unwrap();
        let service = retry.layer(HttpService::new(Client::new()));
        let error: reqwest::Error = service.oneshot(request()).await.unwrap_err();
        assert!(error.is_builder(), "{error:?}");
        let service = retry.layer(HttpService::new(middleware()));
        let error: reqwest_middleware::Error = service.oneshot(request()).await.unwrap_err();
        assert!(error.is_builder(), "{error:?}");
        assert_eq!(handle.snapshot().retries, 0);
    }
}

/// Nothing was sent, so nothing is charged: the only request per minute is still available.
#[tokio::test]
async fn invalid_request_is_not_charged() {
    bounded(async {
        let fake = FakeClaude::builder()
            .header_family(HeaderFamily::None)
            .build();
        let server = fake.serve().await.unwrap();
        let one = const { NonZeroU64::new(1).expect("one") };
        let bucket = TokenBucketLayer::new(Limits::new().with_requests_per_minute(one))
            .with_max_wait(Duration::ZERO)
            .with_classifier(ReqwestClassify::new());
        let service = bucket.layer(HttpService::new(Client::new()));
        let wrong = request_to("ftp://localhost", SONNET, false);
        assert!(service.clone().oneshot(wrong).await.is_err());
        for status in [200, 429] {
            let sent = service
                .clone()
                .oneshot(request_to(&server.url(), SONNET, false));
            assert_eq!(sent.await.unwrap().status(), status);
        }
        assert_eq!(statuses(&fake), [200]);
    })
    .await;
}

#[tokio::test]
async fn dropped_call_closes_its_connection() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        let service = at_once().layer(HttpService::new(middleware()));
        fake.inject(Fault::SlowHead(HOUR));
        let call = tokio::spawn(service.oneshot(request_to(&server.url(), SONNET, true)));
        fake.wait_for(|log| log.len() == 1).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        fake.wait_for(|log| log[0].client_gone).await;
    })
    .await;
}

/// A middleware that records the last mark.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Option<u8>>>>);

#[derive(Clone)]
struct Mark(u8);

impl Middleware for Seen {
    fn handle<'a, 'b, 'c, 'd>(
        &'a self,
        request: reqwest::Request,
        extensions: &'b mut Extensions,
        next: Next<'c>,
    ) -> std::pin::Pin<Box<dyn Future<Output = reqwest_middleware::Result<Response>> + Send + 'd>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        Box::pin(async move {
            let mark = extensions.get::<Mark>().map(|mark| mark.0);
            self.0.lock().unwrap().push(mark);
            next.run(request, extensions).await
        })
    }
}

#[tokio::test]
async fn extensions_reach_the_middleware_with_each_attempt() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        let seen = Seen::default();
        let client = ClientBuilder::new(Client::new()).with(seen.clone()).build();
        let service = at_once().layer(HttpService::new(client));
        fake.inject(Fault::Overloaded);
        let mut request = request_to(&server.url(), SONNET, false);
        request.extensions_mut().insert(Mark(7));
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(
            response.extensions().get::<Class>().is_none(),
            "nothing failed"
        );
        assert_eq!(*seen.0.lock().unwrap(), [Some(7), Some(7)]);
    })
    .await;
}

/// A client that is ready at the second poll, and counts.
#[derive(Clone, Default)]
struct Slow {
    asked: u32,
    ready: bool,
}

struct Never(reqwest::Error);

impl From<reqwest::Error> for Never {
    fn from(error: reqwest::Error) -> Self {
        Self(error)
    }
}

impl Execute for Slow {
    type Error = Never;
    type Future = Ready<Result<Response, Never>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Never>> {
        self.asked += 1;
        self.ready = self.asked > 1;
        if self.ready {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn execute(&mut self, _: Request<Body>) -> Result<Self::Future, reqwest::Error> {
        assert!(
            std::mem::take(&mut self.ready),
            "the one that was asked is called"
        );
        Ok(ready(Ok(http::Response::new(Body::from("ready")).into())))
    }
}

#[tokio::test]
async fn readiness_is_forwarded_from_the_client() {
    let mut service = HttpService::new(Slow::default());
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(service.poll_ready(&mut context).is_pending());
    let service = service.ready().await.map_err(|never| never.0).unwrap();
    assert_eq!(service.get_ref().asked, 2);
    let response = service.call(Request::new(RequestBody::default())).await;
    let response = response.map_err(|never| never.0).unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "ready"
    );
}

/// The bounds of axum's state and of a hyper service.
#[test]
fn http_service_is_clone_send_and_sync() {
    fn shared<S: Clone + Send + Sync + 'static>(service: S) -> S {
        service
    }
    fn future_moves<S: Service<Request<RequestBody>, Future: Send + 'static>>(_: &S) {}
    let service = shared(at_once().layer(HttpService::new(Client::new())));
    future_moves(&service);
    future_moves(&shared(at_once().layer(HttpService::new(middleware()))));
}
