//! Tests of the initial concurrency, which lasts until the first headers.

mod common;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use common::{ClaudeService, gauge, layer, message, only, send_all, send_ok, stream};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    time::{Instant, Sleep},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_core::RequestBody;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_tests::{Alive, Reply};

/// Returns a service that responds once `gate` has a permit.
fn gated(gate: Arc<Semaphore>, reply: Reply) -> impl ClaudeService {
    service_fn(move |_: Request<RequestBody>| {
        let (gate, reply) = (gate.clone(), reply.clone());
        async move {
            gate.acquire().await.expect("open").forget();
            let alive = Alive::new();
            reply.response(alive.guard())
        }
    })
}

async fn settle_down() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn initial_concurrency_grows_by_one_with_each_response() {
    let gate = Arc::new(Semaphore::new(0));
    let layer = layer();
    let service = layer.layer(gated(gate.clone(), Reply::message()));
    let calls = tokio::spawn(async move {
        send_all(&service, (0..100).map(|_| message(10, 10)).collect()).await
    });
    settle_down().await;
    let state = || {
        let scope = only(&layer.limiter());
        (scope.in_flight, scope.queued)
    };
    assert_eq!(state(), (8, 92));
    gate.add_permits(1);
    settle_down().await;
    assert_eq!(state(), (9, 90));
    gate.add_permits(1);
    settle_down().await;
    assert_eq!(state(), (10, 88));
    gate.add_permits(98);
    assert_eq!(calls.await.expect("no panic"), [200; 100]);
    assert_eq!(state(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn first_headers_end_the_initial_concurrency() {
    let gate = Arc::new(Semaphore::new(0));
    let reply = gauge(Reply::message(), "ratelimit-requests", 1_000, 999, 1);
    let layer = layer();
    let service = layer.layer(gated(gate.clone(), reply));
    let calls = tokio::spawn(async move {
        send_all(&service, (0..100).map(|_| message(10, 10)).collect()).await
    });
    settle_down().await;
    assert_eq!(only(&layer.limiter()).in_flight, 8);
    gate.add_permits(1);
    settle_down().await;
    assert_eq!(only(&layer.limiter()).in_flight, 99);
    gate.add_permits(99);
    assert_eq!(calls.await.expect("no panic"), [200; 100]);
}

/// After the first eight calls are dropped, the next eight are sent.
#[tokio::test(start_paused = true)]
async fn dropped_calls_do_not_block_the_initial_concurrency() {
    let gate = Arc::new(Semaphore::new(0));
    let layer = layer();
    let service = layer.layer(gated(gate.clone(), Reply::message()));
    let mut calls: Vec<_> = (0..20)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send_ok(&service, message(10, 10)).await })
        })
        .collect();
    settle_down().await;
    let last = calls.split_off(8);
    for call in calls {
        call.abort();
    }
    settle_down().await;
    assert_eq!(only(&layer.limiter()).in_flight, 8);
    gate.add_permits(12);
    for call in last {
        assert_eq!(call.await.expect("no panic").status, 200);
    }
}

const BEGIN: &str = concat!(
    "event: message_start\n",
    r#"data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","#,
    r#""model":"claude-opus-5-5","content":[],"usage":{"input_tokens":20,"output_tokens":1}}}"#,
    "\n\nevent: content_block_start\n",
    r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
    "\n\nevent: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}"#,
    "\n\n",
);
const WITHOUT_MESSAGE_STOP: &str = concat!(
    "event: message_delta\n",
    r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}"#,
    "\n\n",
);
const ERROR_EVENT: &str = concat!(
    "event: error\n",
    r#"data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
    "\n\n",
);

/// A body whose last part comes five seconds after the first.
struct LastingBody {
    parts: Vec<&'static str>,
    pause: Pin<Box<Sleep>>,
}

impl Body for LastingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.parts.len() == 1 {
            ready!(self.pause.as_mut().poll(cx));
        }
        let part = self
            .parts
            .pop()
            .map(|part| Bytes::from_static(part.as_bytes()));
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }
}

/// Sends 400 streams at once to a server without rate-limit headers, and returns the virtual time
/// until all have ended. If `drops`, the callers drop the body after the first content.
async fn time_of_400(status: u16, begin: &'static str, end: &'static str, drops: bool) -> Duration {
    let start = Instant::now();
    let service =
        HeaderBudgetLayer::new().layer(service_fn(move |_: Request<RequestBody>| async move {
            if begin.is_empty() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            let kind = if status == 200 && !begin.is_empty() {
                "text/event-stream"
            } else {
                "application/json"
            };
            let body = LastingBody {
                parts: vec![end, begin],
                pause: Box::pin(tokio::time::sleep(Duration::from_secs(5))),
            };
            let response = Response::builder()
                .status(status)
                .header("content-type", kind);
            Ok::<_, Infallible>(response.body(body).expect("a response"))
        }));
    let calls: Vec<_> = (0..400)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move {
                let response = service.oneshot(stream(20, 3)).await.expect("a response");
                assert_eq!(response.status(), status);
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    if frame.is_err() || drops {
                        tokio::time::sleep(Duration::from_secs(u64::from(drops) * 5)).await;
                        break;
                    }
                }
            })
        })
        .collect();
    for call in calls {
        call.await.expect("answered");
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn streams_that_never_end_ideally_open_the_initial_concurrency() {
    const INVALID: &str =
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#;
    for (name, status, begin, end, drops) in [
        (
            "without message_stop",
            200,
            BEGIN,
            WITHOUT_MESSAGE_STOP,
            false,
        ),
        ("error after content", 200, BEGIN, ERROR_EVENT, false),
        (
            "dropped after content",
            200,
            BEGIN,
            WITHOUT_MESSAGE_STOP,
            true,
        ),
        ("invalid requests", 400, "", INVALID, false),
    ] {
        let time = time_of_400(status, begin, end, drops).await;
        assert!(time <= Duration::from_secs(60), "{name}: {time:?}");
    }
}
