//! The body of an answer.

mod json;
mod pace;
mod sse;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::FakeError;
use crate::fault::Fault;
use crate::sse::Message;
use crate::state::Ticket;

use self::json::JsonAnswer;
pub(crate) use self::pace::{FAR, Pace};
use self::sse::SseAnswer;

/// An answer to be given.
pub(crate) struct Answer {
    pub(crate) ticket: Ticket,
    pub(crate) message: Message,
    pub(crate) tokens: u64,
    pub(crate) stop_reason: &'static str,
    pub(crate) fault: Option<Fault>,
    pub(crate) pace: Pace,
    pub(crate) per_event: u64,
    /// When token time began.
    pub(crate) origin: Instant,
}

/// Body of an answer of the fake. One frame is one event.
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

    /// A JSON message whose output is charged already.
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

/// One timer a body, made when first needed.
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}

type Next = Option<Result<Bytes, FakeError>>;

/// After how many tokens a fault of the body's middle strikes.
fn fault_at(fault: Option<&Fault>) -> Option<u64> {
    match fault? {
        Fault::ErrorMidStream { after_tokens }
        | Fault::Truncated { after_tokens }
        | Fault::Cut { after_tokens }
        | Fault::Stall { after_tokens, .. } => Some(*after_tokens),
        _ => None,
    }
}

/// A server drops what it has not written when a body fails: give it one turn to write the frames before.
fn flush_first(cx: &mut Context<'_>) -> Poll<Next> {
    cx.waker().wake_by_ref();
    Poll::Pending
}
