//! Response bodies of layers, and error bodies.

use std::task::{Context, Waker};

use bytes::Bytes;
use http_body::Body;
use tower_claude_core::{
    ResponseBody,
    toolkit::{ERROR_BODY_LIMIT, ErrorBody},
};

use crate::frames::{Cut, Frames, Piece, data, drain, frames, run, trailers};

/// Reads what is there of a body, up to the first pending frame.
fn held(
    pieces: impl IntoIterator<Item = Piece>,
    exact: bool,
) -> impl Body<Data = Bytes, Error = Cut> {
    let source = frames(pieces);
    let mut body = ErrorBody::new(if exact { source.exact() } else { source });
    let _ = body.poll_read(&mut Context::from_waker(Waker::noop()));
    body.into_body()
}

#[test]
fn inner_body_is_forwarded_with_its_hints() {
    let known = ResponseBody::inner(frames([data("abc")]).exact());
    assert_eq!(known.size_hint().exact(), Some(3));
    let unknown = ResponseBody::inner(frames([data("abc")]));
    assert_eq!(
        (unknown.size_hint().lower(), unknown.size_hint().upper()),
        (0, None)
    );
    assert!(ResponseBody::inner(frames([]).exact()).is_end_stream());
    assert!(!ResponseBody::inner(frames([])).is_end_stream());
}

#[test]
fn full_body_has_an_exact_length() {
    let mut body = ResponseBody::<Frames>::full(Bytes::from("abc"));
    assert_eq!(body.size_hint().exact(), Some(3));
    assert!(!body.is_end_stream());
    assert_eq!(drain(&mut body).0, b"abc");
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.is_end_stream());
}

#[test]
fn held_body_yields_its_frames_and_then_the_rest() {
    let rest = [Piece::Wait, data("cd"), Piece::Trailers];
    let pieces = || [data("a"), data("b")].into_iter().chain(rest.clone());
    let body = held(pieces(), true);
    assert_eq!(body.size_hint().exact(), Some(4));
    assert!(!body.is_end_stream());
    let (bytes, got, error) = drain(body);
    assert_eq!(
        (bytes.as_slice(), got, error),
        (&b"abcd"[..], Some(trailers()), None)
    );

    let body = held(pieces(), false);
    assert_eq!(
        (body.size_hint().lower(), body.size_hint().upper()),
        (2, None)
    );
}

#[test]
fn held_body_yields_its_frames_and_then_the_error() {
    let body = held([data("ab"), Piece::Error], false);
    assert_eq!(
        (body.size_hint().lower(), body.size_hint().upper()),
        (2, None)
    );
    assert!(!body.is_end_stream(), "the error is still to come");
    let (bytes, _, error) = drain(body);
    assert_eq!((bytes.as_slice(), error), (&b"ab"[..], Some(Cut)));

    let only = held([Piece::Error], false);
    assert!(!only.is_end_stream());
    assert_eq!(drain(only).2, Some(Cut));
}

#[test]
fn held_body_without_a_rest_has_an_exact_length() {
    let mut body = held([data("ab"), data("c")], false);
    assert_eq!(body.size_hint().exact(), Some(3));
    assert_eq!(drain(&mut body).0, b"abc");
    assert!(body.is_end_stream());
    let empty = held([], false);
    assert!(empty.is_end_stream());
    assert_eq!(empty.size_hint().exact(), Some(0));
}

fn read(body: Frames) -> ErrorBody<Frames> {
    let mut error = ErrorBody::new(body);
    run(std::future::poll_fn(|cx| error.poll_read(cx)));
    error
}

#[test]
fn error_body_is_read_and_returned_unchanged() {
    for pieces in [
        vec![],
        vec![data("abc")],
        vec![data("a"), Piece::Wait, data(""), data("bc")],
        vec![data("abc"), Piece::Trailers],
        vec![data("abc"), Piece::Error],
    ] {
        let whole = drain(frames(pieces.clone()));
        let error = read(frames(pieces));
        assert_eq!(error.bytes(), whole.0);
        assert_eq!(drain(error.into_body()), whole);
    }
}

#[test]
fn endless_error_body_is_read_up_to_the_limit() {
    let chunk = vec![b'x'; 1000];
    let source = frames((0..200).map(|_| data(chunk.clone())));
    let error = read(source);
    assert!(error.bytes().len() >= ERROR_BODY_LIMIT);
    assert!(error.bytes().len() < ERROR_BODY_LIMIT + chunk.len());
    assert_eq!(drain(error.into_body()).0, chunk.repeat(200));
}
