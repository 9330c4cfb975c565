//! Reader for the bodies of error responses.

use std::{
    borrow::Cow,
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::response_body::ResponseBody;

/// The greatest number of bytes that is read of an error body: 64 KiB.
pub const ERROR_BODY_LIMIT: usize = 64 * 1024;

/// A reader for the body of an error response.
///
/// It reads up to [`ERROR_BODY_LIMIT`] bytes and returns the body unchanged.
#[derive(Debug)]
pub struct ErrorBody<B: Body> {
    held: VecDeque<Frame<Bytes>>,
    length: usize,
    error: Option<B::Error>,
    rest: Option<B>,
}

impl<B: Body<Data = Bytes> + Unpin> ErrorBody<B> {
    /// Creates a reader for this body.
    pub const fn new(body: B) -> Self {
        Self {
            held: VecDeque::new(),
            length: 0,
            error: None,
            rest: Some(body),
        }
    }

    /// Reads the body. Ready at its end, at an error, or at the limit.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(body) = &mut self.rest {
            if self.length >= ERROR_BODY_LIMIT {
                break;
            }
            match ready!(Pin::new(body).poll_frame(cx)) {
                // Dropped, because an endless row of empty frames would never reach the limit.
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                Some(Ok(frame)) => {
                    self.length += frame.data_ref().map_or(0, Bytes::len);
                    self.held.push_back(frame);
                }
                Some(Err(error)) => {
                    self.error = Some(error);
                    self.rest = None;
                }
                None => self.rest = None,
            }
        }
        Poll::Ready(())
    }

    /// Returns the number of bytes that were read.
    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// Returns the bytes that were read.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        let mut chunks = self.held.iter().filter_map(Frame::data_ref);
        match (chunks.next(), chunks.next()) {
            (None, _) => Cow::Borrowed(&[]),
            (Some(only), None) => Cow::Borrowed(only),
            _ => self
                .held
                .iter()
                .filter_map(Frame::data_ref)
                .flat_map(|chunk| chunk.iter().copied())
                .collect::<Vec<u8>>()
                .into(),
        }
    }

    /// Returns the body with all its bytes. `wrap` is applied to the part that was not read.
    pub fn into_body<W>(self, wrap: impl FnOnce(B) -> W) -> ResponseBody<W>
    where
        W: Body<Data = Bytes, Error = B::Error>,
    {
        ResponseBody::held(self.held, self.error, self.rest.map(wrap))
    }
}
