//! Reading the body of an error response: bounded, and handed on byte for byte.

use std::{
    borrow::Cow,
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::ResponseBody;

/// The most that is read of an error body.
pub const ERROR_BODY_LIMIT: usize = 64 * 1024;

/// An error body while it is read, up to [`ERROR_BODY_LIMIT`] bytes.
#[derive(Debug)]
pub struct ErrorBody<B: Body> {
    held: VecDeque<Frame<Bytes>>,
    length: usize,
    error: Option<B::Error>,
    rest: Option<B>,
}

impl<B: Body<Data = Bytes> + Unpin> ErrorBody<B> {
    /// Nothing read yet.
    pub const fn new(body: B) -> Self {
        Self {
            held: VecDeque::new(),
            length: 0,
            error: None,
            rest: Some(body),
        }
    }

    /// Reads on; ready at the end, at an error, or at the limit.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(body) = &mut self.rest {
            if self.length >= ERROR_BODY_LIMIT {
                break;
            }
            match ready!(Pin::new(body).poll_frame(cx)) {
                // Nothing to hold, and nothing that would ever reach the limit.
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

    /// What was read.
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

    /// The body as it came, with the rest wrapped by the layer.
    pub fn into_body<W>(self, wrap: impl FnOnce(B) -> W) -> ResponseBody<W>
    where
        W: Body<Data = Bytes, Error = B::Error>,
    {
        ResponseBody::held(self.held, self.error, self.rest.map(wrap))
    }
}
