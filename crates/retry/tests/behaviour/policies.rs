//! The policy in one driver with attempt policies.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, response::Parts};
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt};
use tower_claude_core::{
    Call, Class, ClaudeClassify, Kind, Outcome, Rejection, RequestBody,
    driver::{AttemptFailure, AttemptPolicy, CallPolicy, CallStart, Clock, DriverLayer},
};
use tower_claude_retry::{RetryLayer, RetryPolicy, Timeouts};

use crate::api::*;

/// An attempt policy that records its notifications, and admits attempts or never does.
#[derive(Clone)]
struct Recorder {
    log: Arc<Mutex<Vec<String>>>,
    admits: bool,
}

impl Recorder {
    fn new() -> Self {
        Self {
            log: Arc::default(),
            admits: true,
        }
    }

    fn record(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

impl AttemptPolicy for Recorder {
    type Attempt = ();
    fn reads_usage(&self, _: &Self::Attempt) -> bool {
        true
    }

    fn poll_admit(
        &self,
        (): &mut (),
        _: &mut Request<RequestBody>,
        _: &Arc<Call>,
        _: &mut Clock,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        if self.admits {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn on_response(&self, (): &mut (), class: &Class, _: Option<&mut Parts>, _: &mut Clock) {
        self.record(class.kind.as_str().to_owned());
    }

    fn on_end(&self, (): &mut (), outcome: &Outcome<'_>, _: &mut Clock) {
        let end = match outcome {
            Outcome::Complete { .. } => "complete",
            Outcome::Failed { .. } => "failed",
            Outcome::Dropped { .. } => "dropped",
            _ => "other",
        };
        self.record(format!("{end} {:?}", outcome.usage().input_tokens));
    }

    fn on_timeout(&self, (): &mut ()) {
        self.record("timeout".to_owned());
    }
}

fn driver<P>(policy: P, recorder: &Recorder) -> DriverLayer<P, Recorder, ClaudeClassify> {
    DriverLayer::new(policy, recorder.clone(), ClaudeClassify::default())
}

/// Returns the policy with these timeouts and without jitter.
fn policy(timeouts: Timeouts) -> RetryPolicy {
    layer().0.with_timeouts(timeouts).policy()
}

fn total() -> Timeouts {
    Timeouts::NONE.with_total(Some(10 * SECOND))
}

fn idle() -> Timeouts {
    Timeouts::NONE.with_idle(Some(10 * SECOND))
}

#[tokio::test(start_paused = true)]
async fn dropped_held_response_reports_its_usage_once() {
    let recorder = Recorder::new();
    let api = Api::new([Reply::stream([data(START), data(PING), Piece::Stall])]);
    let service = driver(RetryLayer::new().policy(), &recorder).layer(api.clone());
    let call = service.oneshot(request());
    assert!(timeout(SECOND, call).await.is_err());
    assert_eq!(recorder.take(), ["success", "dropped Some(3)"]);
    assert_eq!(api.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn held_response_that_times_out_reports_its_usage_once() {
    let recorder = Recorder::new();
    let stalled = Reply::stream([data(START), Piece::Stall]);
    let api = Api::new([stalled, Reply::overloaded(), Reply::fine()]);
    let service = driver(policy(idle()), &recorder).layer(api.clone());
    assert_eq!(send(&service, request()).await.unwrap().status, 200);
    assert_eq!(api.arrivals(), [0, 11, 13]);
    let log = [
        "success",
        "timeout",
        "dropped Some(3)",
        "overloaded",
        "success",
        "complete None",
    ];
    assert_eq!(recorder.take(), log);
}

/// A service that never becomes ready.
#[derive(Clone)]
struct NeverReady;

impl Service<Request<RequestBody>> for NeverReady {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        unreachable!("not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn total_timeout_ends_wait_for_admission() {
    let mut recorder = Recorder::new();
    recorder.admits = false;
    let api = Api::new([]);
    let service = driver(policy(total()), &recorder).layer(api.clone());
    let answer = send(&service, request()).await.unwrap();
    assert_eq!((answer.status, api.elapsed()), (504, 10 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn total_timeout_ends_wait_for_readiness() {
    let (layer, api) = (layer().0.with_timeouts(total()), Api::new([]));
    let response = layer.layer(NeverReady).oneshot(request()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), api.elapsed()),
        (504, 10 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn total_timeout_ends_wait_for_head_and_held_response() {
    for reply in [Reply::never(), Reply::stream([data(START), Piece::Stall])] {
        let api = Api::new([reply]);
        let service = driver(policy(total()), &Recorder::new()).layer(api.clone());
        let answer = send(&service, request()).await.unwrap();
        assert_eq!((answer.status, api.elapsed()), (504, 10 * SECOND));
    }
}

#[tokio::test(start_paused = true)]
async fn timeouts_end_reading_of_error_body() {
    for (timeouts, attempts) in [(total(), 1), (idle(), 2)] {
        let recorder = Recorder::new();
        let stalled = Reply::rate_limited("7").pieces([data("{"), Piece::Stall]);
        let api = Api::new([stalled, Reply::fine()]);
        let service = driver(policy(timeouts), &recorder).layer(api.clone());
        let response = service.oneshot(request()).await.unwrap();
        let statuses = [429, 200];
        assert_eq!(response.status(), statuses[attempts - 1]);
        assert_eq!(api.seen().len(), attempts);
        assert_eq!(recorder.take()[0], "rate_limited");
    }
}

#[tokio::test(start_paused = true)]
async fn timeouts_end_stream_and_report_its_usage_once() {
    for (timeouts, log) in [
        (total(), vec!["success", "dropped Some(3)"]),
        (idle(), vec!["success", "timeout", "dropped Some(3)"]),
    ] {
        let recorder = Recorder::new();
        let pieces = [data(START), data(CONTENT), Piece::Stall];
        let api = Api::new([Reply::stream(pieces)]);
        let service = driver(policy(timeouts), &recorder).layer(api.clone());
        let answer = send(&service, request()).await.unwrap();
        assert!(answer.text().contains("event: error"));
        assert_eq!((api.elapsed(), api.alive()), (10 * SECOND, 0));
        assert_eq!(recorder.take(), log);
    }
}

#[tokio::test(start_paused = true)]
async fn retry_dropped_before_it_is_sent_is_refunded() {
    /// A service that is ready for one request only.
    #[derive(Clone)]
    struct ReadyOnce(Api);

    impl Service<Request<RequestBody>> for ReadyOnce {
        type Response = Response<Body>;
        type Error = io::Error;
        type Future = <Api as Service<Request<RequestBody>>>::Future;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.0.seen().is_empty() {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        }

        fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
            self.0.call(request)
        }
    }

    let (layer, _) = layer();
    let before = layer.handle().snapshot().budget_tokens;
    let api = Api::new([Reply::overloaded()]);
    let call = layer.layer(ReadyOnce(api)).oneshot(request());
    assert!(timeout(Duration::from_millis(1500), call).await.is_err());
    assert_eq!(layer.handle().snapshot().retries, 1);
    let after = layer.handle().snapshot().budget_tokens;
    assert!(after >= before, "{before} {after}");
}

/// A call policy for which a response with the header `x-unwanted` is a failure.
struct RejectUnwanted {
    /// True if such a call is sent again.
    repeats: bool,
}

impl CallPolicy for RejectUnwanted {
    type State = bool;
    type BodyState = ();

    fn start(&self, _: &mut CallStart<'_>) -> bool {
        self.repeats
    }

    fn on_success(&self, _: &mut bool, _: &Arc<Call>, head: &mut Parts, _: bool) -> Option<Class> {
        let is_unwanted = head.headers.contains_key("x-unwanted");
        is_unwanted.then(|| Class::new(Kind::ModelRefusal))
    }

    fn on_failure(
        &self,
        repeats: &mut bool,
        _: &Arc<Call>,
        _: &AttemptFailure<'_>,
    ) -> Option<Duration> {
        std::mem::take(repeats).then_some(Duration::ZERO)
    }

    fn next_request(&self, _: &mut bool, _: &Arc<Call>) -> Request<RequestBody> {
        request()
    }
}

#[tokio::test(start_paused = true)]
async fn held_response_that_policy_rejects_reports_its_end_once() {
    let pieces = [data(START), data(CONTENT), Piece::Wait(SECOND), data(STOP)];
    let unwanted = || Reply::stream(pieces.clone()).header("x-unwanted", "1");
    let recorder = Recorder::new();
    let layer = driver(RejectUnwanted { repeats: true }, &recorder);
    let api = Api::new([unwanted(), Reply::fine()]);
    assert_eq!(
        send(&layer.layer(api), request()).await.unwrap().status,
        200
    );
    let log = ["success", "dropped Some(3)", "success", "complete None"];
    assert_eq!(recorder.take(), log);
    let layer = driver(RejectUnwanted { repeats: false }, &recorder);
    let answer = send(&layer.layer(Api::new([unwanted()])), request())
        .await
        .unwrap();
    assert_eq!(answer.text(), [START, CONTENT, STOP].concat());
    assert_eq!(recorder.take(), ["success", "complete Some(3)"]);
}
