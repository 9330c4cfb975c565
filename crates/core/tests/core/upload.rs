//! Request bodies that fail, stall or are not `Unpin`.

use std::{
    convert::Infallible,
    future::ready,
    marker::PhantomPinned,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, Limited};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_core::{
    BodyFailure, BoxError, Call, Class, ClaudeClassify, Deadline, Kind, RejectReason, Rejection,
    RequestBody,
    driver::{AttemptFailure, AttemptPolicy, CallPolicy, CallStart, Clock, DriverLayer},
};

use crate::frames::{Cut, Frames, Piece, data, frames};

const SECOND: Duration = Duration::from_secs(1);

pin_project! {
    /// A body that stalls at its end, and that is not `Unpin`.
    struct Stalled {
        frames: Frames,
        #[pin]
        marker: PhantomPinned,
    }
}

fn stalled(pieces: impl IntoIterator<Item = Piece>) -> Stalled {
    Stalled {
        frames: frames(pieces),
        marker: PhantomPinned,
    }
}

impl Body for Stalled {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match Pin::new(self.project().frames).poll_frame(cx) {
            Poll::Ready(None) => Poll::Pending,
            frame => frame,
        }
    }
}

/// The reports to the policies.
#[derive(Default)]
struct Log {
    started: Option<Instant>,
    classes: Vec<Class>,
    timeouts: usize,
}

/// Policies that record, with a timeout to read requests and a timeout of attempts.
#[derive(Clone, Default)]
struct Recorder {
    log: Arc<Mutex<Log>>,
    request_timeout: Option<Duration>,
    head: Option<Duration>,
}

impl Recorder {
    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().expect("no panic")
    }
}

type Timer = Option<Pin<Box<Sleep>>>;

impl CallPolicy for Recorder {
    type State = Timer;
    type BodyState = ();

    fn request_timeout(&self) -> Option<Duration> {
        self.request_timeout
    }

    fn start(&self, start: &mut CallStart<'_>) -> Timer {
        self.log().started = Some(start.now);
        None
    }

    fn poll_timeout(
        &self,
        timer: &mut Timer,
        call: &Arc<Call>,
        _: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Rejection> {
        let Some(after) = self.head else {
            return Poll::Pending;
        };
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        std::task::ready!(timer.as_mut().poll(cx));
        call.time_out_attempt();
        Poll::Ready(Rejection::new("timer", RejectReason::TimedOut { after }))
    }

    fn on_failure(&self, _: &mut Timer, _: &Arc<Call>, _: &AttemptFailure<'_>) -> Option<Duration> {
        None
    }

    fn next_request(&self, _: &mut Timer, _: &Arc<Call>) -> Request<RequestBody> {
        Request::default()
    }
}

impl AttemptPolicy for Recorder {
    type Attempt = ();

    fn poll_admit(
        &self,
        (): &mut (),
        _: &mut Request<RequestBody>,
        _: &Arc<Call>,
        _: &mut Clock,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn on_response(&self, (): &mut (), class: &Class, _: Option<&mut Parts>, _: &mut Clock) {
        self.log().classes.push(*class);
    }

    fn on_timeout(&self, (): &mut ()) {
        self.log().timeouts += 1;
    }
}

/// Sends a request through a driver of these policies to a service that answers at once.
async fn answer<B>(recorder: &Recorder, request: Request<B>) -> Response<Bytes>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let layer = DriverLayer::new(
        recorder.clone(),
        recorder.clone(),
        ClaudeClassify::default(),
    );
    let service = layer.layer(service_fn(|request: Request<RequestBody>| {
        assert!(request.body().rejection().is_none(), "it was sent");
        ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(
            "{}",
        )))))
    }));
    let response = service.oneshot(request).await.expect("infallible");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("infallible").to_bytes();
    Response::from_parts(head, body)
}

fn rejection(response: &Response<Bytes>) -> Rejection {
    *response.extensions().get().expect("rejected")
}

#[tokio::test(start_paused = true)]
async fn stalled_upload_ends_at_the_deadline_or_the_request_timeout() {
    for (deadline, timeout, after) in [
        (Some(1), None, 1),
        (None, Some(2), 2),
        (Some(3), Some(2), 2),
    ] {
        let recorder = Recorder {
            request_timeout: timeout.map(|seconds: u32| seconds * SECOND),
            ..Recorder::default()
        };
        let start = Instant::now();
        let mut request = Request::new(stalled([data("{\"model\":")]));
        if let Some(seconds) = deadline {
            request
                .extensions_mut()
                .insert(Deadline(start + seconds * SECOND));
        }
        let response = answer(&recorder, request).await;
        assert_eq!(start.elapsed(), after * SECOND);
        assert_eq!(response.status(), 504);
        assert!(response.body().starts_with(b"{\"type\":\"error\""));
        let class = rejection(&response).class();
        assert_eq!((class.kind, class.local), (Kind::Timeout, true));
        assert!(recorder.log().classes.is_empty(), "no attempt was made");
    }
}

#[tokio::test]
async fn broken_upload_is_answered_without_a_call() {
    let long = || Limited::new(Full::new(Bytes::from("12345")), 3);
    let recorder = Recorder::default();
    let broken = frames([data("{"), Piece::Wait, Piece::Error]);
    let short = |pieces: &[Piece]| {
        let request = Request::post("/v1/messages").header("content-length", "3");
        request.body(frames(pieces.iter().cloned())).expect("valid")
    };
    for (response, status, failure) in [
        (
            answer(&recorder, short(&[data("{}")])).await,
            400,
            BodyFailure::Broken,
        ),
        (
            answer(&recorder, short(&[data("{"), Piece::Wait, data("}")])).await,
            400,
            BodyFailure::Broken,
        ),
        (
            answer(&recorder, Request::new(broken)).await,
            400,
            BodyFailure::Broken,
        ),
        (
            answer(&recorder, Request::new(long())).await,
            413,
            BodyFailure::TooLong,
        ),
    ] {
        assert_eq!(response.status(), status);
        assert_eq!(
            response.headers()["x-tower-claude-refused-by"],
            "request-body"
        );
        assert_eq!(rejection(&response).reason, RejectReason::Body { failure });
        assert!(rejection(&response).class().local);
    }
    assert!(recorder.log().classes.is_empty(), "no attempt was made");
}

#[tokio::test(start_paused = true)]
async fn call_begins_when_its_request_arrives() {
    pin_project! {
        struct Slow {
            #[pin]
            sleep: Sleep,
            sent: bool,
        }
    }
    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let this = self.project();
            std::task::ready!(this.sleep.poll(cx));
            let sent = std::mem::replace(this.sent, true);
            Poll::Ready((!sent).then(|| Ok(Frame::data(Bytes::from("{}")))))
        }
    }
    let recorder = Recorder::default();
    let start = Instant::now();
    let sleep = tokio::time::sleep(5 * SECOND);
    let response = answer(&recorder, Request::new(Slow { sleep, sent: false })).await;
    assert_eq!(
        (response.status().as_u16(), start.elapsed()),
        (200, 5 * SECOND)
    );
    assert_eq!(recorder.log().started, Some(start));
}

/// Sends a body that is too long to buffer to a client that reads it, and fails with its error.
async fn streamed(recorder: &Recorder, body: Stalled) -> Result<u16, BoxError> {
    let layer = DriverLayer::new(
        recorder.clone(),
        recorder.clone(),
        ClaudeClassify::default(),
    )
    .with_body_limit(1);
    let service = layer.layer(service_fn(|request: Request<RequestBody>| async {
        request.into_body().collect().await?;
        Ok::<_, BoxError>(Response::new(Full::new(Bytes::from("{}"))))
    }));
    let response = service.oneshot(Request::new(body)).await?;
    Ok(response.status().as_u16())
}

#[tokio::test(start_paused = true)]
async fn failure_of_a_streamed_upload_is_local() {
    let recorder = Recorder::default();
    let body = stalled([data("long"), data("er"), Piece::Error]);
    let error = streamed(&recorder, body)
        .await
        .expect_err("the client's error");
    assert!(error.is::<Cut>());
    let expected = Class::new(Kind::BadRequest).into_local();
    assert_eq!(recorder.log().classes, [expected]);
}

#[tokio::test(start_paused = true)]
async fn timeout_while_the_upload_stalls_is_local() {
    let recorder = Recorder {
        head: Some(SECOND),
        ..Recorder::default()
    };
    let answer = streamed(&recorder, stalled([data("long")])).await;
    assert_eq!(answer.expect("a rejection"), 504);
    let log = recorder.log();
    assert_eq!(log.classes, [Class::new(Kind::Timeout).into_local()]);
    assert_eq!(log.timeouts, 0);
}

#[tokio::test(start_paused = true)]
async fn call_dropped_while_its_upload_stalls_is_reported_as_local() {
    let recorder = Recorder::default();
    let call = streamed(&recorder, stalled([data("long")]));
    tokio::time::timeout(SECOND, call)
        .await
        .expect_err("stalled");
    assert_eq!(
        recorder.log().classes,
        [Class::new(Kind::Timeout).into_local()]
    );
}
