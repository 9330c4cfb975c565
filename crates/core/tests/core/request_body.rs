//! Request bodies: buffering, streams and clones.

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tower_claude_core::{BoxError, RequestBody, toolkit::Collect};

use crate::frames::{Cut, Frames, Piece, chunked, data, drain, frames, run, trailers};

const JSON: &str = r#"{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[]}"#;

fn collect(body: Frames, limit: usize) -> RequestBody {
    run(Collect::new(body, limit))
}

fn cut(error: Option<BoxError>) -> bool {
    error.is_some_and(|error| error.is::<Cut>())
}

#[test]
fn single_chunk_is_not_copied() {
    let bytes = Bytes::from(JSON);
    let body = collect(frames([data(bytes.clone())]), JSON.len());
    let held = body.bytes().expect("buffered");
    assert_eq!(held.as_ptr(), bytes.as_ptr(), "copied");
    assert_eq!(body.model(), Some("claude-sonnet-5-5"));
    assert_eq!(body.size_hint().exact(), Some(JSON.len() as u64));
}

#[test]
fn request_body_is_not_wrapped_again() {
    let bytes = Bytes::from(JSON);
    let body = RequestBody::from(bytes.clone());
    let peek: *const _ = body.peek().expect("an object");
    let body = RequestBody::new(body);
    assert_eq!(body.bytes().expect("still bytes").as_ptr(), bytes.as_ptr());
    assert_eq!(peek, std::ptr::from_ref(body.peek().expect("still parsed")));
    let copy = body.try_clone().expect("bytes can be sent again");
    assert_eq!(peek, std::ptr::from_ref(copy.peek().expect("shared")));
    assert_eq!(copy.bytes().expect("bytes").as_ptr(), bytes.as_ptr());
}

/// A chunk for each byte would take thirty times the memory of the body.
#[test]
fn short_chunks_are_joined() {
    let text = vec![b'x'; 10_000];
    let whole = collect(chunked(&text, 1), text.len());
    assert_eq!(whole.bytes().map(|bytes| &**bytes), Some(&*text));
    let mut cut = collect(chunked(&text, 1), text.len() - 1);
    let mut frames = 0;
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    while let std::task::Poll::Ready(Some(frame)) = std::pin::Pin::new(&mut cut).poll_frame(&mut cx)
    {
        frame.expect("no error");
        frames += 1;
    }
    assert!(frames < 100, "{frames}");
}

#[test]
fn body_at_the_limit_is_buffered_and_over_it_is_a_stream() {
    for exact in [true, false] {
        for (limit, buffered) in [(JSON.len(), true), (JSON.len() - 1, false), (0, false)] {
            let mut source = chunked(JSON.as_bytes(), 7).then(Piece::Wait);
            source.exact = exact;
            let body = collect(source, limit);
            assert_eq!(body.bytes().is_some(), buffered, "{limit} {exact}");
            assert_eq!(body.try_clone().is_some(), buffered);
            assert_eq!(body.peek().is_some(), buffered);
            let (bytes, trailers, error) = drain(body);
            assert_eq!(bytes, JSON.as_bytes());
            assert!(trailers.is_none() && error.is_none());
        }
    }
}

#[test]
fn stream_keeps_its_size_hint() {
    let body = collect(chunked(JSON.as_bytes(), 7).exact(), 10);
    assert_eq!(body.size_hint().exact(), Some(JSON.len() as u64));
    // If the length is unknown, the bytes that were read are the lower bound.
    let body = collect(chunked(JSON.as_bytes(), 7), 10);
    assert_eq!(body.size_hint().lower(), 14);
    assert_eq!(body.size_hint().upper(), None);
    assert!(!body.is_end_stream());
}

#[test]
fn body_with_trailers_becomes_a_stream() {
    let body = collect(frames([data("ab"), data("cd"), Piece::Trailers]), 99);
    assert!(body.bytes().is_none());
    assert_eq!(body.size_hint().exact(), Some(4));
    let (bytes, got, error) = drain(body);
    assert_eq!(bytes, b"abcd");
    assert_eq!(got, Some(trailers()));
    assert!(error.is_none());
}

#[test]
fn body_error_follows_the_bytes_that_were_read() {
    let body = collect(
        frames([data("ab"), Piece::Wait, data("c"), Piece::Error]),
        99,
    );
    assert!(body.bytes().is_none() && body.try_clone().is_none());
    assert_eq!(
        body.size_hint().exact(),
        None,
        "no length that the error belies"
    );
    assert!(!body.is_end_stream());
    let (bytes, _, error) = drain(body);
    assert_eq!(bytes, b"abc");
    assert!(cut(error), "the very error");
}

#[test]
fn body_error_after_the_limit_is_forwarded() {
    let body = collect(frames([data("abc"), data("def"), Piece::Error]), 2);
    let (bytes, _, error) = drain(body);
    assert_eq!(bytes, b"abcdef");
    assert!(cut(error));
}

/// A client that reads `is_end_stream` sends no more after it.
#[test]
fn exhausted_stream_is_at_its_end() {
    // The body has a known end and an unknown length.
    let long = Full::new(Bytes::from("abcd")).map_frame(|frame| frame);
    for (mut body, left) in [
        (collect(frames([Piece::Error]), 99), 1),
        (collect(frames([data("ab"), Piece::Error]), 99), 2),
        (collect(frames([data("ab"), Piece::Trailers]), 99), 2),
        (run(Collect::new(long, 3)), 1),
    ] {
        for _ in 0..left {
            assert!(!body.is_end_stream());
            assert!(run(body.frame()).is_some());
        }
        assert!(body.is_end_stream() && run(body.frame()).is_none());
    }
}

#[test]
fn sent_body_yields_no_frame_and_keeps_its_bytes() {
    let mut body = RequestBody::from("abc");
    let (first, ..) = drain(&mut body);
    assert_eq!(first, b"abc");
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert_eq!(body.bytes().map(Bytes::len), Some(3), "kept for a re-send");
    let (again, ..) = drain(body.try_clone().expect("bytes"));
    assert_eq!(again, b"abc");
    assert_eq!(
        body.try_into_bytes().expect("bytes"),
        Bytes::new(),
        "nothing is left to send"
    );
}

#[test]
fn empty_body_is_at_its_end() {
    for body in [
        RequestBody::default(),
        collect(frames([]), 0),
        collect(frames([]).exact(), 0),
    ] {
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert_eq!(body.bytes().map(Bytes::len), Some(0));
        assert!(body.peek().is_none());
        assert_eq!(drain(body).0, b"");
    }
}

#[test]
fn wrapped_stream_is_forwarded() {
    let body = RequestBody::new(frames([data("ab"), Piece::Wait, Piece::Trailers]));
    assert!(body.bytes().is_none() && body.peek().is_none());
    let body = body.try_into_bytes().expect_err("a stream");
    let (bytes, got, _) = drain(body);
    assert_eq!((bytes.as_slice(), got), (&b"ab"[..], Some(trailers())));
}

#[test]
fn debug_output_has_no_content() {
    let secret = RequestBody::from("secret");
    assert_eq!(format!("{secret:?}"), "RequestBody(6 bytes)");
    let stream = RequestBody::new(frames([data("secret")]));
    assert!(!format!("{stream:?}").contains("secret"));
}

#[test]
fn request_body_is_send_and_sync() {
    const fn sync<T: Send + Sync + Unpin + 'static>() {}
    sync::<RequestBody>();
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..9).prop_map(data),
        2 => Just(Piece::Wait),
    ]
}

fn end() -> impl Strategy<Value = Option<Piece>> {
    prop_oneof![
        Just(None),
        Just(Some(Piece::Trailers)),
        Just(Some(Piece::Error))
    ]
}

proptest! {
    #[test]
    fn collected_body_loses_no_byte(
        mut pieces in prop::collection::vec(piece(), 0..12),
        end in end(),
        limit in 0_usize..64,
        exact: bool,
    ) {
        pieces.extend(end.clone());
        let mut source = frames(pieces);
        source.exact = exact;
        let whole = drain(source.clone()).0;
        let body = collect(source, limit);
        let buffered = end.is_none() && whole.len() <= limit;
        prop_assert_eq!(body.bytes().is_some(), buffered);
        let hint = body.size_hint();
        prop_assert!(hint.lower() <= whole.len() as u64);
        prop_assert!(hint.upper().is_none_or(|upper| upper >= whole.len() as u64));
        let (bytes, trailers, error) = drain(body);
        prop_assert_eq!(bytes, whole);
        prop_assert_eq!(trailers.is_some(), end == Some(Piece::Trailers));
        prop_assert_eq!(cut(error), end == Some(Piece::Error));
    }
}
