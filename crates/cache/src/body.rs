//! The response body.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_claude_core::ResponseBody;
use tower_claude_wire::ApiError;

use crate::{
    coalesce::{shared_fetch::Subscriber, state::NextFrame},
    store::entry::Entry,
};

pin_project! {
    /// The response body of [`Cache`](crate::Cache): an inner body, a shared body, or a stored
    /// body.
    ///
    /// If a shared inner body fails, one reader gets its error. The event stream of the other
    /// readers ends with an `error` event (`api_error`), as the API itself ends a stream that it
    /// cannot finish.
    pub struct Body<R> {
        #[pin]
        repr: Repr<R>,
    }
}

pin_project! {
    #[project = ReprProjection]
    enum Repr<R> {
        Passing { #[pin] body: R },
        // Boxed: rare, and it would increase the size of every response that passes through the
        // layer.
        Shared { reader: Box<Reader> },
        Stored { entry: Entry, index: usize },
    }
}

/// The body of a response that the cache makes, independent of the type of the inner body.
pub(crate) enum CacheBody {
    Full(Bytes),
    /// A shared body, with the size that the leader's own head promised.
    Shared(Subscriber, Option<SizeHint>),
    Stored(Entry),
}

impl CacheBody {
    pub(crate) fn into_body<R>(self) -> ResponseBody<Body<R>>
    where
        R: HttpBody<Data = Bytes>,
        R::Error: 'static,
    {
        let repr = match self {
            Self::Full(bytes) => return ResponseBody::full(bytes),
            Self::Shared(subscriber, promised) => Repr::Shared {
                reader: Box::new(Reader {
                    subscriber: Some(subscriber),
                    position: 0,
                    promised,
                    read: 0,
                }),
            },
            Self::Stored(entry) => match &*entry.parts().frames {
                [only] => return ResponseBody::full(only.clone()),
                _ => Repr::Stored { entry, index: 0 },
            },
        };
        ResponseBody::inner(Body { repr })
    }
}

impl<R> Body<R> {
    pub(crate) const fn passing(body: R) -> Self {
        Self {
            repr: Repr::Passing { body },
        }
    }
}

/// A reader of a shared body, from its first frame.
struct Reader {
    /// `None` after the end.
    subscriber: Option<Subscriber>,
    position: u64,
    /// The size that the reader's own head promised. With an exact size, no error event can be
    /// appended.
    promised: Option<SizeHint>,
    read: u64,
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
                .subscriber
                .as_ref()
                .is_none_or(|subscriber| subscriber.is_at_end(reader.position)),
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
        let Some(subscriber) = &self.subscriber else {
            return Poll::Ready(None);
        };
        let next = ready!(subscriber.poll_next(&mut self.position, cx));
        if let NextFrame::Frame(frame) = next {
            self.read += frame.data_ref().map_or(0, |data| data.len() as u64);
            return Poll::Ready(Some(Ok(frame)));
        }
        self.subscriber = None;
        Poll::Ready(match next {
            NextFrame::End => None,
            NextFrame::Error(error) => match error.downcast() {
                Ok(error) => Some(Err(*error)),
                // The services that share this layer have different error types.
                Err(_) => self.error_event(),
            },
            _ => self.error_event(),
        })
    }

    /// Returns the event with which the API ends a stream that it cannot finish.
    fn error_event<E>(&self) -> Option<Result<Frame<Bytes>, E>> {
        if (self.promised.as_ref()).is_some_and(|hint| hint.exact().is_some()) {
            return None;
        }
        let error = ApiError::new("api_error", "the answer broke off");
        // The blank line ends an incomplete event.
        let event = format!("\n\n{}", error.to_sse_event());
        Some(Ok(Frame::data(event.into())))
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
    /// Formats without the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.repr {
            Repr::Passing { .. } => "Body(passing)",
            Repr::Shared { .. } => "Body(shared)",
            Repr::Stored { .. } => "Body(stored)",
        })
    }
}
