//! The body of a response.

mod answer;
mod json;
mod sse;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::FakeError;

pub(crate) use self::answer::{Answer, FAR, Pace};
use self::json::JsonAnswer;
use self::sse::SseAnswer;

/// Response body of the fake. One frame is one event.
#[derive(Default)]
pub struct FakeBody {
    kind: Kind,
}

#[derive(Default)]
enum Kind {
    #[default]
    Done,
    Full(Bytes),
    Json(Box<JsonAnswer>),
    Sse(Box<SseAnswer>),
}

impl FakeBody {
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            kind: if bytes.is_empty() {
                Kind::Done
            } else {
                Kind::Full(bytes)
            },
        }
    }

    /// Creates the body of a JSON message whose output is already charged.
    pub(crate) fn json(answer: Answer) -> Self {
        Self {
            kind: Kind::Json(Box::new(JsonAnswer::new(answer))),
        }
    }

    pub(crate) fn sse(answer: Answer) -> Self {
        Self {
            kind: Kind::Sse(Box::new(SseAnswer::new(answer))),
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
            Kind::Done => None,
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Done;
                Some(Ok(bytes))
            }
            Kind::Json(answer) => ready!(answer.poll(cx)),
            Kind::Sse(answer) => ready!(answer.poll(cx)),
        };
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Done => true,
            Kind::Full(_) => false,
            Kind::Json(answer) => answer.is_done(),
            Kind::Sse(answer) => answer.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Done => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Json(answer) => answer.size_hint(),
            Kind::Sse(_) => SizeHint::default(),
        }
    }
}
