//! A body scripted frame by frame.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::{Broken, Guard};

/// One step of a [`FrameBody`].
#[derive(Clone, Debug)]
pub enum Piece {
    /// A data frame.
    Data(Bytes),
    /// A trailers frame.
    Trailers(HeaderMap),
    /// An error, which is the last step.
    Error(Broken),
    /// Pending once, with a wake-up.
    Wait,
    /// Pending forever.
    Stall,
}

/// A body of scripted frames. It may hold a guard that counts it.
#[derive(Debug, Default)]
pub struct FrameBody {
    pieces: VecDeque<Piece>,
    exact: bool,
    _guard: Option<Guard>,
}

impl FrameBody {
    /// Returns a body of these pieces. It has no size hint, like a chunked body, and reports its
    /// end only when it is polled past the last frame.
    pub fn new(pieces: impl IntoIterator<Item = Piece>) -> Self {
        Self {
            pieces: pieces.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Returns a body of one data frame, with a known length.
    pub fn full(data: impl Into<Bytes>) -> Self {
        Self::new([Piece::Data(data.into())]).exact()
    }

    /// Makes the length known, as `content-length` does. The body then reports its end with the
    /// last frame.
    #[must_use]
    pub const fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    /// Adds a guard, which the body drops with itself.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self._guard = Some(guard);
        self
    }
}

impl Body for FrameBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        match this.pieces.pop_front() {
            None => Poll::Ready(None),
            Some(Piece::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Piece::Trailers(map)) => Poll::Ready(Some(Ok(Frame::trailers(map)))),
            Some(Piece::Error(error)) => {
                this.pieces.clear();
                Poll::Ready(Some(Err(error)))
            }
            Some(Piece::Wait) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Piece::Stall) => {
                this.pieces.push_front(Piece::Stall);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exact && self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if !self.exact {
            return SizeHint::new();
        }
        let length = self.pieces.iter().map(|piece| match piece {
            Piece::Data(data) => data.len() as u64,
            _ => 0,
        });
        SizeHint::with_exact(length.sum())
    }
}
