//! A body of which a part is held in memory.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::chunks::Chunks;

/// The most that is read of a body before it is dropped: 64 KiB.
const DRAIN_LIMIT: usize = 64 * 1024;

/// The most frames that one poll reads. A body whose frames are all there, however tiny, then lets
/// other tasks run.
const FRAMES_PER_POLL: usize = 1_024;

/// The number of frames that one poll may still read.
pub(crate) struct FrameCredit(usize);

impl FrameCredit {
    pub(crate) const fn new() -> Self {
        Self(FRAMES_PER_POLL)
    }

    /// Takes one frame. Pending if there is none left, and the task is then polled again.
    pub(crate) fn poll_take(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                Poll::Ready(())
            }
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// The frames that were read of a body, the error that followed, and the rest of the body.
///
/// As a body it yields all of them in order.
pub(crate) struct HeldBody<B: Body> {
    pub(crate) chunks: Chunks,
    // Boxed, because they are rare and large.
    trailers: Option<Box<HeaderMap>>,
    error: Option<B::Error>,
    /// Absent after the end of the body.
    pub(crate) rest: Option<B>,
}

impl<B: Body<Data = Bytes>> HeldBody<B> {
    /// Creates a body of which nothing was read yet.
    pub(crate) const fn new(body: B) -> Self {
        Self::of(Some(body))
    }

    /// Creates a body that consists of this data.
    pub(crate) fn whole(data: Bytes) -> Self {
        let mut held = Self::of(None);
        held.chunks.push(data);
        held
    }

    /// Creates a body that ends with this error.
    pub(crate) fn failed(error: B::Error) -> Self {
        let mut held = Self::of(None);
        held.error = Some(error);
        held
    }

    const fn of(rest: Option<B>) -> Self {
        Self {
            chunks: Chunks::new(),
            trailers: None,
            error: None,
            rest,
        }
    }

    /// Keeps what the rest of the body has yielded.
    pub(crate) fn keep(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>) {
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => self.chunks.push(data),
            Some(Ok(Err(frame))) => self.trailers = frame.into_trailers().ok().map(Box::new),
            Some(Err(error)) => {
                self.error = Some(error);
                self.rest = None;
            }
            None => self.rest = None,
        }
    }

    /// Removes the next frame that is held, or the error, and returns it.
    pub(crate) fn pop(&mut self) -> Option<Result<Frame<Bytes>, B::Error>> {
        if let Some(data) = self.chunks.pop() {
            return Some(Ok(Frame::data(data)));
        }
        if let Some(trailers) = self.trailers.take() {
            return Some(Ok(Frame::trailers(*trailers)));
        }
        self.error.take().map(Err)
    }

    /// Returns the error that ended the body.
    pub(crate) const fn error(&self) -> Option<&B::Error> {
        self.error.as_ref()
    }

    /// Returns true if the body has ended and was a single data frame at most.
    pub(crate) fn is_single(&self) -> bool {
        self.chunks.is_single() && self.trailers.is_none() && self.error.is_none()
    }

    /// Returns true if the body has nothing left that was not read.
    pub(crate) fn is_read(&self) -> bool {
        self.rest.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl<B: Body<Data = Bytes> + Unpin> HeldBody<B> {
    /// Polls the rest of the body, which must be present.
    pub(crate) fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.rest {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    /// Drops the body after reading what has arrived of it already.
    ///
    /// A client can use an HTTP/1 connection again only if the last response was read to its end.
    pub(crate) fn drain(mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        // Empty frames count as well, so that an endless row of them ends.
        let mut left = DRAIN_LIMIT;
        while let Some(body) = &mut self.rest {
            let is_short = body
                .size_hint()
                .upper()
                .is_none_or(|upper| upper <= left as u64);
            if body.is_end_stream() || !is_short {
                return;
            }
            let Poll::Ready(Some(Ok(frame))) = Pin::new(body).poll_frame(cx) else {
                return;
            };
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len).max(1));
            if left == 0 {
                return;
            }
        }
    }
}

// The rest is only pinned where it is `Unpin` itself.
impl<B: Body> Unpin for HeldBody<B> {}

impl<B: Body<Data = Bytes> + Unpin> Body for HeldBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        match this.pop() {
            None => Poll::Ready(ready!(this.poll_rest(cx))),
            held => Poll::Ready(held),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.len() == 0 && self.trailers.is_none() && self.error.is_none() && self.is_read()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.chunks.len() as u64;
        let mut hint = SizeHint::new();
        match &self.rest {
            Some(body) => {
                let rest = body.size_hint();
                // In this order, because the lower bound must not pass the upper one.
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(length));
                }
                hint.set_lower(rest.lower().saturating_add(length));
            }
            None if self.error.is_none() => hint.set_exact(length),
            // An exact length would be wrong for a body that ends with an error.
            None => hint.set_lower(length),
        }
        hint
    }
}

impl<B: Body> fmt::Debug for HeldBody<B> {
    /// Leaves the content out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldBody")
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}
