//! Reader of the beginning of a body.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tower_claude_core::toolkit::ERROR_BODY_LIMIT;

/// The greatest number of frames that are read in one poll.
const FRAMES_PER_POLL: usize = 64;

/// A body whose beginning has been read. It yields the same frames as without the reader.
pub(crate) struct Held<B: Body> {
    frames: VecDeque<Result<Frame<Bytes>, B::Error>>,
    length: usize,
    /// `None` after the end or an error.
    rest: Option<B>,
}

/// The frames are never pinned.
impl<B: Body + Unpin> Unpin for Held<B> {}

impl<B: Body<Data = Bytes> + Unpin> Held<B> {
    pub(crate) const fn new(body: B) -> Self {
        Self {
            frames: VecDeque::new(),
            length: 0,
            rest: Some(body),
        }
    }

    /// Reads up to the end, an error, or [`ERROR_BODY_LIMIT`] bytes.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..FRAMES_PER_POLL {
            let Some(rest) = &mut self.rest else {
                return Poll::Ready(());
            };
            if self.length > ERROR_BODY_LIMIT {
                return Poll::Ready(());
            }
            match ready!(Pin::new(rest).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    self.length += frame.data_ref().map_or(0, Bytes::len);
                    self.frames.push_back(Ok(frame));
                }
                Some(Err(error)) => {
                    self.frames.push_back(Err(error));
                    self.rest = None;
                }
                None => self.rest = None,
            }
        }
        // A body may always be ready and have no bytes.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns all bytes, if the body has ended without an error and without trailers.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        if self.rest.is_some() {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(self.length);
        for frame in &self.frames {
            bytes.extend_from_slice(frame.as_ref().ok()?.data_ref()?);
        }
        Some(bytes.freeze())
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(frame));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let held = self.frames.iter().flatten().filter_map(Frame::data_ref);
        let held: u64 = held.map(|data| data.len() as u64).sum();
        let rest = self.rest.as_ref().map(Body::size_hint);
        let (lower, upper) = rest.map_or((0, Some(0)), |rest| (rest.lower(), rest.upper()));
        let mut hint = SizeHint::new();
        // The upper limit first, because the lower one must not be above it.
        if let Some(upper) = upper.and_then(|upper| upper.checked_add(held)) {
            hint.set_upper(upper);
        }
        hint.set_lower(lower.saturating_add(held));
        hint
    }
}
