//! The head, idle and total timeouts, and the caller's deadline.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_claude_core::{Call, Deadline, Kind, RejectReason, Rejection, RequestBody};
use tower_claude_retry::{RetryLayer, Timeouts};
use tower_claude_tests::FrameBody;

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn head_timeout_is_retried_once() {
    let (layer, events) = layer();
    let api = Api::new([Reply::never(), Reply::never()]);
    let answer = through(&layer, &api).await;
    assert_eq!(api.arrivals(), [0, 601]);
    assert_eq!(api.elapsed(), 1201 * SECOND);
    assert_eq!((answer.status, api.alive()), (504, 0));
    assert!(answer.text().contains("timeout_error"));
    let refused = answer.extensions.get::<Rejection>().expect("tagged");
    let after = 600 * SECOND;
    assert_eq!(
        (refused.by, refused.reason),
        ("retry", RejectReason::TimedOut { after })
    );
    // The request was sent twice, so an outer fallback may act and nothing is refunded.
    assert_eq!(
        (answer.class().kind, answer.class().local),
        (Kind::Timeout, false)
    );
    assert_eq!(
        events.lines(),
        [
            "retry 1 timeout 1s",
            "gave up 2 timeout unanswered",
            "rejected timeout local=false"
        ]
    );
    assert_eq!(layer.handle().snapshot().timed_out, 2);
}

#[tokio::test(start_paused = true)]
async fn head_timeout_ends_at_first_content() {
    let (layer, _) = layer();
    let layer = layer.with_timeouts(Timeouts::NONE.with_head(Some(10 * SECOND)));
    let slow = Reply::stream([data(START), Piece::Wait(6 * SECOND), data(CONTENT)]);
    let api = Api::new([slow.after(5 * SECOND), Reply::fine()]);
    assert_eq!(through(&layer, &api).await.status, 200);
    assert_eq!(api.arrivals(), [0, 11]);
}

#[tokio::test(start_paused = true)]
async fn silent_held_response_times_out() {
    let (layer, events) = layer();
    let stalled = Reply::stream([
        data(START),
        Piece::Wait(100 * SECOND),
        data(PING),
        Piece::Stall,
    ]);
    let half = Reply::json(200, "").pieces([data("{"), Piece::Stall]);
    for (reply, at) in [(stalled, 221), (half, 121)] {
        let api = Api::new([reply, Reply::fine()]);
        assert_eq!(through(&layer, &api).await.status, 200);
        assert_eq!(api.arrivals(), [0, at]);
    }
    assert_eq!(events.lines(), ["retry 1 timeout 1s", "retry 1 timeout 1s"]);
    // Silence is due before the head timeout, which runs already.
    let api = Api::new([
        Reply::stream([Piece::Stall]).after(5 * SECOND),
        Reply::fine(),
    ]);
    assert_eq!(through(&layer, &api).await.status, 200);
    assert_eq!(api.arrivals(), [0, 126]);
}

#[tokio::test(start_paused = true)]
async fn stalled_error_body_is_classified_by_received_part() {
    let (layer, events) = layer();
    let stalled = Reply::rate_limited("7").pieces([data("{"), Piece::Stall]);
    let api = Api::new([stalled, Reply::fine()]);
    assert_eq!(through(&layer, &api).await.status, 200);
    assert_eq!(api.arrivals(), [0, 127]);
    assert_eq!(events.lines(), ["retry 1 rate_limited 7s"]);
}

#[tokio::test(start_paused = true)]
async fn total_timeout_covers_attempts_and_waits() {
    let (layer, events) = layer();
    let layer = layer.with_timeouts(Timeouts::new().with_total(Some(10 * SECOND)));
    // 0..2, wait 1, 3..: cut at 10.
    let api = Api::new([Reply::overloaded().after(2 * SECOND), Reply::never()]);
    let deadlines = Arc::new(Mutex::new(Vec::new()));
    let seen = deadlines.clone();
    let inner = api
        .clone()
        .map_request(move |request: Request<RequestBody>| {
            let call = Call::of(&request).expect("a call");
            seen.lock().unwrap().push(call.deadline());
            request
        });
    let start = Instant::now();
    let answer = send(&layer.layer(inner), request()).await.unwrap();
    assert_eq!((answer.status, api.elapsed()), (504, 10 * SECOND));
    assert_eq!(api.arrivals(), [0, 3]);
    assert_eq!(
        events.lines()[1..],
        ["gave up 2 timeout deadline", "rejected timeout local=false"]
    );
    // Inner layers see it as the deadline of the call while the call lasts.
    let deadline = Some(start + 10 * SECOND);
    assert_eq!(*deadlines.lock().unwrap(), [deadline, deadline]);
    let call = api.seen()[1].extensions.get::<Arc<Call>>().cloned();
    assert_eq!(call.unwrap().deadline(), None);
}

fn with_deadline(wait: Duration) -> Request<RequestBody> {
    let mut request = request();
    request
        .extensions_mut()
        .insert(Deadline(Instant::now() + wait));
    request
}

#[tokio::test(start_paused = true)]
async fn wait_past_deadline_gives_up() {
    let (layer, events) = layer();
    let api = Api::new([Reply::overloaded(), Reply::overloaded()]);
    let answer = send(&layer.layer(api.clone()), with_deadline(2 * SECOND))
        .await
        .unwrap();
    assert_eq!((answer.status, api.elapsed()), (529, SECOND));
    assert_eq!(
        events.lines().last().unwrap(),
        "gave up 2 overloaded deadline"
    );
}

#[tokio::test(start_paused = true)]
async fn attempt_past_deadline_is_answered_with_504() {
    let (layer, _) = layer();
    let api = Api::new([Reply::never()]);
    let answer = send(&layer.layer(api.clone()), with_deadline(2 * SECOND))
        .await
        .unwrap();
    assert_eq!((answer.status, api.elapsed()), (504, 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn call_past_deadline_is_rejected_unsent() {
    let (layer, events) = layer();
    let api = Api::new([]);
    let answer = send(&layer.layer(api.clone()), with_deadline(Duration::ZERO))
        .await
        .unwrap();
    assert_eq!((answer.status, answer.class().local), (504, true));
    let text = answer.text();
    assert!(
        text.contains("the deadline of this request has passed"),
        "{text}"
    );
    assert_eq!(events.lines(), ["rejected timeout local=true"]);
}

/// A service that becomes ready only in its second clone.
struct Stuck {
    api: Api,
    clones: u32,
}

impl Clone for Stuck {
    fn clone(&self) -> Self {
        Self {
            api: self.api.clone(),
            clones: self.clones + 1,
        }
    }
}

impl Service<Request<RequestBody>> for Stuck {
    type Response = Response<Body>;
    type Error = std::io::Error;
    type Future = <Api as Service<Request<RequestBody>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.clones < 2 {
            return Poll::Pending;
        }
        self.api.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        self.api.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn unready_service_is_dropped_after_head_timeout() {
    let (layer, _) = layer();
    let api = Api::new([Reply::fine()]);
    let stuck = Stuck {
        api: api.clone(),
        clones: 0,
    };
    // `oneshot` uses the service as it is; the layer clones it once per call, and once more.
    let answer = send(&layer.layer(stuck), request()).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(api.arrivals(), [601]);
}

/// Creating a timer would panic in this runtime.
#[test]
fn immediate_response_creates_no_timer() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let layer = RetryLayer::new().with_timeouts(Timeouts::new().with_total(Some(SECOND)));
    let api = service_fn(|_: Request<RequestBody>| async {
        let body = Full::new(bytes::Bytes::from([START, CONTENT, STOP].concat()));
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok::<_, Infallible>(response.body(body).unwrap())
    });
    let response = runtime.block_on(async {
        let response = layer.layer(api).oneshot(request()).await.unwrap();
        read(response.into_body()).await.0
    });
    assert!(response.ends_with(STOP.as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn second_attempt_restarts_idle_timeout() {
    let (layer, events) = layer();
    let slow = |last| Reply::stream([data(START), Piece::Wait(100 * SECOND), data(last)]);
    let api = Api::new([slow(ERROR), slow(CONTENT)]);
    through(&layer, &api).await;
    assert_eq!(api.arrivals(), [0, 101]);
    assert_eq!(
        events.lines(),
        ["retry 1 overloaded 1s", "broken truncated"]
    );
}

/// An upload that begins and never ends.
fn stalled(deadline: Option<Deadline>) -> Request<FrameBody> {
    let begin = tower_claude_tests::Piece::Data("{\"model\":".into());
    let mut request = Request::post("http://x/v1/messages")
        .body(FrameBody::new([begin, tower_claude_tests::Piece::Stall]))
        .expect("a request");
    if let Some(deadline) = deadline {
        request.extensions_mut().insert(deadline);
    }
    request
}

#[tokio::test(start_paused = true)]
async fn upload_that_stalls_ends_at_any_timeout() {
    let none = Timeouts::NONE;
    for (timeouts, deadline) in [
        (none.with_total(Some(SECOND)), None),
        (none.with_head(Some(SECOND)), None),
        (none, Some(SECOND)),
        (Timeouts::new(), Some(SECOND)),
    ] {
        let (layer, events) = layer();
        let layer = layer.with_timeouts(timeouts);
        let api = Api::new([]);
        let start = Instant::now();
        let request = stalled(deadline.map(|wait| Deadline(start + wait)));
        let answer = send(&layer.layer(api.clone()), request).await.unwrap();
        assert_eq!((answer.status, start.elapsed()), (504, SECOND));
        assert!(answer.text().contains("timeout_error"));
        assert_eq!(answer.rejected().expect("tagged").by, "request-body");
        assert_eq!(events.lines(), ["rejected timeout local=true"]);
        assert!(api.arrivals().is_empty(), "nothing was sent");
    }
}

/// The server waits for the caller, so the server is not blamed and nothing is sent again.
#[tokio::test(start_paused = true)]
async fn head_timeout_while_a_streamed_upload_stalls_is_local() {
    let (layer, events) = layer();
    let layer = layer
        .with_timeouts(Timeouts::NONE.with_head(Some(SECOND)))
        .with_body_limit(1);
    let client = service_fn(|request: Request<RequestBody>| async {
        let _ = read(request.into_body()).await;
        Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from("{}"))))
    });
    let answer = send(&layer.layer(client), stalled(None)).await.unwrap();
    assert_eq!((answer.status, answer.class().local), (504, true));
    assert_eq!(events.lines(), ["rejected timeout local=true"]);
}

#[tokio::test(start_paused = true)]
async fn total_timeout_covers_the_upload() {
    struct Slow(std::pin::Pin<Box<tokio::time::Sleep>>, bool);
    impl http_body::Body for Slow {
        type Data = bytes::Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Infallible>>> {
            std::task::ready!(self.0.as_mut().poll(cx));
            let sent = std::mem::replace(&mut self.1, true);
            Poll::Ready((!sent).then(|| Ok(http_body::Frame::data("{}".into()))))
        }
    }
    let (layer, _) = layer();
    let layer = layer.with_timeouts(Timeouts::NONE.with_total(Some(10 * SECOND)));
    let api = Api::new([Reply::never()]);
    let slow = Slow(Box::pin(tokio::time::sleep(6 * SECOND)), false);
    let answer = send(&layer.layer(api.clone()), Request::new(slow)).await;
    assert_eq!((answer.unwrap().status, api.elapsed()), (504, 10 * SECOND));
    assert_eq!(api.arrivals(), [6]);
}
