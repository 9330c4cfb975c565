//! The future that reads a request body into memory.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body;

use crate::{
    BoxError,
    body_failure::BodyFailure,
    erase::Erase,
    held_body::{FrameCredit, HeldBody},
    request_body::RequestBody,
};

/// A future that reads a body into memory.
///
/// It never fails. A body that is longer than the limit or has trailers becomes a stream, which
/// begins with the bytes that were read. A body that fails becomes a stream that ends with the
/// error, and its [`rejection`](RequestBody::rejection) blames the caller.
#[must_use = "futures do nothing unless polled"]
pub struct Collect {
    held: Option<HeldBody<Stream>>,
    limit: usize,
}

// Boxed, because a body that was polled must not move unless it is `Unpin`.
type Stream = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

impl Collect {
    /// Reads up to `limit` bytes of a body into memory.
    pub fn new<B>(body: B, limit: usize) -> Self
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        Self {
            held: Some(HeldBody::new(Box::pin(Erase::new(body)))),
            limit,
        }
    }
}

impl Future for Collect {
    type Output = RequestBody;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RequestBody> {
        let this = self.get_mut();
        let held = this.held.as_mut().expect("polled after completion");
        // A body that is known to be too long is not read.
        let is_over = |held: &HeldBody<Stream>| held.size_hint().lower() > this.limit as u64;
        let mut is_stream = is_over(held);
        let mut credit = FrameCredit::new();
        while !is_stream && held.rest.is_some() {
            ready!(credit.poll_take(cx));
            let frame = ready!(held.poll_rest(cx));
            // A buffered body cannot hold trailers, and nothing follows them.
            let is_trailers = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
            held.keep(frame);
            if is_trailers {
                held.rest = None;
            }
            is_stream = is_trailers || is_over(held);
        }
        let held = this.held.take().expect("present above");
        Poll::Ready(if let Some(error) = held.error() {
            let failure = BodyFailure::of(error);
            RequestBody::failed(held, failure)
        } else if is_stream {
            RequestBody::new(held)
        } else {
            held.chunks.into_bytes().into()
        })
    }
}

impl fmt::Debug for Collect {
    /// Leaves the content out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collect")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
