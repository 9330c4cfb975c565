//! Classes of errors.

use http_body_util::BodyExt;
use reqwest::{
    Client,
    dns::{Name, Resolve, Resolving},
};
use tower::ServiceExt;
use tower_claude_core::{
    BoxError, Class, Classify, ClassifyResponse, ClaudeClassify, HttpClassify, Kind,
};
use tower_claude_fake_claude::Fault;
use tower_claude_reqwest::{HttpService, ReqwestClassify};

use crate::common::{HOUR, SONNET, bounded, quiet, request_to};

/// Checks the class of an error as reqwest's type, boxed, as a middleware's error, and wrapped in
/// one.
fn class(error: reqwest::Error) -> Class {
    let classify = ReqwestClassify::new();
    let class = Classify::<reqwest::Error>::error(&classify, &error);
    // The default of the layers.
    assert_eq!(ClaudeClassify::default().error(&error), class);
    let cause = Classify::<reqwest::Error>::cause(&classify, &error);
    assert_eq!(ClaudeClassify::default().cause(&error), cause);
    let error: BoxError = error.into();
    assert_eq!(Classify::<BoxError>::cause(&classify, &error), cause);
    assert_eq!(Classify::<BoxError>::error(&classify, &error), class);
    let error = *error.downcast::<reqwest::Error>().unwrap();
    let error = reqwest_middleware::Error::Reqwest(error);
    assert_eq!(
        Classify::<reqwest_middleware::Error>::error(&classify, &error),
        class
    );
    let error: BoxError = error.into();
    assert_eq!(Classify::<BoxError>::error(&classify, &error), class);
    let error = *error.downcast::<reqwest_middleware::Error>().unwrap();
    let error = reqwest_middleware::Error::middleware(error);
    assert_eq!(
        Classify::<reqwest_middleware::Error>::error(&classify, &error),
        class
    );
    assert_eq!(ClaudeClassify::default().error(&error), class);
    assert_eq!(ClaudeClassify::default().cause(&error), cause);
    class
}

#[tokio::test]
async fn refused_connection_is_transport() {
    bounded(async {
        let server = quiet().serve().await.unwrap();
        let url = server.url();
        server.shutdown().await;
        let service = HttpService::new(Client::new());
        let error = service
            .oneshot(request_to(&url, SONNET, false))
            .await
            .unwrap_err();
        assert!(error.is_connect());
        let cause = ReqwestClassify::<ClaudeClassify>::default().cause(&error);
        let cause = cause.expect("a cause");
        assert!(cause.contains("Connection refused"), "{cause}");
        let unprocessed = Class::new(Kind::Transport).into_unprocessed();
        assert_eq!(class(error), unprocessed);
    })
    .await;
}

#[tokio::test]
async fn reset_before_the_response_is_transport() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        fake.inject(Fault::Reset);
        let service = HttpService::new(Client::new());
        let error = service
            .oneshot(request_to(&server.url(), SONNET, false))
            .await;
        let error = error.unwrap_err();
        assert!(error.is_request() && !error.is_connect());
        assert_eq!(class(error), Class::new(Kind::Transport));
    })
    .await;
}

#[tokio::test]
async fn broken_body_is_transport() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        fake.inject(Fault::Cut { after_tokens: 4 });
        let service = HttpService::new(Client::new());
        let response = service
            .oneshot(request_to(&server.url(), SONNET, true))
            .await
            .unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        assert!(error.is_body());
        assert_eq!(class(error), Class::new(Kind::Transport));
    })
    .await;
}

/// With a paused clock the timeout passes as soon as all tasks are idle.
#[tokio::test(start_paused = true)]
async fn no_answer_in_time() {
    let fake = quiet();
    let server = fake.serve().await.unwrap();
    fake.inject(Fault::SlowHead(24 * HOUR));
    let client = Client::builder().timeout(HOUR).build().unwrap();
    let service = HttpService::new(client);
    let error = service
        .oneshot(request_to(&server.url(), SONNET, false))
        .await;
    let error = error.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(class(error), Class::new(Kind::Timeout));
}

/// A resolver that never finds an address.
struct Lost;

impl Resolve for Lost {
    fn resolve(&self, _: Name) -> Resolving {
        Box::pin(std::future::pending())
    }
}

/// A timeout too, but nothing was sent, so that it may be retried as any broken connection.
#[tokio::test(start_paused = true)]
async fn no_connection_in_time() {
    let client = Client::builder().connect_timeout(HOUR).dns_resolver(Lost);
    let service = HttpService::new(client.build().unwrap());
    let error = service.oneshot(request_to("http://nowhere.invalid", SONNET, false));
    let error = error.await.unwrap_err();
    assert!(error.is_timeout() && error.is_connect(), "{error:?}");
    let unprocessed = Class::new(Kind::Transport).into_unprocessed();
    assert_eq!(class(error), unprocessed);
}

#[tokio::test]
async fn invalid_request_is_bad_request() {
    let error = Client::new().get("no URL").build().unwrap_err();
    assert_eq!(class(error), Class::new(Kind::BadRequest).into_local());
    assert!(!Class::new(Kind::BadRequest).into_local().is_retryable());
}

#[tokio::test]
async fn status_error_has_the_class_of_its_status() {
    let overloaded = http::Response::builder().status(529).body("");
    let error = reqwest::Response::from(overloaded.unwrap());
    let error = error.error_for_status().unwrap_err();
    assert_eq!(class(error), Class::new(Kind::Overloaded));
    let limited = http::Response::builder().status(429).body("");
    let error = reqwest::Response::from(limited.unwrap());
    let error = error.error_for_status().unwrap_err();
    assert_eq!(class(error), Class::new(Kind::RateLimited));
}

#[test]
fn foreign_error_is_left_to_the_inner_classifier() {
    let classify = ReqwestClassify::over(HttpClassify::default());
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let error: BoxError = late().into();
    assert_eq!(classify.error(&error), Class::new(Kind::Timeout));
    let error: BoxError = "something else".into();
    assert_eq!(classify.error(&error), Class::new(Kind::Transport));
    let error = reqwest_middleware::Error::middleware(late());
    assert_eq!(classify.error(&error).kind, Kind::Timeout);
    let error = reqwest_middleware::Error::middleware(std::io::Error::other("no"));
    assert_eq!(classify.error(&error).kind, Kind::Transport);
}

#[test]
fn response_is_left_to_the_inner_classifier() {
    let none = http::HeaderMap::new();
    let status = http::StatusCode::TOO_MANY_REQUESTS;
    assert_eq!(ReqwestClassify::new().head(status, &none), None);
    let http = ReqwestClassify::over(HttpClassify::default());
    assert_eq!(
        http.head(status, &none),
        Some(Class::new(Kind::RateLimited))
    );
    let cap = br#"{"type":"error","error":{"type":"billing_error","message":"m"}}"#;
    assert_eq!(
        ReqwestClassify::new().body(status, &none, cap).kind,
        Kind::SpendLimit
    );
    assert_eq!(http.body(status, &none, cap).kind, Kind::RateLimited);
}
