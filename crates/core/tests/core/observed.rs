//! Every way to end is told, once.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use proptest::prelude::*;
use tower_claude_core::{
    BodyTracker, Class, ClassifyResponse, ClaudeClassify, Kind, Observe, Observed, Outcome,
};
use tower_claude_wire::{ApiError, StreamState};

use crate::frames::{
    Cut, Frames, Piece, chunked, data, drain, fixture, frames, headers, json, sse,
};

#[derive(Clone, Default)]
struct Log {
    ends: Rc<RefCell<Vec<Outcome>>>,
    content: Rc<RefCell<Vec<bool>>>,
}

impl Observe for Log {
    fn stream_error(&self, error: &ApiError) -> Class {
        ClassifyResponse::stream_error(&ClaudeClassify::default(), error)
    }

    fn progress(&mut self, stream: &StreamState) {
        self.content.borrow_mut().push(stream.has_content());
    }

    fn end(self, outcome: Outcome) {
        self.ends.borrow_mut().push(outcome);
    }
}

impl Log {
    /// The one outcome there was.
    fn told(&self) -> Outcome {
        let ends = self.ends.borrow();
        assert_eq!(ends.len(), 1, "told once: {ends:?}");
        ends[0].clone()
    }
}

fn observe(headers: &HeaderMap, body: Frames) -> (Observed<Frames, Log>, Log) {
    let log = Log::default();
    (
        Observed::new(body, BodyTracker::of(headers), log.clone()),
        log,
    )
}

/// The outcome when the caller reads to the end and then drops the body.
fn outcome(headers: &HeaderMap, body: Frames) -> Outcome {
    let (observed, log) = observe(headers, body.clone());
    assert_eq!(drain(observed), drain(body), "bytes were changed");
    log.told()
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
fn a_whole_stream() {
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
fn message_stop_is_the_end() {
    let text = fixture("sse_ok.txt");
    let (mut observed, log) = observe(&sse(), frames([data(text), Piece::Wait]));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(
        std::pin::Pin::new(&mut observed)
            .poll_frame(&mut cx)
            .is_ready()
    );
    assert!(matches!(log.told(), Outcome::Complete { .. }));
    // What comes later, and the drop, say no more.
    drop(observed);
    log.told();
}

#[test]
fn progress_is_told_until_the_end() {
    let (observed, log) = observe(&sse(), chunked(&fixture("sse_ok.txt"), 64));
    drain(observed);
    let content = log.content.borrow();
    assert!(content.contains(&false) && content.contains(&true));
    assert!(content.is_sorted(), "content does not go away");
}

#[test]
fn an_error_event() {
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
    assert_eq!(used(&end).0, Some(25), "what was used is told");
}

#[test]
fn a_stream_cut_short() {
    let text = fixture("sse_truncated_no_message_stop.txt");
    for text in [&text[..], b""] {
        let end = outcome(&sse(), chunked(text, 20));
        assert_eq!(failed(&end), Some(Kind::Truncated));
    }
    // An event that nobody knows yet makes no other kind of stream of it.
    let new = [&b"event: new\ndata: {}\n\n"[..], &text[..]].concat();
    assert_eq!(
        failed(&outcome(&sse(), chunked(&new, 20))),
        Some(Kind::Truncated)
    );
    // One that says that it is at its end, and is not polled again.
    let (mut observed, log) = observe(&sse(), frames([data(text)]).exact());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = std::pin::Pin::new(&mut observed).poll_frame(&mut cx);
    assert_eq!(failed(&log.told()), Some(Kind::Truncated));
}

#[test]
fn a_foreign_stream_ends_without_message_stop() {
    let text = b"event: x\ndata: {\"choices\":[]}\n\ndata: [DONE]\n\n";
    let end = outcome(&sse(), chunked(text, 5));
    assert!(matches!(end, Outcome::Complete { .. }), "{end:?}");
    assert!(end.usage().is_empty());
}

#[test]
fn a_body_error() {
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
fn a_dropped_body() {
    let text = fixture("sse_error_midstream.txt");
    let start = text
        .split(|&byte| byte == b'\n')
        .take(3)
        .map(<[u8]>::len)
        .sum::<usize>()
        + 3;
    for read in [0, 1] {
        let body = frames([data(text[..start].to_vec()), data(text[start..].to_vec())]);
        let (mut observed, log) = observe(&sse(), body);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..read {
            let _ = std::pin::Pin::new(&mut observed).poll_frame(&mut cx);
        }
        assert!(log.ends.borrow().is_empty(), "told too early");
        drop(observed);
        let end = log.told();
        assert!(matches!(end, Outcome::Dropped { .. }), "{end:?}");
        assert_eq!(used(&end).0, (read == 1).then_some(25));
    }
}

/// A place in a limit is free when the connection is, and no sooner.
#[test]
fn a_dropped_body_is_gone_before_its_end_is_told() {
    struct Gone(Log);
    impl Drop for Gone {
        fn drop(&mut self) {
            assert!(self.0.ends.borrow().is_empty(), "told too early");
        }
    }
    impl Body for Gone {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
            std::task::Poll::Pending
        }
    }
    let log = Log::default();
    let watch = BodyTracker::of(&sse());
    drop(Observed::new(Gone(log.clone()), watch, log.clone()));
    assert!(matches!(log.told(), Outcome::Dropped { .. }));
}

#[test]
fn a_message_in_any_frames() {
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
fn a_message_that_is_none() {
    for text in [&b"[1,2]"[..], b"null", b"\xff", b"{}", b" {} \n", b""] {
        let end = outcome(&json(), chunked(text, 2));
        assert!(matches!(end, Outcome::Complete { .. }));
        assert!(end.usage().is_empty());
    }
}

#[test]
fn a_message_that_just_stops() {
    for text in [&b"[1,2"[..], b"{", b"{\"a\":1,", b" [ \n"] {
        let end = outcome(&json(), chunked(text, 2));
        assert!(
            matches!(end, Outcome::Failed { class, .. } if class.kind == Kind::Truncated),
            "{text:?}"
        );
    }
}

#[test]
fn an_endless_message_is_not_kept() {
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
fn bodies_without_frames_end_at_once() {
    for headers in [HeaderMap::new(), json()] {
        let (observed, log) = observe(&headers, frames([]).exact());
        assert!(matches!(log.told(), Outcome::Complete { .. }));
        assert!(observed.is_end_stream());
        drop(observed);
        log.told();
    }
}

#[test]
fn the_last_frame_is_the_end_when_it_says_so() {
    let (mut observed, log) = observe(&HeaderMap::new(), frames([data("a"), data("b")]).exact());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = std::pin::Pin::new(&mut observed).poll_frame(&mut cx);
    assert!(log.ends.borrow().is_empty());
    assert_eq!(observed.size_hint().exact(), Some(1));
    let _ = std::pin::Pin::new(&mut observed).poll_frame(&mut cx);
    assert!(matches!(log.told(), Outcome::Complete { .. }));
}

#[test]
fn compressed_bodies_are_not_looked_into() {
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
fn a_watch_that_saw_the_end_tells_it_at_once() {
    let mut watch = BodyTracker::of(&sse());
    watch.feed(&Bytes::from(fixture("sse_ok.txt")));
    let log = Log::default();
    let observed = Observed::new(frames([]), watch, log.clone());
    assert!(matches!(log.told(), Outcome::Complete { .. }));
    drop(observed);
    log.told();
}

#[test]
fn usage_is_kept_only_for_those_who_ask() {
    let mut watch = BodyTracker::of(&json()).without_usage();
    assert!(watch.is_message());
    watch.feed(&Bytes::from(fixture("200_message.json")));
    assert!(watch.usage().is_empty());
    // A stream is read for its events anyway.
    let mut watch = BodyTracker::of(&sse()).without_usage();
    watch.feed(&Bytes::from(fixture("sse_ok.txt")));
    assert!(!watch.usage().is_empty());
}

#[test]
fn what_was_understood_can_be_read() {
    let (mut observed, _log) = observe(&sse(), frames([data(fixture("sse_ok.txt"))]));
    let content = |observed: &Observed<Frames, Log>| {
        observed
            .watch()
            .stream()
            .is_some_and(StreamState::has_content)
    };
    assert!(!content(&observed));
    drain(&mut observed);
    assert!(content(&observed));
}

#[test]
fn off_tells_nothing() {
    let observed = Observed::<_, Log>::off(frames([data("abc"), Piece::Error]));
    assert_eq!(drain(observed), (b"abc".to_vec(), None, Some(Cut)));
}

proptest! {
    /// Any pieces, read to any point: told once, bytes as they were.
    #[test]
    fn told_once(
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
        let (mut observed, log) = observe(&headers, body);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..reads {
            let _ = std::pin::Pin::new(&mut observed).poll_frame(&mut cx);
            prop_assert!(log.ends.borrow().len() <= 1);
        }
        drop(observed);
        prop_assert_eq!(log.ends.borrow().len(), 1);
    }
}
