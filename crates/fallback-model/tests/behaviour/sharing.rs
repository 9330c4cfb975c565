//! An inner retry layer, which shares the saved request.

use std::{
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Request, Response, Version};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_claude_core::{Call, RequestBody, Tenant};
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_retry::{Backoff, Jitter, RetryLayer, Timeouts};

use crate::api::*;

fn retry() -> RetryLayer {
    RetryLayer::new().with_backoff(Backoff::new(SECOND, SECOND, Jitter::None))
}

/// An API that is overloaded this often, and then works.
fn overloaded(times: usize) -> Api {
    let mut left = times;
    Api::by_model(move |_| {
        if left == 0 {
            return Reply::fine();
        }
        left -= 1;
        Reply::overloaded()
    })
}

/// Sends a request through a layer between fallback and retry that changes it. Returns all
/// attempts.
async fn changed(
    change: impl Fn(Request<RequestBody>) -> Request<RequestBody> + Clone,
) -> Vec<Seen> {
    let api = overloaded(2);
    let stack = ServiceBuilder::new()
        .layer(FallbackModelLayer::new([SONNET]))
        .map_request(change)
        .layer(retry())
        .service(api.clone());
    assert_eq!(send(&stack, request()).await.unwrap().status, 200);
    assert_eq!(api.models(), [OPUS, OPUS, OPUS]);
    api.seen()
}

#[tokio::test(start_paused = true)]
async fn change_between_the_layers_reaches_every_attempt() {
    let as_it_was = changed(|request| request).await;
    for seen in &as_it_was {
        assert_eq!(seen.headers, as_it_was[0].headers);
        assert_eq!(seen.body, as_it_was[0].body);
        assert_eq!(seen.extensions.len(), 1);
    }
    let seen = changed(|mut request| {
        let value = HeaderValue::from_static("mine");
        request.headers_mut().insert("x-api-key", value);
        request
    });
    for seen in seen.await {
        assert_eq!(seen.headers["x-api-key"], "mine");
    }
    let seen = changed(|mut request| {
        let key = request.headers_mut().get_mut("x-api-key");
        key.unwrap().set_sensitive(true);
        request
    });
    for seen in seen.await {
        assert!(seen.headers["x-api-key"].is_sensitive());
    }
    let seen = changed(|mut request| {
        request.extensions_mut().insert(Tenant("acme".into()));
        request
    });
    for seen in seen.await {
        assert_eq!(seen.extensions.get(), Some(&Tenant("acme".into())));
    }
    let seen = changed(|request| {
        request.map(|body| {
            let text = String::from_utf8(body.bytes().unwrap().to_vec()).unwrap();
            text.replace("Hi", "Ho").into()
        })
    });
    for seen in seen.await {
        assert!(seen.body.ends_with(br#""Ho"}]}"#));
    }
}

/// Returns a request that its caller has sent three times before.
fn sent_before() -> Request<RequestBody> {
    let mut request = request();
    let count = HeaderValue::from_static("3");
    request
        .headers_mut()
        .insert("x-stainless-retry-count", count);
    request
}

/// Models count the tokens of a prompt differently.
#[tokio::test(start_paused = true)]
async fn token_count_of_one_model_is_not_used_for_the_next() {
    let counts = Arc::new(Mutex::new(Vec::new()));
    let seen = counts.clone();
    let api = opus(Reply::overloaded());
    let counting = tower::service_fn(move |request: Request<RequestBody>| {
        let context = Call::of(&request).unwrap();
        seen.lock().unwrap().push(context.counted_input());
        context.set_counted_input(Some(200_001));
        api.clone().oneshot(request)
    });
    // And a prompt that was counted is not sent to a model whose window it does not fit.
    let layer = FallbackModelLayer::new(["claude-haiku-4-5", SONNET]);
    let answer = send(&layer.layer(counting), request()).await;
    assert_eq!(answer.unwrap().by(), SONNET);
    assert_eq!(*counts.lock().unwrap(), [None, None]);
}

/// Every attempt has the same call record, and the caller's count of retries is continued.
#[tokio::test(start_paused = true)]
async fn every_attempt_has_the_call_record_and_the_retry_count() {
    let api = overloaded(2);
    let stack = ServiceBuilder::new()
        .layer(FallbackModelLayer::new([SONNET]))
        .layer(retry())
        .service(api.clone());
    assert_eq!(send(&stack, sent_before()).await.unwrap().status, 200);
    let context = |seen: &Seen| seen.extensions.get::<Arc<Call>>().cloned();
    let seen = api.seen();
    let first = context(&seen[0]).expect("a context");
    for (seen, count) in seen.iter().zip(["3", "4", "5"]) {
        assert!(Arc::ptr_eq(&first, &context(seen).expect("a context")));
        assert_eq!(seen.headers["x-stainless-retry-count"], count);
    }
    assert_eq!(first.attempts(), 3);
}

/// The request for the next model is made from the original, not from the last attempt.
#[tokio::test(start_paused = true)]
async fn next_model_gets_the_original_request() {
    let api = opus(Reply::overloaded());
    let stack = ServiceBuilder::new()
        .layer(FallbackModelLayer::new([SONNET]))
        .layer(retry())
        .service(api.clone());
    assert_eq!(send(&stack, sent_before()).await.unwrap().by(), SONNET);
    let seen = api.seen();
    assert_eq!(seen.len(), 6);
    assert_eq!(seen[4].headers["x-stainless-retry-count"], "7");
    assert_eq!(seen[5].headers["x-stainless-retry-count"], "3");
}

#[tokio::test(start_paused = true)]
async fn next_model_gets_the_same_uri_version_and_extensions() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let api = opus(Reply::overloaded());
    let looking = tower::service_fn(move |request: Request<RequestBody>| {
        let tenant = request.extensions().get::<Tenant>().cloned();
        let head = (request.uri().clone(), request.version(), tenant);
        seen.lock().unwrap().push(head);
        api.clone().oneshot(request)
    });
    let mut request = request();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = "https://proxy.test/a/v1/messages?beta=true"
        .parse()
        .unwrap();
    request.extensions_mut().insert(Tenant("acme".into()));
    let answer = send(&FallbackModelLayer::new([SONNET]).layer(looking), request);
    assert_eq!(answer.await.unwrap().by(), SONNET);
    let heads = heads.lock().unwrap();
    assert_eq!((heads.len(), heads[0].1), (2, Version::HTTP_2));
    assert_eq!(heads[0], heads[1]);
}

/// The request is dropped when the response is handed on, although its stream continues.
#[tokio::test(start_paused = true)]
async fn request_is_dropped_at_the_response() {
    struct Held(#[allow(dead_code, reason = "counts")] Arc<()>, Bytes);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.1
        }
    }
    let alive = Arc::new(());
    let held = |request: Request<RequestBody>| {
        request.map(|body| {
            let bytes = body.bytes().unwrap().clone();
            RequestBody::from(Bytes::from_owner(Held(alive.clone(), bytes)))
        })
    };
    let streams = tower::service_fn(|_: Request<RequestBody>| async {
        let content = futures_util::stream::iter([START, CONTENT]);
        let frames = content.map(|text| Ok::<_, io::Error>(http_body::Frame::data(text.into())));
        let stream = frames.chain(futures_util::stream::pending());
        let body = http_body_util::StreamBody::new(Box::pin(stream));
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok::<_, io::Error>(response.body(body).unwrap())
    });
    let stack = ServiceBuilder::new()
        .layer(FallbackModelLayer::new([SONNET]))
        .layer(retry())
        .service(streams);
    let answer = stack.oneshot(held(request())).await;
    let mut body = answer.expect("an answer").into_body();
    assert!(body.frame().await.is_some());
    assert_eq!(Arc::strong_count(&alive), 1, "of the request");
}

/// The timeout counts from the start of its attempt.
#[tokio::test(start_paused = true)]
async fn head_timeout_applies_to_each_attempt() {
    let head = Timeouts::new().with_head(Some(10 * SECOND));
    for after in [0, 5] {
        let mut answers = vec![
            Reply::never(),
            Reply::never(),
            Reply::overloaded().after(after * SECOND),
        ];
        let api = Api::by_model(move |_| answers.pop().unwrap_or_else(Reply::fine));
        let stack = ServiceBuilder::new()
            .layer(FallbackModelLayer::new([SONNET]))
            .layer(retry().with_timeouts(head))
            .service(api.clone());
        let start = Instant::now();
        assert_eq!(send(&stack, request()).await.unwrap().status, 200);
        // One that fails, then two that are cut, with waits between them; then the other model.
        let took = after * SECOND + 2 * (SECOND + 10 * SECOND);
        assert_eq!(start.elapsed(), took, "{after}");
        assert_eq!(api.seen().len(), 4);
    }
}
