//! Reader for the bodies of error responses.

use std::{
    borrow::Cow,
    fmt,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body;

use crate::held_body::{FrameCredit, HeldBody};

/// The greatest number of bytes that is read of an error body: 64 KiB.
pub const ERROR_BODY_LIMIT: usize = 64 * 1024;

/// A reader for the body of an error response.
///
/// It reads up to [`ERROR_BODY_LIMIT`] bytes and returns the body unchanged.
pub struct ErrorBody<B: Body>(HeldBody<B>);

impl<B: Body<Data = Bytes> + Unpin> ErrorBody<B> {
    /// Creates a reader for this body.
    pub const fn new(body: B) -> Self {
        Self(HeldBody::new(body))
    }

    /// Reads the body. Ready at its end, at an error, or at the limit.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut credit = FrameCredit::new();
        while self.0.rest.is_some() && self.0.chunks.len() < ERROR_BODY_LIMIT {
            ready!(credit.poll_take(cx));
            let frame = ready!(self.0.poll_rest(cx));
            self.0.keep(frame);
        }
        Poll::Ready(())
    }

    /// Returns the number of bytes that were read.
    pub(crate) const fn length(&self) -> usize {
        self.0.chunks.len()
    }

    /// Returns the bytes that were read.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        self.0.chunks.bytes()
    }

    /// Returns a body of all bytes, those that were read and the rest.
    pub fn into_body(self) -> impl Body<Data = Bytes, Error = B::Error> + use<B> {
        self.0
    }

    /// Returns the part that was read, and the rest.
    pub(crate) fn into_held(self) -> HeldBody<B> {
        self.0
    }
}

impl<B: Body> fmt::Debug for ErrorBody<B> {
    /// Leaves the content out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ErrorBody").field(&self.0).finish()
    }
}
