//! The response body of layers.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::collect::plus;

pin_project! {
    /// The body of a response that a layer returns.
    ///
    /// It is the inner body, frames that were read from it followed by its rest, or a response that
    /// the layer made itself.
    pub struct ResponseBody<B: Body> {
        #[pin]
        repr: Repr<B>,
    }
}

pin_project! {
    #[project = ReprProjection]
    enum Repr<B: Body> {
        Inner { #[pin] body: B },
        // Boxed, because it is rare and would enlarge every response that moves through a layer.
        Held { held: Pin<Box<Held<B>>> },
        Full { bytes: Bytes },
    }
}

pin_project! {
    /// The frames that were read from a body, the error that followed, and the rest of the body.
    struct Held<B: Body> {
        frames: VecDeque<Frame<Bytes>>,
        error: Option<B::Error>,
        #[pin]
        rest: Option<B>,
    }
}

impl<B: Body<Data = Bytes>> ResponseBody<B> {
    /// Creates a body that forwards the inner body unchanged.
    pub const fn inner(body: B) -> Self {
        Self {
            repr: Repr::Inner { body },
        }
    }

    /// Creates the body of a response that a layer made itself.
    pub const fn full(bytes: Bytes) -> Self {
        Self {
            repr: Repr::Full { bytes },
        }
    }

    /// Returns the bytes of a response that a layer made itself.
    pub(crate) fn full_bytes(&self) -> Option<&[u8]> {
        match &self.repr {
            Repr::Full { bytes } => Some(bytes),
            _ => None,
        }
    }

    /// Creates a body of frames that were read, followed by the error or by the rest of the body.
    pub fn held(held: VecDeque<Frame<Bytes>>, error: Option<B::Error>, rest: Option<B>) -> Self {
        let held = Box::pin(Held {
            frames: held,
            error,
            rest,
        });
        Self {
            repr: Repr::Held { held },
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().repr.project() {
            ReprProjection::Inner { body } => body.poll_frame(cx),
            ReprProjection::Held { held } => {
                let held = held.as_mut().project();
                if let Some(frame) = held.frames.pop_front() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                if let Some(error) = held.error.take() {
                    return Poll::Ready(Some(Err(error)));
                }
                match held.rest.as_pin_mut() {
                    Some(body) => body.poll_frame(cx),
                    None => Poll::Ready(None),
                }
            }
            ReprProjection::Full { bytes } => {
                if bytes.is_empty() {
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.repr {
            Repr::Inner { body } => body.is_end_stream(),
            Repr::Held { held } => {
                held.frames.is_empty()
                    && held.error.is_none()
                    && held.rest.as_ref().is_none_or(Body::is_end_stream)
            }
            Repr::Full { bytes } => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Inner { body } => body.size_hint(),
            Repr::Held { held } => {
                let length = held
                    .frames
                    .iter()
                    .filter_map(Frame::data_ref)
                    .map(|data| data.len() as u64)
                    .sum();
                match &held.rest {
                    Some(body) => plus(body.size_hint(), length),
                    None if held.error.is_none() => SizeHint::with_exact(length),
                    None => {
                        let mut hint = SizeHint::new();
                        hint.set_lower(length);
                        hint
                    }
                }
            }
            Repr::Full { bytes } => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    /// Writes the kind of body and never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.repr {
            Repr::Inner { .. } => "ResponseBody(inner)",
            Repr::Held { .. } => "ResponseBody(held)",
            Repr::Full { .. } => "ResponseBody(full)",
        })
    }
}
