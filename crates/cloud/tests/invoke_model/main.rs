//! `InvokeModel` as a whole: a request for the Claude API, translated and signed, is answered by a
//! fake region of Bedrock with an event stream, which arrives as server-sent events.
#![cfg(feature = "bedrock")]

#[path = "../common/frames.rs"]
mod frames;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE, response::Parts};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::{Layer, Service, ServiceExt};
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_cloud::{
    CloudLayer,
    bedrock::{Credentials, InvocationMetrics, ReportedMetrics, SigV4},
};
use tower_claude_core::{
    BoxError, Call, Class, ClaudeClassify, Kind, Outcome, Rejection, RequestBody, STREAM_TRUNCATED,
    driver::{AttemptPolicy, Clock, DriverLayer},
};
use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeCredential, Fault, FrameFault};
use tower_claude_retry::RetryLayer;
use tower_claude_wire::{
    StreamState, Usage,
    cloud::{Profile, Target},
};

use frames::{BLOCK_START, BLOCK_STOP, DELTA, MESSAGE_DELTA, MESSAGE_START, chunk};

type Cloud = <CloudLayer as Layer<FakeClaude>>::Service;

const REGION: &str = "us-west-2";
const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const ARN: &str = "arn:aws:bedrock:us-west-2:111122223333:application-inference-profile/a1b2%c3";

fn region() -> FakeClaude {
    let credential = FakeCredential::access_key(KEY, SECRET).session_token("token+/=");
    let cloud = FakeCloud::bedrock(REGION)
        .credential(credential)
        .arn(ARN, "claude-opus-5-5");
    FakeClaude::builder().cloud(cloud).output_tokens(20).build()
}

fn target() -> Target {
    let target = Target::bedrock(REGION).expect("a region");
    target.with_profile(Profile::Us).expect("a profile")
}

fn signer() -> SigV4 {
    let credentials = Credentials::new(KEY, SECRET).with_session_token("token+/=".to_owned());
    SigV4::fixed(credentials, "bedrock", REGION)
}

fn cloud(fake: FakeClaude, target: Target, signer: SigV4) -> Cloud {
    CloudLayer::new()
        .with_default_target(target, signer)
        .layer(fake)
}

fn message(model: &str, stream: bool) -> Request<RequestBody> {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":100,"messages":[{{"role":"user","content":"Grüße 😀"}}],"stream":{stream}}}"#
    );
    Request::post("https://api.anthropic.com/v1/messages?beta=true")
        .header("content-type", "application/json")
        .header("anthropic-version", "2023-06-01")
        .header("user-agent", "a test")
        .body(RequestBody::from(body))
        .expect("a valid request")
}

async fn send<S, B>(service: S, request: Request<RequestBody>) -> (Parts, Result<Bytes, BoxError>)
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error: std::fmt::Debug>,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    let response = service.oneshot(request).await.expect("a response");
    let (head, body) = response.into_parts();
    let body = body.collect().await;
    (
        head,
        body.map(http_body_util::Collected::to_bytes)
            .map_err(Into::into),
    )
}

fn metrics(head: &Parts) -> InvocationMetrics {
    let reported = head.extensions.get::<ReportedMetrics>();
    *reported.and_then(ReportedMetrics::get).expect("metrics")
}

/// A policy that records the outcomes of attempts.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<Vec<Kind>>>);

impl Outcomes {
    fn layer(&self) -> DriverLayer<(), Self, ClaudeClassify> {
        DriverLayer::new((), self.clone(), ClaudeClassify::default())
    }

    fn take(&self) -> Vec<Kind> {
        std::mem::take(&mut self.0.lock().expect("not poisoned"))
    }
}

impl AttemptPolicy for Outcomes {
    type Attempt = ();

    fn poll_admit(
        &self,
        _: &mut (),
        _: &mut Request<RequestBody>,
        _: &Arc<Call>,
        _: &mut Clock,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn on_response(&self, _: &mut (), class: &Class, _: Option<&mut Parts>, _: &mut Clock) {
        if !class.is_success() {
            self.0.lock().expect("not poisoned").push(class.kind);
        }
    }

    fn on_end(&self, _: &mut (), outcome: &Outcome<'_>, _: &mut Clock) {
        let kind = match outcome {
            Outcome::Complete { .. } => Kind::Success,
            Outcome::Failed { class, .. } => class.kind,
            other => panic!("the body is read to its end, not {other:?}"),
        };
        self.0.lock().expect("not poisoned").push(kind);
    }
}

#[tokio::test(start_paused = true)]
async fn stream_of_any_model_id_is_signed_and_arrives_whole() {
    let named = target().with_model("claude-opus-5-5", ARN).expect("an id");
    for (target, model, path) in [
        (
            target(),
            "claude-opus-5-5",
            "/model/us.anthropic.claude-opus-5-5/",
        ),
        (
            target(),
            "claude-sonnet-4-5-20250929",
            "/model/us.anthropic.claude-sonnet-4-5-20250929-v1:0/",
        ),
        (
            named,
            "claude-opus-5-5",
            "/model/arn:aws:bedrock:us-west-2:111122223333:application-inference-profile%2Fa1b2%25c3/",
        ),
    ] {
        let fake = region();
        let service = cloud(fake.clone(), target.clone(), signer());
        let (head, body) = send(service, message(model, true)).await;
        let body = body.expect("a whole body");
        assert_eq!(head.status, StatusCode::OK, "{body:?}");
        assert_eq!(
            head.headers["content-type"],
            "text/event-stream; charset=utf-8"
        );
        let metrics = self::metrics(&head);
        let mut state = StreamState::new();
        state.feed(&body);
        assert!(state.is_complete() && state.error().is_none(), "{body:?}");
        assert!(!String::from_utf8_lossy(&body).contains("invocationMetrics"));
        assert_eq!(metrics.output_tokens, state.usage().output_tokens);
        assert!(metrics.agrees_with(state.usage()), "{metrics:?}");
        let log = fake.log();
        let request = log[0].request.as_ref().expect("a request that was kept");
        assert_eq!(
            request.uri.path(),
            format!("{path}invoke-with-response-stream")
        );
        // The JSON response has the same usage, and the counts of the headers agree.
        let (head, body) = send(cloud(fake, target, signer()), message(model, false)).await;
        let body = body.expect("a whole body");
        assert_eq!(head.status, StatusCode::OK, "{body:?}");
        let usage = Usage::from_message(&body).expect("usage");
        assert_eq!(usage.output_tokens, state.usage().output_tokens);
        let metrics = self::metrics(&head);
        assert_eq!(metrics.output_tokens, usage.output_tokens);
        assert!(metrics.agrees_with(&usage), "{metrics:?} {usage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_secret_or_token_is_refused_by_the_verifier() {
    for credentials in [
        Credentials::new(KEY, "another secret").with_session_token("token+/=".to_owned()),
        Credentials::new(KEY, SECRET).with_session_token("another".to_owned()),
        Credentials::new(KEY, SECRET),
        Credentials::new("AKIDOTHER", SECRET).with_session_token("token+/=".to_owned()),
    ] {
        let signer = SigV4::fixed(credentials, "bedrock", REGION);
        let service = cloud(region(), target(), signer);
        let (head, _) = send(service, message("claude-opus-5-5", true)).await;
        assert_eq!(head.status, StatusCode::FORBIDDEN);
    }
    for (service, region_of_scope) in [("bedrock-mantle", REGION), ("bedrock", "us-east-1")] {
        let credentials = Credentials::new(KEY, SECRET).with_session_token("token+/=".to_owned());
        let signer = SigV4::fixed(credentials, service, region_of_scope);
        let service = cloud(region(), target(), signer);
        let (head, _) = send(service, message("claude-opus-5-5", true)).await;
        assert_eq!(head.status, StatusCode::FORBIDDEN);
    }
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_are_fetched_again_and_the_request_is_sent_once_more() {
    let fake = FakeClaude::builder()
        .cloud(
            FakeCloud::bedrock(REGION)
                .access_key("AKID1", SECRET)
                .access_key("AKID2", SECRET),
        )
        .build();
    fake.expire_credential("AKID1");
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let source = move || {
        let call = counter.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok(Credentials::new(format!("AKID{call}"), SECRET)) }
    };
    let signer = SigV4::new(source, "bedrock", REGION);
    let service = cloud(fake.clone(), target(), signer);
    for _ in 0..2 {
        let (head, body) = send(service.clone(), message("claude-opus-5-5", true)).await;
        assert_eq!(head.status, StatusCode::OK);
        let mut state = StreamState::new();
        state.feed(&body.expect("a whole body"));
        assert!(state.is_complete());
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let statuses: Vec<_> = fake.log().iter().map(|attempt| attempt.status).collect();
    assert_eq!(statuses, [403, 200, 200]);
    // The next credentials are not known to the server: no third attempt.
    fake.expire_credential("AKID2");
    let (head, _) = send(service, message("claude-opus-5-5", true)).await;
    assert_eq!(head.status, StatusCode::FORBIDDEN);
    assert_eq!((calls.load(Ordering::Relaxed), fake.log_len()), (3, 5));
}

fn frame(how: FrameFault, after_tokens: u64) -> Fault {
    Fault::Frame { how, after_tokens }
}

/// The beginnings of an event stream that break before any content.
fn broken_beginnings() -> [Vec<u8>; 5] {
    let start = include_bytes!("../data/aws/event-stream/valid_no_headers");
    let broken = |frame: &[u8]| [start, frame].concat();
    [
        Vec::new(),
        broken(b"\0\0\0\x20\0\0\0\0"),
        broken(include_bytes!(
            "../data/aws/event-stream/invalid_message_checksum"
        )),
        broken(include_bytes!(
            "../data/aws/event-stream/invalid_prelude_checksum"
        )),
        broken(include_bytes!(
            "../data/aws/event-stream/invalid_header_value_type"
        )),
    ]
}

/// Answers once with these bytes of an event stream, and then as the fake does.
fn with_broken_stream(fake: &FakeClaude, times: usize, bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let headers = vec![(
        CONTENT_TYPE,
        HeaderValue::from_static("application/vnd.amazon.eventstream"),
    )];
    let status = StatusCode::OK;
    let fault = Fault::Custom {
        status,
        headers,
        body,
    };
    fake.inject_times(fault, times as u64);
}

#[tokio::test(start_paused = true)]
async fn broken_stream_before_its_content_is_truncated_and_sent_again() {
    for bytes in broken_beginnings() {
        let fake = region();
        with_broken_stream(&fake, 1, &bytes);
        let (outcomes, retry) = (Outcomes::default(), RetryLayer::new());
        let service = cloud(fake.clone(), target(), signer());
        let service = retry.layer(outcomes.layer().layer(service));
        let (head, body) = send(service, message("claude-opus-5-5", true)).await;
        let mut state = StreamState::new();
        state.feed(&body.expect("a whole body"));
        assert_eq!(head.status, StatusCode::OK);
        assert!(state.is_complete() && state.error().is_none());
        assert_eq!(outcomes.take(), [Kind::Truncated, Kind::Success]);
        assert_eq!(retry.handle().snapshot().retries, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn stream_without_its_last_event_is_truncated_although_it_has_a_stop_reason() {
    let bytes = [MESSAGE_START, BLOCK_START, DELTA, BLOCK_STOP, MESSAGE_DELTA].map(chunk);
    let fake = region();
    with_broken_stream(&fake, 1, &bytes.concat());
    let outcomes = Outcomes::default();
    let service = cloud(fake, target(), signer());
    let service = outcomes.layer().layer(service);
    let (_, body) = send(service, message("claude-opus-5-5", true)).await;
    let mut state = StreamState::new();
    state.feed(&body.expect("a body that ends with an event"));
    assert_eq!(state.stop_reason(), Some("end_turn"));
    assert!(state.error().is_some());
    assert_eq!(outcomes.take(), [Kind::Truncated]);
}

#[tokio::test(start_paused = true)]
async fn circuit_opens_after_broken_streams() {
    for bytes in broken_beginnings() {
        let fake = region();
        with_broken_stream(&fake, 100, &bytes);
        let breaker = CircuitBreakerLayer::new();
        let service = breaker.layer(cloud(fake.clone(), target(), signer()));
        for _ in 0..5 {
            let (head, body) = send(service.clone(), message("claude-opus-5-5", true)).await;
            let mut state = StreamState::new();
            state.feed(&body.expect("a body that ends with an event"));
            assert!(head.extensions.get::<Rejection>().is_none());
            assert!(state.error().is_some());
        }
        let (head, _) = send(service, message("claude-opus-5-5", true)).await;
        assert!(head.extensions.get::<Rejection>().is_some());
        assert_eq!(fake.log_len(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn broken_stream_after_its_content_ends_with_an_error_and_is_truncated() {
    for fault in [
        Fault::Truncated { after_tokens: 10 },
        frame(FrameFault::BadChecksum, 10),
        frame(FrameFault::BadPrelude, 10),
        frame(FrameFault::Cut, 10),
        frame(FrameFault::UnknownHeader, 10),
    ] {
        let fake = region();
        fake.inject(fault.clone());
        let (outcomes, retry) = (Outcomes::default(), RetryLayer::new());
        let breaker = CircuitBreakerLayer::new();
        let service = cloud(fake.clone(), target(), signer());
        let service = retry.layer(breaker.layer(outcomes.layer().layer(service)));
        let (_, body) = send(service, message("claude-opus-5-5", true)).await;
        let body = body.expect("a body that ends with an event");
        let mut state = StreamState::new();
        state.feed(&body);
        let error = state.error().expect("an error event");
        assert_eq!(error.kind, "api_error", "{fault:?}");
        assert_eq!(
            error.error_code.as_deref(),
            Some(STREAM_TRUNCATED),
            "{fault:?}"
        );
        assert_eq!(outcomes.take(), [Kind::Truncated], "{fault:?}");
        assert_eq!(fake.log_len(), 1, "nothing is sent again after content");
        assert_eq!(retry.handle().snapshot().broken, 1, "{fault:?}");
    }
}

/// Returns the names of the events in a stream, and its text.
fn names_and_text(body: &[u8]) -> (Vec<String>, String) {
    let (mut names, mut text) = (Vec::new(), String::new());
    StreamState::new().feed_with(body, |_, event| {
        let name = String::from_utf8_lossy(event.name).into_owned();
        let data: Value = serde_json::from_slice(event.data).expect("JSON");
        text += data["delta"]["text"].as_str().unwrap_or_default();
        assert_eq!(data["type"], *name);
        // The fake divides the text around a fault.
        if names.last() != Some(&name) {
            names.push(name);
        }
    });
    (names, text)
}

#[tokio::test(start_paused = true)]
async fn frames_and_chunks_of_other_kinds_change_nothing() {
    let service = cloud(region(), target(), signer());
    let (_, whole) = send(service, message("claude-opus-5-5", true)).await;
    let expected = names_and_text(&whole.expect("a body"));
    assert_eq!(expected.0.len(), 6);
    for how in [FrameFault::UnknownEvent, FrameFault::Untyped] {
        let fake = region();
        fake.inject(frame(how.clone(), 10));
        let service = cloud(fake, target(), signer());
        let (_, body) = send(service, message("claude-opus-5-5", true)).await;
        assert_eq!(names_and_text(&body.expect("a body")), expected, "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn exception_in_a_stream_has_the_class_of_its_name() {
    for (name, kind) in [
        ("throttlingException", Kind::RateLimited),
        ("serviceUnavailableException", Kind::Overloaded),
        ("modelTimeoutException", Kind::Timeout),
        ("modelStreamErrorException", Kind::ServerError),
        ("internalServerException", Kind::ServerError),
        ("validationException", Kind::BadRequest),
    ] {
        let fake = region();
        let how = FrameFault::Exception {
            name: name.to_owned(),
            message: "Too many tokens".to_owned(),
        };
        fake.inject(frame(how, 10));
        let outcomes = Outcomes::default();
        let service = outcomes.layer().layer(cloud(fake, target(), signer()));
        let (_, body) = send(service, message("claude-opus-5-5", true)).await;
        let mut state = StreamState::new();
        state.feed(&body.expect("a body"));
        let error = state.error().expect("an error event");
        assert_eq!(error.message, "Too many tokens");
        assert_eq!(error.error_code.as_deref(), Some(name));
        assert_eq!(outcomes.take(), [kind], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn broken_connection_in_a_stream_stays_an_error_of_the_body() {
    let fake = region();
    fake.inject(Fault::Cut { after_tokens: 10 });
    let outcomes = Outcomes::default();
    let service = outcomes.layer().layer(cloud(fake, target(), signer()));
    let (_, body) = send(service, message("claude-opus-5-5", true)).await;
    body.expect_err("an error of the connection");
    assert_eq!(outcomes.take(), [Kind::Transport]);
}

#[tokio::test(start_paused = true)]
async fn response_is_handed_on_event_by_event() {
    let fake = FakeClaude::builder()
        .cloud(FakeCloud::bedrock(REGION).access_key(KEY, SECRET))
        .output_tokens(20)
        .tokens_per_second(1.0)
        .build();
    let signer = SigV4::fixed(Credentials::new(KEY, SECRET), "bedrock", REGION);
    let service = cloud(fake, target(), signer);
    let response = service
        .oneshot(message("claude-opus-5-5", true))
        .await
        .expect("a response");
    let mut body = response.into_body();
    let first = body.frame().await.expect("a frame").expect("no error");
    let first = first.into_data().expect("data");
    assert!(first.starts_with(b"event: message_start\n"));
    assert!(first.ends_with(b"\n\n"), "an event is never split");
    // Later events are not there yet.
    let mut state = StreamState::new();
    state.feed(&first);
    while let Some(frame) = body.frame().now_or_never() {
        state.feed(
            &frame
                .expect("a frame")
                .expect("no error")
                .into_data()
                .expect("data"),
        );
    }
    assert!(!state.is_complete());
}
