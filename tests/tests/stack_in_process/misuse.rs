//! Mistakes and special wishes of users: mistyped models, rejections in a shape of their own, other
//! services, and a spend limit that is raised.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use tower::Layer;
use tower_claude::{
    CacheLayer, CircuitBreakerLayer, Deadline, FallbackModelLayer, HeaderBudgetLayer, Kind,
    Limiter, Limits, RejectReason, RejectionLayer, RequestBody, RetryLayer, TokenBucketLayer,
    cache::Cacheable,
    core::{HttpClassify, Scope},
    recommended,
    retry::Timeouts,
};
use tower_claude_fake_claude::Fault;
use tower_claude_tests::{
    FrameBody, HAIKU, OPUS, Received, SECOND, SONNET,
    api::{Api, Reply},
    post, request, send,
};

use crate::common::quiet;

const SHAPE: &str = "try later";

/// Sets a status and a body that no layer sets.
fn shaped() -> RejectionLayer {
    RejectionLayer::new(|_| {
        let response = Response::builder().status(StatusCode::IM_A_TEAPOT);
        response.body(SHAPE).expect("valid")
    })
}

fn assert_shaped<E: std::fmt::Debug>(answer: &Received<E>) -> RejectReason {
    assert_eq!((answer.status, answer.text()), (418, SHAPE), "{answer:?}");
    let rejection = answer.rejected().expect("tagged");
    assert_eq!(answer.header("x-tower-claude-refused-by"), rejection.by);
    assert_eq!(answer.class(), rejection.class());
    rejection.reason
}

#[tokio::test(start_paused = true)]
async fn rejection_of_every_layer_of_the_stack_takes_the_shape_of_the_user() {
    let never = || Api::by_model(|_| Reply::never());
    let stack = || {
        recommended()
            .with_fallback([HAIKU])
            .with_rejection(|_| Response::builder().status(418).body(SHAPE).expect("valid"))
    };
    // The circuit breaker.
    let open = stack();
    for model in [SONNET, HAIKU] {
        let handle = open.breaker().handle();
        handle.force_open(&Scope::of_model(&request(model, false)));
    }
    let answer = send(&open.layer(never()), request(SONNET, false)).await;
    let reason = assert_shaped(&answer.expect("a response"));
    assert!(matches!(reason, RejectReason::CircuitOpen { .. }));
    // The timer of the retry layer.
    let timeouts = Timeouts::new().with_total(Some(SECOND));
    let timed = stack().with_retry(RetryLayer::new().with_timeouts(timeouts));
    let answer = send(&timed.layer(never()), request(SONNET, false)).await;
    assert_shaped(&answer.expect("a response"));
    // The deadline, before and while the call waits for an equal one.
    let service = stack().layer(never());
    let cacheable = |time: Duration| {
        let mut request = request(SONNET, false);
        request.extensions_mut().insert(Cacheable::new());
        request
            .extensions_mut()
            .insert(Deadline(Instant::now() + time));
        request
    };
    let (leader, waiter) = tokio::join!(
        send(&service, cacheable(60 * SECOND)),
        send(&service, cacheable(SECOND))
    );
    for answer in [leader, waiter] {
        assert_shaped(&answer.expect("a response"));
    }
    let answer = send(&service, cacheable(Duration::ZERO)).await;
    assert_shaped(&answer.expect("a response"));
    // The body of the request.
    let mut short = request(SONNET, false);
    let length = http::HeaderValue::from(9_999);
    short.headers_mut().insert("content-length", length);
    let (head, body) = short.into_parts();
    let body = FrameBody::full(body.bytes().expect("buffered").clone());
    let answer = send(&service, Request::from_parts(head, body)).await;
    let reason = assert_shaped(&answer.expect("a response"));
    assert!(matches!(reason, RejectReason::Body { .. }));
}

#[tokio::test(start_paused = true)]
async fn rejection_of_a_single_layer_takes_the_shape_of_the_user() {
    let breaker = CircuitBreakerLayer::new();
    breaker
        .handle()
        .force_open(&Scope::of_model(&request(SONNET, false)));
    let service = shaped().layer(breaker.layer(quiet()));
    let answer = send(&service, request(SONNET, false)).await;
    assert_shaped(&answer.expect("a response"));
    // An outer layer still knows the rejection, and sends nothing again.
    let retry = RetryLayer::new();
    let answer = send(&retry.layer(service), request(SONNET, false)).await;
    assert_shaped(&answer.expect("a response"));
    assert_eq!(retry.handle().snapshot().retries, 0);

    let one = std::num::NonZeroU64::MIN;
    let limits = Limits::new().with_requests_per_minute(one);
    let bucket = TokenBucketLayer::new(limits).with_max_wait(Duration::ZERO);
    let service = shaped().layer(bucket.layer(quiet()));
    let first = send(&service, request(SONNET, false)).await;
    assert_eq!(first.expect("a response").status, 200);
    let second = send(&service, request(SONNET, false)).await;
    let reason = assert_shaped(&second.expect("a response"));
    assert!(matches!(reason, RejectReason::WaitTooLong { .. }));
}

/// The server asks for an hour.
#[tokio::test(start_paused = true)]
async fn raised_spend_limit_is_noticed_after_a_reset() {
    for fault in [Fault::SpendCap, Fault::OwnSpendLimit] {
        let fake = quiet();
        let stack = recommended();
        let service = stack.layer(fake.clone());
        fake.inject(fault.clone());
        for _ in 0..3 {
            let answer = send(&service, request(SONNET, false)).await;
            let answer = answer.expect("a response");
            assert_eq!(answer.kind(), Some(Kind::SpendLimit), "{fault:?}");
        }
        assert_eq!(fake.log_len(), 1, "{fault:?}");
        assert_eq!(stack.breaker().handle().reset(Kind::SpendLimit), 1);
        let before = Instant::now();
        let answer = send(&service, request(SONNET, false)).await;
        assert_eq!(answer.expect("a response").status, 200, "{fault:?}");
        assert!(before.elapsed() < SECOND, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn mistyped_models_get_the_404_and_leave_nothing_behind() {
    let api = Api::by_model(|model| match model {
        OPUS | SONNET | HAIKU => Reply::fine(),
        _ => Reply::no_model(),
    });
    let stack = recommended().with_fallback([OPUS, HAIKU]);
    let service = stack.layer(api.clone());
    for number in 0..300 {
        let name = format!("claude-sonet-{number}");
        let answer = send(&service, request(&name, number % 2 == 0)).await;
        assert_eq!(answer.expect("a response").status, 404);
    }
    assert_eq!(api.seen().len(), 300);
    assert_eq!(stack.breaker().handle().snapshot().circuits, []);
    let targets = stack.fallback().handle().snapshot().targets;
    assert!(targets.iter().all(|target| target.cool_down.is_none()));
    assert_eq!(targets.len(), 2);
    assert!(stack.bucket().handle().snapshot().len() <= 300);
}

/// A request whose model is missing, empty or not a text is answered by the API, whatever the
/// layer.
#[tokio::test(start_paused = true)]
async fn request_without_a_usable_model_is_sent_once_by_every_layer() {
    macro_rules! check {
        ($layer:expr, $body:expr, $status:expr) => {{
            let status = $status;
            let api = Api::by_model(move |_| match status {
                200 => Reply::fine(),
                404 => Reply::no_model(),
                _ => Reply::error(status, "invalid_request_error"),
            });
            let mut request: Request<RequestBody> = post("http://localhost", $body);
            request.extensions_mut().insert(Cacheable::new());
            let answer = send(&$layer.layer(api.clone()), request).await;
            let answer = answer.expect("a response");
            assert_eq!((answer.status, api.seen().len()), (status, 1), "{}", $body);
            assert!(!answer.is_rejected(), "{}", $body);
        }};
    }
    for body in [
        r#"{"max_tokens":64,"messages":[]}"#,
        r#"{"model":"","max_tokens":64,"messages":[]}"#,
        r#"{"model":" \t","max_tokens":64,"messages":[]}"#,
        r#"{"model":null,"max_tokens":64,"messages":[]}"#,
        r#"{"model":7,"max_tokens":64,"messages":[]}"#,
        r#"{"model":{"id":"claude-opus-5-5"},"max_tokens":64,"messages":[]}"#,
        r#"{"model":"claude-opus-5-5"#,
        "null",
        "",
    ] {
        for status in [400, 404, 200] {
            check!(CacheLayer::default(), body, status);
            check!(FallbackModelLayer::new([OPUS, HAIKU]), body, status);
            check!(RetryLayer::new(), body, status);
            check!(CircuitBreakerLayer::new(), body, status);
            check!(TokenBucketLayer::new(Limits::new()), body, status);
            check!(HeaderBudgetLayer::new(), body, status);
            check!(recommended().with_fallback([OPUS, HAIKU]), body, status);
        }
    }
}

/// A service other than Claude: one host is down, and the other has all that it needs.
#[tokio::test(start_paused = true)]
async fn host_that_is_down_does_not_stop_calls_to_another() {
    let stack = recommended()
        .with_rejection(|rejection| {
            let status = match rejection.reason {
                RejectReason::CircuitOpen { .. } => StatusCode::SERVICE_UNAVAILABLE,
                _ => rejection.status(),
            };
            let response = Response::builder().status(status);
            response.body(format!("{}\n", rejection.by)).expect("valid")
        })
        .with_classifier(HttpClassify::default());
    let service = stack.layer(tower::service_fn(
        |request: Request<RequestBody>| async move {
            let is_down = request.uri().host() == Some("a.example");
            let answer = Response::builder().status(if is_down { 503 } else { 200 });
            let answer = answer.header("content-type", "application/json");
            let body = FrameBody::full(r#"{"price":1}"#);
            Ok::<_, Infallible>(answer.body(body).expect("valid"))
        },
    ));
    let get = |host: &str| {
        let request = Request::get(format!("http://{host}/price"));
        request.body(RequestBody::from("")).expect("valid")
    };
    for _ in 0..3 {
        let down = send(&service, get("a.example")).await.expect("a response");
        assert_eq!(down.status, 503);
    }
    let down = send(&service, get("a.example")).await.expect("a response");
    assert_eq!((down.status, down.text()), (503, "circuit-breaker\n"));
    let other = send(&service, get("b.example")).await.expect("a response");
    assert_eq!((other.status, other.text()), (200, r#"{"price":1}"#));
}
