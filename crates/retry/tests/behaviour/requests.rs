//! The requests of the attempts.

use std::{
    io,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_claude_core::{Call, Class, Classify, ClassifyResponse, HttpClassify, Kind, RequestBody};
use tower_claude_retry::{NO_RETRY, NoRetry};
use tower_claude_tests::{SONNET, prompt};
use tower_claude_wire::ApiError;

use crate::api::*;

/// An extension that counts its clones.
#[derive(Debug, Default)]
struct Counted(Arc<AtomicU32>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

/// Returns the number of copies of a request if `failures` of at most `attempts` attempts fail.
async fn copies(attempts: u32, failures: usize) -> u32 {
    let (layer, _) = layer();
    let layer = layer.with_max_attempts(NonZeroU32::new(attempts).unwrap());
    let counted = Counted::default();
    let mut request = request();
    request.extensions_mut().insert(Counted(counted.0.clone()));
    let script = std::iter::repeat_n(Reply::overloaded(), failures).chain([Reply::fine()]);
    let api = Api::new(script);
    send(&layer.layer(api.clone()), request).await.unwrap();
    counted.0.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn last_attempt_is_not_copied() {
    assert_eq!(copies(1, 0).await, 0);
    assert_eq!(copies(2, 0).await, 1);
    assert_eq!(copies(2, 1).await, 1);
    assert_eq!(copies(5, 4).await, 4);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_sends_whole_request() {
    let (layer, _) = layer();
    let mut request = request();
    request.extensions_mut().insert(Counted::default());
    request
        .headers_mut()
        .insert("x-api-key", "k".parse().unwrap());
    let api = Api::new([Reply::overloaded(), Reply::overloaded(), Reply::fine()]);
    send(&layer.layer(api.clone()), request).await.unwrap();
    let seen = api.seen();
    assert_eq!(seen.len(), 3);
    for seen in &seen {
        assert_eq!(seen.body, prompt(SONNET, false));
        assert_eq!(seen.headers["x-api-key"], "k");
        assert!(!seen.headers.contains_key("x-stainless-retry-count"));
        assert!(seen.extensions.get::<Counted>().is_some());
    }
    // All attempts share one call.
    let contexts = seen.iter().map(|seen| seen.extensions.get::<Arc<Call>>());
    let contexts: Vec<_> = contexts.map(|context| context.expect("there")).collect();
    assert!(
        contexts
            .iter()
            .all(|context| Arc::ptr_eq(context, contexts[0]))
    );
    assert_eq!(contexts[0].attempts(), 3);
}

#[tokio::test(start_paused = true)]
async fn retry_count_header_is_updated() {
    for (sent, counts) in [
        ("0", ["0", "1", "2"]),
        ("2", ["2", "3", "4"]),
        ("x", ["x"; 3]),
    ] {
        let (layer, _) = layer();
        let mut request = request();
        let headers = request.headers_mut();
        headers.insert("x-stainless-retry-count", sent.parse().unwrap());
        let api = Api::new([Reply::overloaded(), Reply::overloaded(), Reply::fine()]);
        send(&layer.layer(api.clone()), request).await.unwrap();
        let seen = api.seen();
        let seen = seen
            .iter()
            .map(|seen| &seen.headers["x-stainless-retry-count"]);
        assert_eq!(seen.collect::<Vec<_>>(), counts);
    }
}

#[tokio::test(start_paused = true)]
async fn streamed_request_body_is_sent_once() {
    let (layer, events) = layer();
    let body = RequestBody::new(Full::new(Bytes::from("too long to keep")));
    let request = request().map(|_| body);
    let api = Api::new([Reply::overloaded()]);
    let answer = send(&layer.layer(api.clone()), request).await.unwrap();
    assert_eq!(
        (answer.status, &api.seen()[0].body[..]),
        (529, &b"too long to keep"[..])
    );
    assert_eq!(events.lines(), ["gave up 1 overloaded body"]);
}

#[tokio::test(start_paused = true)]
async fn request_body_over_limit_is_sent_once() {
    for (limit, attempts) in [(16, 2), (15, 1)] {
        let (layer, _) = layer();
        let layer = layer.with_body_limit(limit);
        let api = Api::new([Reply::overloaded(), Reply::fine()]);
        let request = request().map(|_| Full::new(Bytes::from("sixteen bytes :)")));
        let service = layer.layer(api.clone());
        service.oneshot(request).await.expect("a response");
        assert_eq!(api.seen().len(), attempts, "limit {limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn nested_layer_passes_through() {
    let (outer, outer_events) = layer();
    let (inner, inner_events) = layer();
    let api = Api::new((0..5).map(|_| Reply::overloaded()));
    let stack = ServiceBuilder::new()
        .layer(outer)
        .layer(inner)
        .service(api.clone());
    assert_eq!(send(&stack, request()).await.unwrap().status, 529);
    assert_eq!(api.seen().len(), 5);
    assert_eq!(outer_events.lines().len(), 5);
    assert!(inner_events.lines().is_empty());
    let context = api.seen()[4].extensions.get::<Arc<Call>>().cloned();
    assert_eq!(context.unwrap().attempts(), 5);
}

/// An outer fallback does so for its second target.
#[tokio::test(start_paused = true)]
async fn call_sent_again_by_outer_layer_is_retried() {
    let (layer, _) = layer();
    let mut again = request();
    let context = Call::get_or_insert(again.extensions_mut(), Instant::now());
    for round in 1..=2 {
        let api = Api::new([Reply::overloaded(), Reply::fine()]);
        let mut request = request();
        request.extensions_mut().insert(context.clone());
        assert_eq!(
            send(&layer.layer(api.clone()), request)
                .await
                .unwrap()
                .status,
            200
        );
        assert_eq!(context.attempts(), 2 * round);
    }
}

#[tokio::test(start_paused = true)]
async fn answered_call_sent_again_is_retried_before_future_is_dropped() {
    let (layer, _) = layer();
    let mut first = request();
    let context = Call::get_or_insert(first.extensions_mut(), Instant::now());
    let mut service = layer.layer(Api::new([Reply::fine()]));
    let mut call = Box::pin(tower::Service::call(&mut service, first));
    call.as_mut().await.unwrap();
    let api = Api::new([Reply::overloaded(), Reply::fine()]);
    let mut again = request();
    again.extensions_mut().insert(context);
    let answer = send(&layer.layer(api.clone()), again).await.unwrap();
    assert_eq!(answer.status, 200);
    drop(call);
}

/// At most five attempts in all, and at least one at each target.
#[tokio::test(start_paused = true)]
async fn attempts_at_other_targets_count_towards_maximum() {
    let (layer, _) = layer();
    let mut again = request();
    let context = Call::get_or_insert(again.extensions_mut(), Instant::now());
    for _ in 0..3 {
        context.begin_attempt();
    }
    for expected in [2, 1, 1] {
        let api = Api::new((0..5).map(|_| Reply::overloaded()));
        let mut request = request();
        request.extensions_mut().insert(context.clone());
        let answer = send(&layer.layer(api.clone()), request).await.unwrap();
        assert_eq!((answer.status, api.seen().len()), (529, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn probe_is_sent_once() {
    let (layer, _) = layer();
    let api = Api::new([Reply::overloaded()]);
    let mut request = request();
    Call::get_or_insert(request.extensions_mut(), Instant::now()).set_probe(true);
    let answer = send(&layer.layer(api.clone()), request).await.unwrap();
    assert_eq!((answer.status, api.seen().len()), (529, 1));
}

#[tokio::test(start_paused = true)]
async fn class_of_inner_layer_stands() {
    let (layer, _) = layer();
    // The class differs from that of the status.
    let told = Reply::new(418).extension(Class::new(Kind::Overloaded));
    let api = Api::new([told, Reply::fine()]);
    assert_eq!(through(&layer, &api).await.status, 200);
}

/// A classifier for which every status but 200 is an overload.
#[derive(Clone)]
struct Own;

impl ClassifyResponse for Own {
    fn head(&self, status: StatusCode, _: &HeaderMap) -> Option<Class> {
        (status == 200).then_some(Class::SUCCESS)
    }

    fn body(&self, _: StatusCode, _: &HeaderMap, body: &[u8]) -> Class {
        assert!(!body.is_empty());
        Class::new(Kind::Overloaded)
    }

    fn stream_error(&self, _: &ApiError) -> Class {
        Class::new(Kind::BadRequest)
    }
}

impl Classify<io::Error> for Own {
    fn error(&self, _: &io::Error) -> Class {
        Class::new(Kind::BadRequest)
    }
}

#[tokio::test(start_paused = true)]
async fn own_classifier_overrules_class_of_inner_layer() {
    let (layer, events) = layer();
    let layer = layer.with_classifier(Own);
    let left = Reply::error(404, "not_found_error").extension(Class::new(Kind::NotFound));
    let api = Api::new([left, Reply::fine()]);
    assert_eq!(through(&layer, &api).await.status, 200);
    let stream = Reply::stream([data(START), data(ERROR)]);
    through(&layer, &Api::new([stream])).await;
    let broken = Api::new([Reply::broken(io::ErrorKind::ConnectionReset)]);
    assert!(send(&layer.layer(broken), request()).await.is_err());
    // A local rejection stands.
    let refused = Reply::new(503).extension(Class::new(Kind::Overloaded).into_local());
    through(&layer, &Api::new([refused])).await;
    assert_eq!(
        events.lines(),
        [
            "retry 1 overloaded 1s",
            "gave up 1 bad_request not_retryable",
            "gave up 1 bad_request not_retryable"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn http_classifier_retries_by_status() {
    let (layer, _) = layer();
    let layer = layer.with_classifier(HttpClassify::default());
    let api = Api::new([Reply::new(503), Reply::new(200)]);
    assert_eq!(through(&layer, &api).await.status, 200);
    assert_eq!(api.arrivals(), [0, 1]);
}

/// Sends a POST to this path that fails with `reply`, and returns the number of attempts.
async fn attempts_at(path: &str, reply: Reply) -> usize {
    let (layer, _) = layer();
    let mut request = request();
    *request.uri_mut() = format!("http://localhost{path}").parse().unwrap();
    let fine = if path.ends_with("count_tokens") {
        Reply::json(200, r#"{"input_tokens":1}"#)
    } else {
        Reply::fine()
    };
    let api = Api::new([reply, fine]);
    let _ = send(&layer.layer(api.clone()), request).await;
    api.seen().len()
}

#[tokio::test(start_paused = true)]
async fn post_that_creates_is_repeated_only_if_it_was_not_processed() {
    for (path, repeats) in [
        ("/v1/messages", true),
        ("/gateway/v1/messages/count_tokens", true),
        ("/v1/messages/batches", false),
        ("/v1/files", false),
        ("/v1/skills", false),
        ("/orders", false),
    ] {
        for status in [500, 502, 503, 504, 408] {
            let reply = Reply::error(status, "api_error");
            assert_eq!(
                attempts_at(path, reply).await,
                1 + usize::from(repeats),
                "{path}"
            );
        }
        for reply in [Reply::overloaded(), Reply::rate_limited("1")] {
            assert_eq!(attempts_at(path, reply).await, 2, "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn idempotent_method_and_repeatable_request_are_repeated() {
    for (method, repeatable, expected) in [
        (Method::GET, false, 2),
        (Method::DELETE, false, 2),
        (Method::POST, false, 1),
        (Method::POST, true, 2),
    ] {
        let (mut layer, _) = layer();
        if repeatable {
            layer = layer.with_repeatable(|request| request.method() == Method::POST);
        }
        let mut request = request();
        *request.method_mut() = method;
        *request.uri_mut() = "http://localhost/v1/files/f".parse().unwrap();
        let api = Api::new([Reply::error(500, "api_error"), Reply::fine()]);
        send(&layer.layer(api.clone()), request).await.unwrap();
        assert_eq!(api.seen().len(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn request_with_no_retry_is_sent_once() {
    for by_header in [true, false] {
        let (layer, _) = layer();
        let mut request = request();
        if by_header {
            request.headers_mut().insert(NO_RETRY, "1".parse().unwrap());
        } else {
            request.extensions_mut().insert(NoRetry);
        }
        let api = Api::new([Reply::overloaded(), Reply::fine()]);
        let answer = send(&layer.layer(api.clone()), request).await.unwrap();
        assert_eq!((answer.status, api.seen().len()), (529, 1));
        assert!(!api.seen()[0].headers.contains_key(NO_RETRY));
    }
}

/// The wrong connection, and too early: nothing was processed, whatever the method.
#[tokio::test(start_paused = true)]
async fn misdirected_and_early_requests_are_repeated_at_once() {
    for status in [421, 425] {
        for path in ["/v1/messages", "/v1/messages/batches"] {
            let now = Instant::now();
            assert_eq!(
                attempts_at(path, Reply::error(status, "")).await,
                2,
                "{path}"
            );
            assert!(now.elapsed().is_zero());
        }
    }
}
