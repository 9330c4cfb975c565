//! The driver: a response is held until its first content, and replayed unchanged.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, response::Parts};
use http_body::{Body, Frame, SizeHint};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_core::{
    Call, Class, ClaudeClassify, Deadline, Kind, Outcome, Rejection, RequestBody, ResponseBody,
    driver::{self, AttemptFailure, AttemptPolicy, CallPolicy, CallStart, Clock, DriverLayer},
    toolkit::{Collect, ErrorBody, SavedRequest},
};

use crate::frames::{
    Cut, Frames, Piece, chunked, data, drain, fixture, frames, headers, json, kept, run, sse,
};

/// The most that is held of a response.
const HELD_LIMIT: usize = 64 * 1024;

/// The result of holding a response.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    Forward { refused: bool },
    Failed(Class),
}

const FORWARD: Held = Held::Forward { refused: false };

const fn failed(kind: Kind) -> Held {
    Held::Failed(Class::new(kind))
}

/// The reports of the driver.
#[derive(Default)]
struct Log {
    held: Option<Held>,
    outcomes: Vec<Outcome<'static>>,
    /// The data bytes that were held each time the timers were polled.
    received: Vec<Option<usize>>,
    /// The data bytes that were read of the inner body.
    read: usize,
}

/// A call policy that never retries, and an attempt policy that admits everything.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Log>>);

impl CallPolicy for Recorder {
    type State = ();
    type BodyState = ();

    fn start(&self, _: &mut CallStart<'_>) {}

    fn poll_timeout(
        &self,
        (): &mut (),
        _: &Arc<Call>,
        received: Option<usize>,
        _: &mut Context<'_>,
    ) -> Poll<Rejection> {
        self.0.lock().unwrap().received.push(received);
        Poll::Pending
    }

    fn detects_refusal(&self) -> bool {
        true
    }

    fn on_success(
        &self,
        (): &mut (),
        _: &Arc<Call>,
        _: &mut Parts,
        refused: bool,
    ) -> Option<Class> {
        self.0.lock().unwrap().held = Some(Held::Forward { refused });
        None
    }

    fn on_failure(
        &self,
        (): &mut (),
        _: &Arc<Call>,
        failure: &AttemptFailure<'_>,
    ) -> Option<Duration> {
        self.0.lock().unwrap().held = Some(Held::Failed(failure.class));
        None
    }

    fn next_request(&self, (): &mut (), _: &Arc<Call>) -> Request<RequestBody> {
        Request::default()
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
        Poll::Ready(Ok(()))
    }

    fn on_end(&self, (): &mut (), outcome: &Outcome<'_>, _: &mut Clock) {
        self.0.lock().unwrap().outcomes.push(kept(outcome));
    }
}

/// A scripted body that counts the bytes that are read of it.
#[derive(Clone)]
struct Counted(Frames, Recorder);

impl Body for Counted {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.0).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            this.1.0.lock().unwrap().read += frame.data_ref().map_or(0, Bytes::len);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

type Answer = ResponseBody<driver::Body<Counted, Recorder, Recorder, ClaudeClassify>>;

/// Sends a Messages request through a driver. Returns the result of holding the response, and its
/// body.
fn hold(headers: &HeaderMap, body: Frames) -> (Held, Answer, Recorder) {
    hold_at("/v1/messages", headers, body)
}

fn hold_at(path: &str, headers: &HeaderMap, body: Frames) -> (Held, Answer, Recorder) {
    let recorder = Recorder::default();
    let policies = (recorder.clone(), recorder.clone());
    let layer = DriverLayer::new(policies.0, policies.1, ClaudeClassify::default());
    let mut response = Response::new(Counted(body, recorder.clone()));
    response.headers_mut().clone_from(headers);
    let service = layer.layer(service_fn(move |_: Request<RequestBody>| {
        std::future::ready(Ok::<_, Cut>(response.clone()))
    }));
    let request = Request::post(path).body(RequestBody::from("{}"));
    let request = request.expect("a request");
    let body = run(service.oneshot(request))
        .expect("a response")
        .into_body();
    let held = recorder.0.lock().unwrap().held.expect("a result");
    (held, body, recorder)
}

impl Recorder {
    fn read(&self) -> usize {
        self.0.lock().unwrap().read
    }

    fn outcomes(&self) -> Vec<Outcome<'static>> {
        self.0.lock().unwrap().outcomes.clone()
    }
}

#[test]
fn stream_is_held_until_content_or_failure() {
    // The server has begun to work, so the request may have been processed.
    let mut class = Class::new(Kind::Overloaded);
    class.unprocessed = false;
    let overloaded = Held::Failed(class);
    for (name, expected) in [
        ("sse_ok.txt", FORWARD),
        ("sse_error_first_event.txt", overloaded),
        ("sse_error_before_content.txt", overloaded),
        ("sse_deltas_without_start.txt", FORWARD),
        ("sse_error_midstream.txt", FORWARD),
        ("sse_truncated_no_message_stop.txt", FORWARD),
        ("sse_refusal_midstream.txt", FORWARD),
        ("sse_thinking_omitted_no_usage.txt", FORWARD),
    ] {
        let text = fixture(name);
        for size in [1, 30, 100_000] {
            let frames = chunked(&text, size);
            let (held, body, _) = hold(&sse(), frames.clone());
            assert_eq!(held, expected, "{name}");
            assert_eq!(drain(body), drain(frames), "{name}");
        }
    }
}

#[test]
fn stream_is_read_only_up_to_the_first_content() {
    let text = fixture("sse_ok.txt");
    let (held, _body, recorder) = hold(&sse(), chunked(&text, 1));
    assert_eq!(held, FORWARD);
    assert_eq!(recorder.outcomes(), [], "the rest is still to come");
    let held = String::from_utf8_lossy(&text[..recorder.read()]).into_owned();
    assert!(
        held.contains("content_block_start") && !held.contains("Hello"),
        "{held}"
    );
}

#[test]
fn stream_that_ends_before_content_fails() {
    let start = fixture("sse_error_before_content.txt");
    let start = &start[..start.len() / 2];
    for (frames, expected) in [
        (chunked(start, 10), failed(Kind::Truncated)),
        (chunked(start, 10).exact(), failed(Kind::Truncated)),
        (frames([]), failed(Kind::Truncated)),
        (
            chunked(start, 10).then(Piece::Error),
            failed(Kind::Transport),
        ),
        (frames([Piece::Error]), failed(Kind::Transport)),
    ] {
        let (held, body, recorder) = hold(&sse(), frames.clone());
        assert_eq!(held, expected);
        assert_eq!(recorder.outcomes().len(), 1);
        assert_eq!(drain(body), drain(frames));
    }
}

#[test]
fn stream_of_another_api_is_not_held() {
    let text = b"event: chunk\ndata: {\"choices\":[]}\n\n".repeat(9);
    for path in ["/v1/messages", "/v1/events"] {
        let body = chunked(&text, 40).then(Piece::Wait);
        let (held, _body, recorder) = hold_at(path, &sse(), body);
        assert_eq!(held, FORWARD);
        assert_eq!(recorder.outcomes(), []);
        assert!(recorder.read() <= 80, "held on for too long");
    }
    let (held, ..) = hold(&sse(), chunked(b"data: [DONE]\n\n", 40));
    assert_eq!(held, failed(Kind::Truncated));
}

#[test]
fn delta_without_block_start_ends_the_holding() {
    let text = fixture("sse_deltas_without_start.txt");
    let (held, _body, recorder) = hold(&sse(), chunked(&text, 1));
    assert_eq!(held, FORWARD);
    let held = String::from_utf8_lossy(&text[..recorder.read()]).into_owned();
    assert!(held.contains("Once") && !held.contains("upon"), "{held}");
}

#[test]
fn success_without_a_message_fails_before_it_is_forwarded() {
    let html = headers(&[("content-type", "text/html")]);
    let page = fixture("200_not_message_page.html");
    for size in [1, 100_000] {
        for headers in [&html, &json(), &sse()] {
            let (held, body, _) = hold(headers, chunked(&page, size));
            assert_eq!(held, failed(Kind::ServerError), "{headers:?}");
            assert_eq!(drain(body).0, page, "bytes were changed");
        }
        for text in ["{}", "null", "[]"] {
            let (held, ..) = hold(&json(), chunked(text.as_bytes(), size));
            assert_eq!(held, failed(Kind::ServerError), "{text}");
        }
    }
    // A page or text is not read to its end.
    let text = headers(&[("content-type", "text/plain")]);
    for (headers, body) in [(&html, &page[..]), (&text, b"sorry"), (&json(), b"null")] {
        let (held, _body, recorder) = hold(headers, chunked(body, 1).then(Piece::Wait));
        assert_eq!((held, recorder.read()), (failed(Kind::ServerError), 1));
    }
    let (held, ..) = hold(&json(), frames([]).exact());
    assert_eq!(held, failed(Kind::Truncated));
}

#[test]
fn body_of_another_media_type_is_not_read() {
    let gzip = headers(&[
        ("content-type", "text/event-stream"),
        ("content-encoding", "gzip"),
    ]);
    let image = headers(&[("content-type", "image/png")]);
    for headers in [image.clone(), gzip] {
        let (held, body, recorder) = hold(&headers, frames([data("ab"), Piece::Error]));
        assert_eq!((held, recorder.read()), (FORWARD, 0));
        assert_eq!(drain(body), (b"ab".to_vec(), None, Some(Cut)));
    }
    let (_, body, _) = hold(&image, frames([data("a")]).exact());
    assert_eq!(body.size_hint().exact(), Some(1));
}

#[test]
fn truncated_message_fails() {
    let text = br#"{"content":[{"text":"Hal"#;
    for frames in [
        chunked(text, 1),
        chunked(text, 7),
        chunked(text, 100),
        frames([data("{\"a")]).exact(),
    ] {
        let (held, body, recorder) = hold(&json(), frames.clone());
        assert_eq!(held, failed(Kind::Truncated));
        assert!(matches!(recorder.outcomes()[..], [Outcome::Failed { .. }]));
        assert_eq!(drain(body), drain(frames));
    }
}

#[test]
fn message_is_held_until_it_is_whole() {
    let text = fixture("200_message.json");
    for frames in [
        frames([data(text.clone())]).exact(),
        chunked(&text, 20),
        chunked(&text, 20).exact(),
        chunked(&text, 20).then(Piece::Trailers),
    ] {
        let (held, body, _) = hold(&json(), frames.clone());
        assert_eq!(held, FORWARD);
        assert_eq!(drain(body), drain(frames));
    }
    let (_, _, recorder) = hold(&json(), chunked(&text, 20));
    assert!(matches!(
        &recorder.outcomes()[..],
        [Outcome::Complete { usage }] if !usage.is_empty()
    ));
    let (held, body, _) = hold(&json(), chunked(&text, 20).then(Piece::Error));
    assert_eq!(held, failed(Kind::Transport));
    assert_eq!(drain(body), (text, None, Some(Cut)));
}

#[test]
fn response_over_the_limit_is_forwarded() {
    let ping = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";
    let text = ping.repeat(5 * HELD_LIMIT / ping.len());
    for (headers, text) in [(sse(), text), (json(), vec![b'['; 5 * HELD_LIMIT])] {
        let (held, body, recorder) = hold(&headers, chunked(&text, 1000));
        assert_eq!(held, FORWARD);
        let read = recorder.read();
        assert!(
            (HELD_LIMIT..HELD_LIMIT + 1000).contains(&read),
            "{read} bytes are held"
        );
        assert_eq!(drain(body).0, text);
    }
}

#[test]
fn empty_frames_of_a_message_are_not_kept() {
    let message = data(r#"{"content":[]}"#);
    let body = frames([data(""), data(""), message, data("")]);
    let (held, body, _) = hold(&json(), body);
    assert_eq!(held, FORWARD);
    assert_eq!(format!("{body:?}"), "ResponseBody(full)");
}

#[test]
fn timer_gets_the_number_of_bytes_held() {
    let ping = "event: ping\ndata: {}\n\n";
    // The driver polls a body once more before it polls the timers for the first time.
    let body = frames([
        data(ping),
        Piece::Wait,
        Piece::Wait,
        data(ping),
        Piece::Wait,
    ]);
    let (_, _, recorder) = hold(&sse(), body);
    let received = recorder.0.lock().unwrap().received.clone();
    assert_eq!(received, [Some(ping.len()), Some(2 * ping.len())]);
}

#[test]
fn body_that_the_caller_drops_ends_as_dropped() {
    let (_, body, recorder) = hold(&sse(), chunked(&fixture("sse_ok.txt"), 1));
    drop(body);
    assert!(matches!(recorder.outcomes()[..], [Outcome::Dropped { .. }]));
}

proptest! {
    /// Whatever the chunks: the result for the whole text, and the original bytes.
    #[test]
    fn response_in_any_chunks_has_the_same_result(
        cuts in prop::collection::vec(1_usize..300, 1..30),
        waits in prop::collection::vec(any::<bool>(), 1..9),
        name in prop::sample::select(vec![
            "sse_ok.txt", "sse_error_first_event.txt", "sse_error_before_content.txt",
            "sse_error_midstream.txt", "sse_truncated_no_message_stop.txt", "200_message.json",
        ]),
        cut_at in 0.0_f64..1.3,
        error: bool,
    ) {
        let text = fixture(name);
        #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let length = ((text.len() as f64 * cut_at) as usize).min(text.len());
        let headers = if name.starts_with("sse") { sse() } else { json() };
        let end = error.then_some(Piece::Error);

        let mut whole = frames([data(text[..length].to_vec())]);
        whole.pieces.extend(end.clone());
        let (expected, ..) = hold(&headers, whole.clone());

        let (mut cuts, mut waits) = (cuts.into_iter().cycle(), waits.into_iter().cycle());
        let mut rest = &text[..length];
        let mut body = frames([]);
        while !rest.is_empty() {
            let (part, more) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            body = body.then(data(part.to_vec()));
            if waits.next() == Some(true) { body = body.then(Piece::Wait); }
            rest = more;
        }
        body.pieces.extend(end);
        let (held, body, _) = hold(&headers, body);
        prop_assert_eq!(held, expected);
        prop_assert_eq!(drain(body), drain(whole));
    }
}

#[test]
fn refusal_before_content_is_detected() {
    let refused = Held::Forward { refused: true };
    let declined = r#"{"type":"message","content":[],"stop_reason":"refusal"}"#;
    let whole =
        r#"{"type":"message","content":[{"stop_reason":"refusal"}],"stop_reason":"end_turn"}"#;
    for size in [1, 20, 1_000] {
        let held = |text: &str| hold(&json(), chunked(text.as_bytes(), size)).0;
        assert_eq!((held(declined), held(whole)), (refused, FORWARD), "{size}");
        assert_eq!(held(&declined[..50]), failed(Kind::Truncated), "{size}");
    }
    // After content it is too late.
    let midstream = fixture("sse_refusal_midstream.txt");
    assert_eq!(hold(&sse(), chunked(&midstream, 1_000_000)).0, FORWARD);
    let early = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"refusal\"}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    assert_eq!(hold(&sse(), chunked(early.as_bytes(), 7)).0, refused);
}

/// A call policy that sends a failed call once more, without a wait.
#[derive(Clone)]
struct Again;

impl CallPolicy for Again {
    type State = bool;
    type BodyState = ();

    fn start(&self, _: &mut CallStart<'_>) -> bool {
        false
    }

    fn on_failure(
        &self,
        again: &mut bool,
        _: &Arc<Call>,
        _: &AttemptFailure<'_>,
    ) -> Option<Duration> {
        (!std::mem::replace(again, true)).then_some(Duration::ZERO)
    }

    fn next_request(&self, _: &mut bool, _: &Arc<Call>) -> Request<RequestBody> {
        Request::new(RequestBody::from("{}"))
    }
}

/// A client uses an HTTP/1 connection again only if the response was read to its end.
#[test]
fn rest_of_a_failed_response_is_read_before_it_is_dropped() {
    const LONG: usize = 1 << 20;
    for (body, read) in [
        (frames([data("ab"), data("cd")]), 4),
        // Nothing waits for the rest.
        (frames([data("ab"), Piece::Wait, data("cd")]), 2),
        // A body that is known to be long is not read.
        (frames([data(vec![b'x'; LONG])]).exact(), 0),
        // An endless body is read in part only.
        (chunked(&vec![b'x'; LONG], 1024), 64 * 1024),
    ] {
        let recorder = Recorder::default();
        let failed = Arc::new(Mutex::new(Some(Counted(body, recorder.clone()))));
        let layer = DriverLayer::new(Again, (), ClaudeClassify::default());
        let service = layer.layer(service_fn(move |_: Request<RequestBody>| {
            let failed = failed.lock().unwrap().take();
            let status = if failed.is_some() { 529 } else { 200 };
            let body = failed.unwrap_or_else(|| Counted(frames([]), Recorder::default()));
            let response = Response::builder().status(status).body(body);
            std::future::ready(Ok::<_, Cut>(response.expect("a response")))
        }));
        let request = Request::new(RequestBody::from("{}"));
        let response = run(service.oneshot(request)).expect("a response");
        assert_eq!(response.status(), 200);
        assert_eq!(recorder.read(), read);
    }
}

/// Without this, a server that stalls in an error body would hold the call for ever.
#[tokio::test(start_paused = true)]
async fn error_body_is_read_until_the_deadline() {
    let layer = DriverLayer::new((), (), ClaudeClassify::default());
    let service = layer.layer(service_fn(|_: Request<RequestBody>| {
        let body = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, Cut>,
        >());
        let response = Response::builder().status(429).body(body);
        std::future::ready(Ok::<_, Cut>(response.expect("a response")))
    }));
    let mut request = Request::new(RequestBody::from("{}"));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    request.extensions_mut().insert(Deadline(deadline));
    let response = service.oneshot(request).await.expect("a response");
    assert_eq!(tokio::time::Instant::now(), deadline);
    assert_eq!(response.status(), 429);
    let class: Option<&Class> = response.extensions().get();
    assert_eq!(class.expect("inserted").kind, Kind::RateLimited);
}

/// A frame for each byte would take a hundred times the memory of the body.
#[test]
fn tiny_frames_are_joined_while_they_are_held() {
    const LENGTH: usize = 60_000;
    let text = vec![b'x'; LENGTH];
    let count = |mut body: Pin<Box<dyn Body<Data = Bytes, Error = Cut>>>| {
        let (mut count, mut length) = (0, 0);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
            count += 1;
            length += frame.data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(length, LENGTH);
        count
    };
    let mut error = ErrorBody::new(chunked(&text, 1));
    run(std::future::poll_fn(|cx| error.poll_read(cx)));
    let frames = count(Box::pin(error.into_body()));
    assert!(frames < 200, "{frames}");
    let mut json_text = text.clone();
    json_text[0] = b'{';
    json_text[LENGTH - 1] = b'}';
    for (headers, text) in [(sse(), &text), (json(), &json_text)] {
        let (_, body, _) = hold(&headers, chunked(text, 1));
        let frames = count(Box::pin(body));
        assert!(frames < 200, "{frames}");
    }
}

/// Keys, prompts and answers must not reach a log.
#[test]
fn debug_output_contains_no_content() {
    const SECRET: &str = "sk-ant-secret";
    let request = || {
        Request::post("https://api.example/v1/messages?key=sk-ant-secret")
            .header("x-api-key", SECRET)
            .body(RequestBody::from(format!("{{\"prompt\":\"{SECRET}\"}}")))
            .expect("a request")
    };
    let saved = Arc::new(SavedRequest::of(&request()).expect("buffered"));
    let body = || frames([data(SECRET), Piece::Wait]);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut error = ErrorBody::new(body());
    let _ = error.poll_read(&mut cx);
    let mut collect = Collect::new(body(), 1024);
    let _ = Pin::new(&mut collect).poll(&mut cx);
    let (_, held, _) = hold(&json(), frames([data(SECRET)]));
    let mut sent = request();
    let call = Call::get_or_attach(&mut sent, tokio::time::Instant::now());
    let start = CallStart {
        request: &mut sent,
        call: &call,
        saved: Some(saved.clone()),
        now: tokio::time::Instant::now(),
        host_header: None,
    };
    let texts = [
        format!("{saved:?}"),
        format!("{error:?}"),
        format!("{collect:?}"),
        format!("{held:?}"),
        format!("{start:?}"),
        format!("{call:?}"),
        format!("{:?}", request().body()),
    ];
    for text in texts {
        let bytes = SECRET.as_bytes().iter().map(ToString::to_string);
        let bytes = bytes.collect::<Vec<_>>().join(", ");
        assert!(!text.contains(SECRET) && !text.contains(&bytes), "{text}");
    }
}

/// A policy that panics as soon as it can: in the start of a call, or for the next request.
struct Panics {
    in_start: bool,
    finished: Arc<AtomicU32>,
}

impl CallPolicy for Panics {
    type State = ();
    type BodyState = ();

    fn start(&self, _: &mut CallStart<'_>) {
        assert!(!self.in_start, "on purpose");
    }

    fn on_failure(&self, (): &mut (), _: &Arc<Call>, _: &AttemptFailure<'_>) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn next_request(&self, (): &mut (), _: &Arc<Call>) -> Request<RequestBody> {
        panic!("on purpose");
    }

    fn finish(&self, (): &mut (), _: &Arc<Call>) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn call_whose_policy_panics_is_finished_when_it_is_dropped() {
    let late = || frames([Piece::Wait, data("{}")]);
    for (in_start, body, finishes) in [
        (false, frames([data("{}")]), 1),
        (false, late(), 1),
        // A call that was not started needs no end.
        (true, late(), 0),
    ] {
        let finished = Arc::new(AtomicU32::new(0));
        let policy = Panics {
            in_start,
            finished: finished.clone(),
        };
        let layer = DriverLayer::new(policy, (), ClaudeClassify::default());
        let service = layer.layer(service_fn(|_: Request<RequestBody>| {
            let response = Response::builder().status(529).body(frames([]));
            std::future::ready(Ok::<_, Cut>(response.expect("a response")))
        }));
        let request = Request::post("/v1/messages").body(body);
        let mut call = Box::pin(service.oneshot(request.expect("a request")));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut poll = || catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx).is_ready()));
        while let Ok(is_ready) = poll() {
            assert!(!is_ready);
        }
        assert_eq!(finished.load(Ordering::Relaxed), 0);
        drop(call);
        assert_eq!(finished.load(Ordering::Relaxed), finishes);
    }
}

#[test]
fn call_is_dropped_without_a_trace_while_its_body_arrives() {
    let finished = Arc::new(AtomicU32::new(0));
    let policy = Panics {
        in_start: true,
        finished: finished.clone(),
    };
    let layer = DriverLayer::new(policy, (), ClaudeClassify::default());
    let service = layer.layer(service_fn(|_: Request<RequestBody>| {
        std::future::ready(Ok::<_, Cut>(Response::new(frames([]))))
    }));
    let held = Arc::new(());
    let body = Holding(held.clone());
    let request = Request::post("/v1/messages").body(body);
    let mut call = Box::pin(service.oneshot(request.expect("a request")));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for _ in 0..3 {
        assert!(call.as_mut().poll(&mut cx).is_pending());
    }
    assert_eq!(Arc::strong_count(&held), 2);
    drop(call);
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(finished.load(Ordering::Relaxed), 0);
}

/// A body that never arrives, and holds something until it is dropped.
struct Holding(#[expect(dead_code, reason = "only held")] Arc<()>);

impl Body for Holding {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Poll::Pending
    }
}
