//! The body of a response.

mod answer;
mod frames;
mod json;
mod sse;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::FakeError;

pub(crate) use self::answer::{Answer, FAR, Pace};
use self::frames::FrameAnswer;
use self::json::JsonAnswer;
use self::sse::SseAnswer;

/// Response body of the fake. One frame is one event, or a frame of an event stream of AWS.
#[derive(Default)]
pub struct FakeBody {
    kind: BodyKind,
}

#[derive(Default)]
enum BodyKind {
    #[default]
    Done,
    Full(Bytes),
    Lines(std::vec::IntoIter<Bytes>),
    Json(Box<JsonAnswer>),
    Sse(Box<SseAnswer>),
    Frames(Box<FrameAnswer>),
}

impl FakeBody {
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            kind: if bytes.is_empty() {
                BodyKind::Done
            } else {
                BodyKind::Full(bytes)
            },
        }
    }

    /// Creates a body with one frame per line.
    pub(crate) fn lines(lines: Vec<Bytes>) -> Self {
        Self {
            kind: BodyKind::Lines(lines.into_iter()),
        }
    }

    /// Creates the body of a JSON message whose output is already charged.
    pub(crate) fn json(answer: Answer) -> Self {
        Self {
            kind: BodyKind::Json(Box::new(JsonAnswer::new(answer))),
        }
    }

    /// Creates the body of an event stream of AWS.
    pub(crate) fn frames(answer: Answer) -> Self {
        Self {
            kind: BodyKind::Frames(Box::new(FrameAnswer::new(answer))),
        }
    }

    pub(crate) fn sse(answer: Answer) -> Self {
        Self {
            kind: BodyKind::Sse(Box::new(SseAnswer::new(answer))),
        }
    }
}

impl Body for FakeBody {
    type Data = Bytes;
    type Error = FakeError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FakeError>>> {
        let this = self.get_mut();
        let next = match &mut this.kind {
            BodyKind::Done => None,
            BodyKind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = BodyKind::Done;
                Some(Ok(bytes))
            }
            BodyKind::Lines(lines) => lines.next().map(Ok),
            BodyKind::Json(answer) => ready!(answer.poll(cx)),
            BodyKind::Sse(answer) => ready!(answer.poll(cx)),
            BodyKind::Frames(answer) => ready!(answer.poll(cx)),
        };
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Done => true,
            BodyKind::Full(_) => false,
            BodyKind::Lines(lines) => lines.len() == 0,
            BodyKind::Json(answer) => answer.is_done(),
            BodyKind::Sse(answer) => answer.is_done(),
            BodyKind::Frames(answer) => answer.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Done => SizeHint::with_exact(0),
            BodyKind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodyKind::Json(answer) => answer.size_hint(),
            BodyKind::Lines(_) | BodyKind::Sse(_) | BodyKind::Frames(_) => SizeHint::default(),
        }
    }
}
