//! The driver: the end of each successful response is reported exactly once.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_core::{
    Call, ClaudeClassify, Kind, Outcome, Rejection, RequestBody, ResponseBody,
    driver::{self, AttemptPolicy, Clock, DriverLayer},
    toolkit::{BodyTracker, ExpectedBody},
};
use tower_claude_wire::StreamState;

use crate::frames::{
    Cut, Frames, Piece, chunked, data, drain, fixture, frames, headers, json, kept, run, sse,
};

/// An attempt policy that records the progress and the end of responses.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Reports>>);

#[derive(Default)]
struct Reports {
    ends: Vec<Outcome<'static>>,
    content: Vec<bool>,
}

impl AttemptPolicy for Log {
    type Attempt = ();

    fn reads_usage(&self, (): &()) -> bool {
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

    fn on_progress(&self, (): &mut (), stream: &StreamState) {
        self.reports().content.push(stream.has_content());
    }

    fn on_end(&self, (): &mut (), outcome: &Outcome<'_>, _: &mut Clock) {
        self.reports().ends.push(kept(outcome));
    }
}

impl Log {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.0.lock().expect("no panic under the lock")
    }

    /// Returns the only outcome.
    fn outcome(&self) -> Outcome<'static> {
        let reports = self.reports();
        assert_eq!(reports.ends.len(), 1, "one outcome: {:?}", reports.ends);
        reports.ends[0]
    }
}

type Tracked<B> = ResponseBody<driver::Body<B, (), Log, ClaudeClassify>>;

/// Sends a Messages request through a driver that holds no response. Returns the body of the
/// response.
fn track<B>(headers: &HeaderMap, body: B) -> (Tracked<B>, Log)
where
    B: Body<Data = Bytes, Error = Cut> + Unpin + Send + 'static,
{
    track_request("POST", "/v1/messages", 200, headers, body)
}

fn track_request<B>(
    method: &str,
    path: &str,
    status: u16,
    headers: &HeaderMap,
    body: B,
) -> (Tracked<B>, Log)
where
    B: Body<Data = Bytes, Error = Cut> + Unpin + Send + 'static,
{
    let log = Log::default();
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().expect("a status");
    response.headers_mut().clone_from(headers);
    let layer = DriverLayer::new((), log.clone(), ClaudeClassify::default());
    let response = Arc::new(Mutex::new(Some(response)));
    let service = layer.layer(service_fn(move |_: Request<RequestBody>| {
        let response = response.lock().expect("no panic under the lock").take();
        std::future::ready(Ok::<_, Cut>(response.expect("only one request")))
    }));
    let request = Request::builder().method(method).uri(path);
    let request = request.body(RequestBody::from("{}")).expect("a request");
    let response = run(service.oneshot(request)).expect("a response");
    (response.into_body(), log)
}

fn poll_once<B: Body + Unpin>(body: &mut B) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(body).poll_frame(&mut cx).is_ready()
}

/// Returns the outcome of a response that the caller reads to its end and then drops.
fn outcome(headers: &HeaderMap, body: Frames) -> Outcome<'static> {
    let (tracked, log) = track(headers, body.clone());
    assert_eq!(drain(tracked), drain(body), "bytes were changed");
    log.outcome()
}

/// Returns the outcome of a response to another request, in one piece and in small ones.
fn outcome_of(
    method: &str,
    path: &str,
    status: u16,
    headers: &HeaderMap,
    text: &[u8],
) -> Outcome<'static> {
    let of = |body| {
        let (tracked, log) = track_request(method, path, status, headers, body);
        drain(tracked);
        log.outcome()
    };
    let whole = of(chunked(text, text.len().max(1)).exact());
    assert_eq!(whole, of(chunked(text, 3)), "{path} {text:?}");
    whole
}

fn used(outcome: &Outcome<'_>) -> (Option<u64>, Option<u64>) {
    (outcome.usage().input_tokens, outcome.usage().output_tokens)
}

fn failed(outcome: &Outcome<'_>) -> Option<Kind> {
    match outcome {
        Outcome::Failed { class, .. } => Some(class.kind),
        _ => None,
    }
}

#[test]
fn whole_stream_is_complete() {
    let text = fixture("sse_ok.txt");
    for size in [1, 13, 100_000] {
        let end = outcome(&sse(), chunked(&text, size));
        assert!(matches!(end, Outcome::Complete { .. }), "{end:?}");
        assert_eq!(used(&end).0, Some(25));
        assert!(
            used(&end).1.is_some_and(|output| output > 1),
            "the last count, not the first"
        );
    }
}

#[test]
fn message_stop_completes_a_stream_before_its_end() {
    let text = fixture("sse_ok.txt");
    let (mut body, log) = track(&sse(), frames([data(text), Piece::Wait]));
    assert!(poll_once(&mut body));
    assert!(matches!(log.outcome(), Outcome::Complete { .. }));
    // Later frames and the drop are not reported.
    drop(body);
    log.outcome();
}

#[test]
fn progress_of_a_stream_is_reported() {
    let (body, log) = track(&sse(), chunked(&fixture("sse_ok.txt"), 64));
    drain(body);
    let content = &log.reports().content;
    assert!(content.contains(&false) && content.contains(&true));
    assert!(content.is_sorted(), "content stays");
}

#[test]
fn error_event_fails_a_stream() {
    for name in [
        "sse_error_first_event.txt",
        "sse_error_before_content.txt",
        "sse_error_midstream.txt",
    ] {
        for size in [1, 50, 100_000] {
            let end = outcome(&sse(), chunked(&fixture(name), size));
            assert_eq!(failed(&end), Some(Kind::Overloaded), "{name}");
        }
    }
    let end = outcome(&sse(), chunked(&fixture("sse_error_midstream.txt"), 9));
    assert_eq!(used(&end).0, Some(25), "the usage is reported");
}

#[test]
fn stream_without_message_stop_is_truncated() {
    let text = fixture("sse_truncated_no_message_stop.txt");
    for text in [&text[..], b""] {
        let end = outcome(&sse(), chunked(text, 20));
        assert_eq!(failed(&end), Some(Kind::Truncated));
    }
    // An unknown event does not make it a stream of another API.
    let new = [&b"event: new\ndata: {}\n\n"[..], &text[..]].concat();
    assert_eq!(
        failed(&outcome(&sse(), chunked(&new, 20))),
        Some(Kind::Truncated)
    );
    // A body that reports its end, and is not polled again.
    let (mut body, log) = track(&sse(), frames([data(text)]).exact());
    poll_once(&mut body);
    assert_eq!(failed(&log.outcome()), Some(Kind::Truncated));
}

#[test]
fn stream_of_another_api_is_complete_without_message_stop() {
    let text = b"event: x\ndata: {\"choices\":[]}\n\ndata: [DONE]\n\n";
    let end = outcome_of("POST", "/v1/chat/completions", 200, &sse(), text);
    assert!(matches!(end, Outcome::Complete { .. }), "{end:?}");
    assert!(end.usage().is_empty());
    // It does not answer a Messages request.
    let end = outcome(&sse(), chunked(text, 5));
    assert_eq!(failed(&end), Some(Kind::Truncated));
}

#[test]
fn stream_with_a_stop_reason_is_complete() {
    let text = fixture("sse_ok.txt");
    let text = text.trim_ascii_end();
    let stop = text
        .windows(12)
        .rposition(|word| word == b"message_stop")
        .expect("the end");
    // Without the last blank line, and without the whole last event.
    for end in [text.len(), stop - 36, stop] {
        let end = outcome(&sse(), chunked(&text[..end], 30));
        assert!(matches!(end, Outcome::Complete { .. }), "{end:?}");
        assert_eq!(used(&end).0, Some(25));
    }
}

#[test]
fn counts_of_a_stream_never_fall() {
    let end = outcome(&sse(), chunked(&fixture("sse_counts_fall.txt"), 64));
    assert_eq!(used(&end), (Some(270_000), Some(37)));
    assert_eq!(end.usage().cache_read_input_tokens, Some(100));
    let end = outcome(
        &sse(),
        chunked(&fixture("sse_output_falls_to_zero.txt"), 64),
    );
    assert_eq!(used(&end), (Some(2_700), Some(37)));
    let end = outcome(&sse(), chunked(&fixture("sse_float_counts.txt"), 64));
    assert_eq!(used(&end), (Some(2_700), Some(37)));
}

#[test]
fn mislabelled_body_is_read_by_its_content() {
    let stream = fixture("sse_ok.txt");
    let message = fixture("200_message.json");
    let plain = headers(&[("content-type", "text/plain")]);
    for labels in [json(), plain.clone(), HeaderMap::new()] {
        for size in [1, 20, 100_000] {
            let end = outcome(&labels, chunked(&stream, size));
            assert!(matches!(end, Outcome::Complete { .. }), "{end:?}");
            assert_eq!(used(&end).0, Some(25));
        }
    }
    for labels in [sse(), plain, HeaderMap::new()] {
        for size in [1, 20, 100_000] {
            let end = outcome(&labels, chunked(&message, size));
            assert!(matches!(end, Outcome::Complete { .. }), "{end:?}");
            assert_eq!(used(&end).0, Some(50));
        }
    }
    let end = outcome(&json(), chunked(&fixture("sse_error_midstream.txt"), 20));
    assert_eq!(failed(&end), Some(Kind::Overloaded));
}

#[test]
fn byte_order_mark_in_any_pieces_is_no_part_of_a_message() {
    let mark = "\u{feff}";
    let message = [mark.as_bytes(), &fixture("200_message.json")].concat();
    let stream = [mark.as_bytes(), &fixture("sse_ok.txt")].concat();
    for size in [1, 2, 3, 20, 100_000] {
        for headers in [json(), sse(), HeaderMap::new()] {
            for (body, used_input) in [(&message, 50), (&stream, 25)] {
                let end = outcome(&headers, chunked(body, size));
                let found = (failed(&end), used(&end).0);
                assert_eq!(found, (None, Some(used_input)), "{size} {headers:?}");
            }
            let end = outcome(&headers, chunked(mark.as_bytes(), size));
            assert!(failed(&end).is_some(), "a mark alone");
        }
    }
}

#[test]
fn empty_message_in_any_coding_or_media_type_is_truncated() {
    for labels in [
        &[
            ("content-encoding", "gzip"),
            ("content-type", "application/json"),
        ][..],
        &[
            ("content-encoding", "br"),
            ("content-type", "text/event-stream"),
        ],
        &[("content-encoding", "gzip"), ("content-length", "0")],
        &[("content-type", "image/png")],
    ] {
        let headers = headers(labels);
        let end = outcome_of("POST", "/v1/messages", 200, &headers, b"");
        assert_eq!(failed(&end), Some(Kind::Truncated), "{labels:?}");
        let end = outcome_of("POST", "/v1/other", 200, &headers, b"");
        assert_eq!(failed(&end), None, "{labels:?} of another endpoint");
    }
}

#[test]
fn success_without_a_message_is_a_failure() {
    let html = headers(&[("content-type", "text/html; charset=utf-8")]);
    let text = headers(&[("content-type", "text/plain")]);
    let of = |headers: &HeaderMap, text: &[u8]| {
        let end = outcome_of("POST", "/v1/messages", 200, headers, text);
        assert!(end.usage().is_empty());
        failed(&end)
    };
    for (name, kind) in [
        ("empty.json", Kind::Truncated),
        ("braces.json", Kind::ServerError),
        ("null.json", Kind::ServerError),
        ("error.json", Kind::Overloaded),
        ("page.html", Kind::ServerError),
    ] {
        let body = fixture(&format!("200_not_message_{name}"));
        for headers in [json(), text.clone(), HeaderMap::new()] {
            assert_eq!(of(&headers, &body), Some(kind), "{name} {headers:?}");
        }
        assert!(of(&sse(), &body).is_some(), "{name} as a stream");
    }
    assert_eq!(
        of(&html, &fixture("200_not_message_page.html")),
        Some(Kind::ServerError)
    );
    let gzip = headers(&[("content-type", "text/html"), ("content-encoding", "gzip")]);
    assert_eq!(of(&gzip, b"\x1f\x8b"), Some(Kind::ServerError));
    let done = fixture("200_not_message_done.txt");
    assert_eq!(of(&sse(), &done), Some(Kind::Truncated));
    assert_eq!(of(&json(), &done), Some(Kind::Truncated));
    for body in [
        "[]",
        "7",
        "\"ok\"",
        " \n",
        "ok",
        "Not found",
        "\u{dc}berlast",
        "{\"choices\":[]}",
        "{\"type\":\"message\"}",
        "{\"input_tokens\":3}",
        "{\"data\":[]}",
    ] {
        for headers in [json(), text.clone(), sse(), HeaderMap::new()] {
            assert!(
                of(&headers, body.as_bytes()).is_some(),
                "{body} {headers:?}"
            );
        }
    }
    for (body, kind) in [
        (
            r#"{"error":{"type":"rate_limit_error","message":"m"}}"#,
            Kind::RateLimited,
        ),
        (
            r#"{"error":{"code":503,"status":"UNAVAILABLE","message":"m"}}"#,
            Kind::Overloaded,
        ),
        (
            r#"{"error":{"code":"429","message":"m"}}"#,
            Kind::RateLimited,
        ),
        (r#"{"error":"out of order"}"#, Kind::ServerError),
        (
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"m"}}"#,
            Kind::BadRequest,
        ),
    ] {
        for headers in [json(), sse(), HeaderMap::new()] {
            assert_eq!(
                of(&headers, body.as_bytes()),
                Some(kind),
                "{body} {headers:?}"
            );
        }
        let data = format!("data: {body}\n\n");
        assert_eq!(of(&sse(), data.as_bytes()), Some(kind), "{data}");
    }
}

#[test]
fn response_without_a_body_is_complete() {
    let length = headers(&[
        ("content-type", "application/json"),
        ("content-length", "1234"),
    ]);
    let gzip = headers(&[
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ]);
    let html = headers(&[("content-type", "text/html")]);
    for headers in [sse(), json(), length, gzip, html] {
        for (method, status) in [("HEAD", 200), ("POST", 204), ("POST", 205), ("GET", 304)] {
            let end = outcome_of(method, "/v1/messages", status, &headers, b"");
            assert!(
                matches!(end, Outcome::Complete { .. }),
                "{method} {status} {headers:?}"
            );
        }
    }
    let end = outcome_of(
        "GET",
        "/v1/files/f/content",
        302,
        &HeaderMap::new(),
        b"<html>",
    );
    assert!(matches!(end, Outcome::Complete { .. }));
}

#[test]
fn other_endpoint_is_not_judged_as_messages() {
    let jsonl = headers(&[("content-type", "application/x-jsonl")]);
    let html = headers(&[("content-type", "text/html")]);
    let ok = |method: &str, path: &str, headers: &HeaderMap, text: &str| {
        let end = outcome_of(method, path, 200, headers, text.as_bytes());
        assert_eq!(failed(&end), None, "{path} {text}");
    };
    let bad = |method: &str, path: &str, headers: &HeaderMap, text: &str, kind| {
        let end = outcome_of(method, path, 200, headers, text.as_bytes());
        assert_eq!(failed(&end), Some(kind), "{path} {text}");
    };
    const COUNT: &str = "/v1/messages/count_tokens";
    ok("POST", COUNT, &json(), r#"{"input_tokens":12.0}"#);
    bad("POST", COUNT, &json(), "{}", Kind::ServerError);
    bad("POST", COUNT, &json(), "", Kind::Truncated);
    bad(
        "POST",
        COUNT,
        &json(),
        r#"{"type":"message","content":[]}"#,
        Kind::ServerError,
    );
    bad("POST", COUNT, &html, "<html>", Kind::ServerError);
    for (method, path) in [
        ("POST", "/v1/messages/batches"),
        ("GET", "/v1/messages/batches/msgbatch_1"),
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("DELETE", "/v1/files/file_1"),
        ("GET", "/v1/models"),
    ] {
        for text in [
            "{}",
            "",
            r#"{"data":[]}"#,
            r#"{"id":"x","type":"file"}"#,
            "null",
        ] {
            ok(method, path, &json(), text);
        }
        let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#;
        bad(method, path, &json(), error, Kind::Overloaded);
        bad(method, path, &html, "<html>", Kind::ServerError);
        bad(method, path, &json(), r#"{"data":["#, Kind::Truncated);
    }
    for path in [
        "/v1/files/file_1/content",
        "/v1/messages/batches/msgbatch_1/results",
    ] {
        ok("GET", path, &html, "<html>");
        ok(
            "GET",
            path,
            &jsonl,
            "{\"custom_id\":\"a\"}\n{\"custom_id\":\"b\"}\n",
        );
        ok(
            "GET",
            path,
            &json(),
            r#"{"type":"error","error":{"type":"api_error","message":"m"}}"#,
        );
        let short = headers(&[("content-length", "9")]);
        bad("GET", path, &short, "12345678", Kind::Truncated);
    }
    for text in ["", "ok", "{}", "[]", r#"{"error":1}"#] {
        ok("POST", "/v1/other", &json(), text);
        ok("GET", "/health", &HeaderMap::new(), text);
    }
    ok("GET", "/v1/events", &sse(), "");
    ok("GET", "/v1/events", &sse(), "event: x\ndata: {}\n\n");
}

#[test]
fn body_error_fails_a_response_before_its_end() {
    let text = fixture("sse_truncated_no_message_stop.txt");
    for headers in [sse(), json(), HeaderMap::new()] {
        let end = outcome(&headers, chunked(&text, 30).then(Piece::Error));
        assert_eq!(failed(&end), Some(Kind::Transport));
    }
    // After message_stop it changes nothing.
    let end = outcome(
        &sse(),
        chunked(&fixture("sse_ok.txt"), 30).then(Piece::Error),
    );
    assert!(matches!(end, Outcome::Complete { .. }));
}

#[test]
fn dropped_body_ends_as_dropped() {
    let text = fixture("sse_error_midstream.txt");
    let start = text
        .split(|&byte| byte == b'\n')
        .take(3)
        .map(<[u8]>::len)
        .sum::<usize>()
        + 3;
    for read in [0, 1] {
        let body = frames([data(text[..start].to_vec()), data(text[start..].to_vec())]);
        let (mut body, log) = track(&sse(), body);
        for _ in 0..read {
            poll_once(&mut body);
        }
        assert!(log.reports().ends.is_empty(), "reported too early");
        drop(body);
        let end = log.outcome();
        assert!(matches!(end, Outcome::Dropped { .. }), "{end:?}");
        assert_eq!(used(&end).0, (read == 1).then_some(25));
    }
}

/// A permit is released only after the connection.
#[test]
fn dropped_body_is_gone_before_its_end_is_reported() {
    struct Gone(Arc<Mutex<Option<Log>>>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let log = self.0.lock().unwrap().take().unwrap();
            assert!(log.reports().ends.is_empty(), "reported too early");
        }
    }
    impl Body for Gone {
        type Data = Bytes;
        type Error = Cut;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Cut>>> {
            Poll::Pending
        }
    }
    let slot = Arc::new(Mutex::new(None));
    let (body, log) = track(&sse(), Gone(slot.clone()));
    *slot.lock().unwrap() = Some(log.clone());
    drop(body);
    assert!(matches!(log.outcome(), Outcome::Dropped { .. }));
    assert!(slot.lock().unwrap().is_none(), "the body was dropped");
}

#[test]
fn message_in_any_frames_is_complete() {
    let text = fixture("200_message.json");
    let whole = outcome(&json(), frames([data(text.clone())]).exact());
    assert!(matches!(whole, Outcome::Complete { .. }));
    assert!(used(&whole).0.is_some() && used(&whole).1.is_some());
    for size in [1, 17, 1_000] {
        assert_eq!(outcome(&json(), chunked(&text, size)), whole);
    }
    let with_trailers = chunked(&text, 40).then(Piece::Trailers);
    assert_eq!(outcome(&json(), with_trailers), whole);
    let empty_first = frames([data(""), data(text.clone()), data("")]);
    assert_eq!(outcome(&json(), empty_first), whole);
}

#[test]
fn json_of_another_endpoint_is_complete_without_usage() {
    for text in [&b"[1,2]"[..], b"null", b"\xff", b"{}", b" {} \n", b""] {
        let end = outcome_of("POST", "/v1/other", 200, &json(), text);
        assert!(matches!(end, Outcome::Complete { .. }));
        assert!(end.usage().is_empty());
    }
}

#[test]
fn message_that_is_cut_anywhere_is_truncated() {
    let whole = br#"{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{"a":{"b":1}}},{"type":"text","text":"done}"}],"stop_reason":"tool_use","usage":{"input_tokens":10,"output_tokens":5}}"#;
    let length = whole.len().to_string();
    let with_length = headers(&[
        ("content-type", "application/json"),
        ("content-length", &length),
    ]);
    for at in 0..whole.len() {
        for headers in [json(), with_length.clone()] {
            for size in [7, 1_000] {
                let end = outcome(&headers, chunked(&whole[..at], size));
                assert_eq!(failed(&end), Some(Kind::Truncated), "at {at}");
            }
        }
    }
    let end = outcome(&with_length, chunked(whole, 7));
    assert_eq!((failed(&end), used(&end)), (None, (Some(10), Some(5))));
    // The brackets close, so nothing of the message is missing.
    let longer = headers(&[
        ("content-type", "application/json"),
        ("content-length", "999"),
    ]);
    for size in [7, 1_000] {
        let end = outcome(&longer, chunked(whole, size));
        assert_eq!((failed(&end), used(&end)), (None, (Some(10), Some(5))));
    }
    // With a coding, the length is that of another text.
    let coded = headers(&[
        ("content-type", "application/json"),
        ("content-length", "999"),
        ("content-encoding", "gzip"),
    ]);
    assert_eq!(failed(&outcome(&coded, chunked(whole, 7))), None);
}

#[test]
fn json_of_any_endpoint_that_is_cut_is_truncated() {
    for text in [&b"[1,2"[..], b"{", b"{\"a\":1,", b" [ \n"] {
        let end = outcome_of("POST", "/v1/other", 200, &json(), text);
        assert!(
            matches!(end, Outcome::Failed { class, .. } if class.kind == Kind::Truncated),
            "{text:?}"
        );
    }
}

#[test]
fn message_of_any_length_is_complete_with_usage() {
    let chunk = Bytes::from("word ".repeat(200 * 1024));
    let mut pieces = vec![data(
        r#"{"type":"message","content":[{"type":"text","text":""#,
    )];
    pieces.extend((0..12).map(|_| data(chunk.clone())));
    pieces.push(data(r#""}],"usage":{"input_tokens":5,"output_tokens":6}}"#));
    let end = outcome(&json(), frames(pieces));
    assert!(matches!(end, Outcome::Complete { .. }));
    assert_eq!(used(&end), (Some(5), Some(6)));
}

#[test]
fn empty_body_ends_with_the_head() {
    for headers in [HeaderMap::new(), json()] {
        let (body, log) = track(&headers, frames([]).exact());
        assert_eq!(failed(&log.outcome()), Some(Kind::Truncated));
        assert!(body.is_end_stream());
        drop(body);
        log.outcome();
    }
}

#[test]
fn last_frame_of_a_body_of_known_length_is_its_end() {
    let message = [data(r#"{"content":[]"#), data("}")];
    let (mut body, log) = track(&HeaderMap::new(), frames(message).exact());
    poll_once(&mut body);
    assert!(log.reports().ends.is_empty());
    assert_eq!(body.size_hint().exact(), Some(1));
    poll_once(&mut body);
    assert!(matches!(log.outcome(), Outcome::Complete { .. }));
}

#[test]
fn compressed_body_is_complete_without_usage() {
    for kind in ["application/json", "text/event-stream"] {
        let headers = headers(&[("content-type", kind), ("content-encoding", "gzip")]);
        let text = fixture("sse_error_first_event.txt");
        let end = outcome(&headers, chunked(&text, 10));
        assert_eq!(
            end,
            Outcome::Complete {
                usage: &Default::default()
            }
        );
    }
}

#[test]
fn tracker_without_usage_reads_usage_of_streams_only() {
    let tracker =
        |headers: &HeaderMap| BodyTracker::of(ExpectedBody::Message, StatusCode::OK, headers);
    let mut watch = tracker(&json()).without_usage();
    assert!(watch.is_json());
    watch.feed(&Bytes::from(fixture("200_message.json")));
    assert!(watch.usage().is_empty());
    // A stream is read for its events anyway.
    let mut watch = tracker(&sse()).without_usage();
    watch.feed(&Bytes::from(fixture("sse_ok.txt")));
    assert!(!watch.usage().is_empty());
}

proptest! {
    /// A response in any pieces, read up to any point, has one outcome.
    #[test]
    fn outcome_is_reported_once(
        cuts in prop::collection::vec(1_usize..200, 1..20),
        name in prop::sample::select(vec![
            "sse_ok.txt", "sse_error_midstream.txt", "sse_truncated_no_message_stop.txt",
            "sse_refusal_midstream.txt", "200_message.json",
        ]),
        ending in 0..3,
        reads in 0_usize..60,
        exact: bool,
    ) {
        let text = fixture(name);
        let mut body = frames([]);
        let (mut rest, mut cuts) = (&text[..], cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (part, more) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            body = body.then(data(part.to_vec()));
            rest = more;
        }
        if ending == 1 { body = body.then(Piece::Error); }
        if ending == 2 { body = body.then(Piece::Trailers); }
        body.exact = exact;
        let headers = if name.starts_with("sse") { sse() } else { json() };
        let (mut body, log) = track(&headers, body);
        for _ in 0..reads {
            poll_once(&mut body);
            prop_assert!(log.reports().ends.len() <= 1);
        }
        drop(body);
        prop_assert_eq!(log.reports().ends.len(), 1);
    }
}
