//! The inner body that several callers read.

use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

/// An error of the inner body, which one of its readers gets.
pub(crate) type Fault = Box<dyn Any + Send>;

/// An inner body, of whatever type.
pub(crate) trait Source: Send {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>>;
    fn is_end(&self) -> bool;
}

impl<R> Source for R
where
    R: Body<Data = Bytes> + Unpin + Send,
    R::Error: Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = Pin::new(self).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| Box::new(error) as Fault)))
    }

    fn is_end(&self) -> bool {
        self.is_end_stream()
    }
}
