//! The response body of layers.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response that a layer returns.
    ///
    /// It is the inner body, or a response that the layer made itself or has read to its end.
    pub struct ResponseBody<B: Body> {
        #[pin]
        repr: Repr<B>,
    }
}

pin_project! {
    #[project = ReprProjection]
    enum Repr<B: Body> {
        Inner { #[pin] body: B },
        Full { bytes: Bytes },
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
            Repr::Inner { .. } => None,
        }
    }
}

impl<B: Body<Data = Bytes>> From<Bytes> for ResponseBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
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
            Repr::Full { bytes } => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Inner { body } => body.size_hint(),
            Repr::Full { bytes } => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    /// Writes the kind of body and never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.repr {
            Repr::Inner { .. } => "ResponseBody(inner)",
            Repr::Full { .. } => "ResponseBody(full)",
        })
    }
}
