//! The body of responses.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::held::Held;

#[cfg(feature = "bedrock")]
use crate::bedrock::EventStreamDecoder;

/// The greatest number of frames without an event that are read in one poll.
#[cfg(feature = "bedrock")]
const FRAMES_PER_POLL: usize = 64;

/// The body of a response of a target: the inner body, or the events that are decoded of it.
pub struct CloudBody<B: Body> {
    repr: Repr<B>,
}

enum Repr<B: Body> {
    Inner(B),
    Held(Held<B>),
    #[cfg(feature = "bedrock")]
    Decoded {
        /// `None` after the end.
        body: Option<B>,
        decoder: Box<EventStreamDecoder>,
    },
}

impl<B: Body<Data = Bytes> + Unpin> CloudBody<B> {
    pub(crate) const fn inner(body: B) -> Self {
        Self {
            repr: Repr::Inner(body),
        }
    }

    pub(crate) const fn held(held: Held<B>) -> Self {
        Self {
            repr: Repr::Held(held),
        }
    }

    /// Creates a body that decodes the event stream of `InvokeModel`.
    #[cfg(feature = "bedrock")]
    pub(crate) fn decoded(body: B, decoder: EventStreamDecoder) -> Self {
        Self {
            repr: Repr::Decoded {
                body: Some(body),
                decoder: Box::new(decoder),
            },
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CloudBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.get_mut().repr {
            Repr::Inner(body) => Pin::new(body).poll_frame(cx),
            Repr::Held(held) => held.poll_frame(cx),
            #[cfg(feature = "bedrock")]
            Repr::Decoded { body, decoder } => poll_decoded(body, decoder, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.repr {
            Repr::Inner(body) => body.is_end_stream(),
            Repr::Held(held) => held.is_end_stream(),
            // Its end may be an event more.
            #[cfg(feature = "bedrock")]
            Repr::Decoded { body, .. } => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Inner(body) => body.size_hint(),
            Repr::Held(held) => held.size_hint(),
            #[cfg(feature = "bedrock")]
            Repr::Decoded { .. } => SizeHint::default(),
        }
    }
}

#[cfg(feature = "bedrock")]
fn poll_decoded<B: Body<Data = Bytes> + Unpin>(
    slot: &mut Option<B>,
    decoder: &mut EventStreamDecoder,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
    for _ in 0..FRAMES_PER_POLL {
        let Some(body) = slot else {
            return Poll::Ready(None);
        };
        let events = match std::task::ready!(Pin::new(body).poll_frame(cx)) {
            // Trailers have no place in a stream of events.
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => decoder.push(&data),
                Err(_) => continue,
            },
            Some(Err(error)) => {
                *slot = None;
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                *slot = None;
                decoder.finish()
            }
        };
        if decoder.is_over() {
            // Frees the connection at once. Nothing more is read of it.
            *slot = None;
        }
        if !events.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(events))));
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl<B: Body> fmt::Debug for CloudBody<B> {
    /// Writes the kind of body and never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.repr {
            Repr::Inner(_) => "CloudBody(inner)",
            Repr::Held(_) => "CloudBody(held)",
            #[cfg(feature = "bedrock")]
            Repr::Decoded { .. } => "CloudBody(decoded)",
        })
    }
}
