//! The response body.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_claude_wire::ApiError;

use crate::{Entry, flight::seat::Seat, flight::state::Next};

pin_project! {
    /// An inner body that passes through, one that several read, or a stored one.
    ///
    /// Of an inner body that breaks off, one reader gets the error. The others' event stream ends with an `error` event
    /// (`api_error`), as the API's own would.
    pub struct Body<R> {
        #[pin]
        repr: Repr<R>,
    }
}

pin_project! {
    #[project = ReprProjection]
    enum Repr<R> {
        Passing { #[pin] body: R },
        // Boxed: rare, and else the size of every response that moves through the layer.
        Shared { reader: Box<Reader> },
        Stored { entry: Entry, index: usize },
    }
}

/// Reads a flight from its first frame on.
struct Reader {
    /// Given up at the end.
    seat: Option<Seat>,
    index: usize,
    /// What the head promised, when it is this reader's own; else a break can be told in the stream.
    promised: Option<SizeHint>,
    read: u64,
}

impl<R> Body<R> {
    pub(crate) const fn passing(body: R) -> Self {
        Self {
            repr: Repr::Passing { body },
        }
    }

    pub(crate) fn shared(seat: Seat, promised: Option<SizeHint>) -> Self {
        let reader = Box::new(Reader {
            seat: Some(seat),
            index: 0,
            promised,
            read: 0,
        });
        Self {
            repr: Repr::Shared { reader },
        }
    }

    pub(crate) const fn stored(entry: Entry) -> Self {
        Self {
            repr: Repr::Stored { entry, index: 0 },
        }
    }
}

impl<R> HttpBody for Body<R>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        match self.project().repr.project() {
            ReprProjection::Passing { body } => body.poll_frame(cx),
            ReprProjection::Shared { reader } => reader.poll_frame(cx),
            ReprProjection::Stored { entry, index } => {
                let frame = entry.parts().frames.get(*index).cloned();
                *index += 1;
                Poll::Ready(frame.map(|data| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.repr {
            Repr::Passing { body } => body.is_end_stream(),
            Repr::Shared { reader } => reader
                .seat
                .as_ref()
                .is_none_or(|seat| seat.is_at_end(reader.index)),
            Repr::Stored { entry, index } => *index >= entry.parts().frames.len(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Passing { body } => body.size_hint(),
            Repr::Shared { reader } => reader.size_hint(),
            Repr::Stored { entry, index } => {
                let left = entry.parts().frames.iter().skip(*index);
                SizeHint::with_exact(left.map(|data| data.len() as u64).sum())
            }
        }
    }
}

impl Reader {
    fn poll_frame<E: 'static>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        let Some(seat) = &self.seat else {
            return Poll::Ready(None);
        };
        let next = ready!(seat.poll_next(&mut self.index, cx));
        if let Next::Frame(frame) = next {
            self.read += frame.data_ref().map_or(0, |data| data.len() as u64);
            return Poll::Ready(Some(Ok(frame)));
        }
        self.seat = None;
        match next {
            Next::End => Poll::Ready(None),
            Next::Fault(fault) => match fault.downcast() {
                Ok(error) => Poll::Ready(Some(Err(*error))),
                // A layer around inner services whose bodies fail in different ways.
                Err(_) => Poll::Ready(self.last_words()),
            },
            _ => Poll::Ready(self.last_words()),
        }
    }

    /// The stream is closed as the API closes one that it cannot finish; the blank line ends whatever was begun.
    fn last_words<E>(&self) -> Option<Result<Frame<Bytes>, E>> {
        if self
            .promised
            .as_ref()
            .is_some_and(|hint| hint.exact().is_some())
        {
            return None;
        }
        let data = ApiError::body("api_error", "the answer broke off", None);
        let words = format!("\n\nevent: error\ndata: {data}\n\n");
        Some(Ok(Frame::data(words.into())))
    }

    fn size_hint(&self) -> SizeHint {
        let Some(promised) = &self.promised else {
            return SizeHint::default();
        };
        let mut hint = SizeHint::new();
        if let Some(upper) = promised.upper() {
            hint.set_upper(upper.saturating_sub(self.read));
        }
        hint.set_lower(promised.lower().saturating_sub(self.read));
        hint
    }
}

impl<R> fmt::Debug for Body<R> {
    /// Never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.repr {
            Repr::Passing { .. } => "Body(passing)",
            Repr::Shared { .. } => "Body(shared)",
            Repr::Stored { .. } => "Body(stored)",
        })
    }
}
