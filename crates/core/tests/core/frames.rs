//! Scripted bodies, and helpers to read bodies.

use std::{
    collections::VecDeque,
    fmt, fs,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tower_claude_core::Outcome;

/// An error that no classifier recognises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers,
    Error,
    Wait,
}

/// A body that yields these pieces. If `exact` is set, it reports its length and its end.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    pub(crate) pieces: VecDeque<Piece>,
    pub(crate) exact: bool,
}

pub(crate) fn data(bytes: impl Into<Bytes>) -> Piece {
    Piece::Data(bytes.into())
}

pub(crate) fn frames(pieces: impl IntoIterator<Item = Piece>) -> Frames {
    Frames {
        pieces: pieces.into_iter().collect(),
        exact: false,
    }
}

/// Returns a body of the text in chunks of this size.
pub(crate) fn chunked(text: &[u8], size: usize) -> Frames {
    frames(text.chunks(size).map(|part| data(part.to_vec())))
}

impl Frames {
    pub(crate) fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    pub(crate) fn then(mut self, piece: Piece) -> Self {
        self.pieces.push_back(piece);
        self
    }
}

pub(crate) fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        "x-sum".parse().expect("a name"),
        HeaderValue::from_static("1"),
    )])
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Poll::Ready(match self.get_mut().pieces.pop_front() {
            None => None,
            Some(Piece::Data(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::Trailers) => Some(Ok(Frame::trailers(trailers()))),
            Some(Piece::Error) => Some(Err(Cut)),
            Some(Piece::Wait) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.exact && self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if !self.exact {
            return SizeHint::new();
        }
        SizeHint::with_exact(self.pieces.iter().fold(0, |sum, piece| match piece {
            Piece::Data(bytes) => sum + bytes.len() as u64,
            _ => sum,
        }))
    }
}

/// Polls a future that wakes itself until it is ready.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
    panic!("the future does not end");
}

/// Returns all bytes, the trailers and the error of a body.
pub(crate) fn drain<B>(mut body: B) -> (Vec<u8>, Option<HeaderMap>, Option<B::Error>)
where
    B: Body<Data = Bytes> + Unpin,
{
    run(async {
        let (mut bytes, mut trailers, mut error) = (Vec::new(), None, None);
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => bytes.extend_from_slice(&data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
        (bytes, trailers, error)
    })
}

pub(crate) fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, value.parse().expect("a header value"));
    }
    map
}

pub(crate) fn sse() -> HeaderMap {
    headers(&[("content-type", "text/event-stream; charset=utf-8")])
}

pub(crate) fn json() -> HeaderMap {
    headers(&[("content-type", "application/json")])
}

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../wire/tests/fixtures"
    ))
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the fixtures of error bodies. Their names begin with the status.
pub(crate) fn error_fixtures() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(fixtures())
        .expect("the fixtures of wire")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .filter(|name| name.starts_with(['4', '5']) && name.ends_with(".json"))
        .collect();
    names.sort();
    names
}

/// Keeps an outcome for the rest of the test.
pub(crate) fn kept(outcome: &Outcome<'_>) -> Outcome<'static> {
    let usage = Box::leak(Box::new(outcome.usage().clone()));
    match *outcome {
        Outcome::Complete { .. } => Outcome::Complete { usage },
        Outcome::Failed { class, .. } => Outcome::Failed { class, usage },
        Outcome::Dropped { .. } => Outcome::Dropped { usage },
        _ => panic!("another outcome: {outcome:?}"),
    }
}
