//! The driver: the end of each successful response is reported exactly once.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_core::{
    Call, ClaudeClassify, Kind, Outcome, Rejection, RequestBody, ResponseBody,
    driver::{self, AttemptPolicy, Clock, DriverLayer},
    toolkit::BodyTracker,
};
use tower_claude_wire::StreamState;

use crate::frames::{
    Cut, Frames, Piece, chunked, data, drain, fixture, frames, headers, json, run, sse,
};

/// An attempt policy that records the progress and the end of responses.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Reports>>);

#[derive(Default)]
struct Reports {
    ends: Vec<Outcome>,
    content: Vec<bool>,
}

impl AttemptPolicy for Log {
    type Attempt = ();

    const READS_USAGE: bool = true;

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

    fn on_end(&self, (): &mut (), outcome: &Outcome, _: &mut Clock) {
        self.reports().ends.push(outcome.clone());
    }
}

impl Log {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.0.lock().expect("no panic under the lock")
    }

    /// Returns the only outcome.
    fn outcome(&self) -> Outcome {
        let reports = self.reports();
        assert_eq!(reports.ends.len(), 1, "one outcome: {:?}", reports.ends);
        reports.ends[0].clone()
    }
}

type Tracked<B> = ResponseBody<driver::Body<B, (), Log, ClaudeClassify>>;

/// Sends a request through a driver that holds no response. Returns the body of the response.
fn track<B>(headers: &HeaderMap, body: B) -> (Tracked<B>, Log)
where
    B: Body<Data = Bytes, Error = Cut> + Unpin + Send + 'static,
{
    let log = Log::default();
    let mut response = Response::new(body);
    response.headers_mut().clone_from(headers);
    let layer = DriverLayer::new((), log.clone(), ClaudeClassify::default());
    let response = Arc::new(Mutex::new(Some(response)));
    let service = layer.layer(service_fn(move |_: Request<RequestBody>| {
        let response = response.lock().expect("no panic under the lock").take();
        std::future::ready(Ok::<_, Cut>(response.expect("only one request")))
    }));
    let request = Request::new(RequestBody::from("{}"));
    let response = run(service.oneshot(request)).expect("a response");
    (response.into_body(), log)
}

fn poll_once<B: Body + Unpin>(body: &mut B) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(body).poll_frame(&mut cx).is_ready()
}

/// Returns the outcome of a response that the caller reads to its end and then drops.
fn outcome(headers: &HeaderMap, body: Frames) -> Outcome {
    let (tracked, log) = track(headers, body.clone());
    assert_eq!(drain(tracked), drain(body), "bytes were changed");
    log.outcome()
}

fn used(outcome: &Outcome) -> (Option<u64>, Option<u64>) {
    (outcome.usage().input_tokens, outcome.usage().output_tokens)
}

fn failed(outcome: &Outcome) -> Option<Kind> {
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
    let end = outcome(&sse(), chunked(text, 5));
    assert!(matches!(end, Outcome::Complete { .. }), "{end:?}");
    assert!(end.usage().is_empty());
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
fn json_that_is_no_message_is_complete_without_usage() {
    for text in [&b"[1,2]"[..], b"null", b"\xff", b"{}", b" {} \n", b""] {
        let end = outcome(&json(), chunked(text, 2));
        assert!(matches!(end, Outcome::Complete { .. }));
        assert!(end.usage().is_empty());
    }
}

#[test]
fn message_that_stops_inside_is_truncated() {
    for text in [&b"[1,2"[..], b"{", b"{\"a\":1,", b" [ \n"] {
        let end = outcome(&json(), chunked(text, 2));
        assert!(
            matches!(end, Outcome::Failed { class, .. } if class.kind == Kind::Truncated),
            "{text:?}"
        );
    }
}

#[test]
fn message_over_the_limit_is_complete_without_usage() {
    let chunk = Bytes::from(vec![b' '; 1024 * 1024]);
    let mut pieces: Vec<_> = (0..6).map(|_| data(chunk.clone())).collect();
    pieces.push(data(fixture("200_message.json")));
    let end = outcome(&json(), frames(pieces));
    assert_eq!(
        end,
        Outcome::Complete {
            usage: Default::default()
        }
    );
}

#[test]
fn empty_body_ends_with_the_head() {
    for headers in [HeaderMap::new(), json()] {
        let (body, log) = track(&headers, frames([]).exact());
        assert!(matches!(log.outcome(), Outcome::Complete { .. }));
        assert!(body.is_end_stream());
        drop(body);
        log.outcome();
    }
}

#[test]
fn last_frame_of_a_body_of_known_length_is_its_end() {
    let (mut body, log) = track(&HeaderMap::new(), frames([data("a"), data("b")]).exact());
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
                usage: Default::default()
            }
        );
    }
}

#[test]
fn tracker_without_usage_reads_usage_of_streams_only() {
    let mut watch = BodyTracker::of(&json()).without_usage();
    assert!(watch.is_message());
    watch.feed(&Bytes::from(fixture("200_message.json")));
    assert!(watch.usage().is_empty());
    // A stream is read for its events anyway.
    let mut watch = BodyTracker::of(&sse()).without_usage();
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
