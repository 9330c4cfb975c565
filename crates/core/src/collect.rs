//! The future that reads a request body into memory.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::{BoxError, request_body::RequestBody};

/// The number of short chunks in a row that are joined into one, because each chunk has a memory
/// overhead.
const RUN: usize = 64;
/// The length in bytes below which a chunk is short.
const SHORT: usize = 512;

/// A future that reads a body into memory.
///
/// It never fails. A body that is longer than the limit, that has trailers or that fails becomes a
/// stream, which begins with the bytes that were read.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Collect<B> {
    body: Option<B>,
    chunks: VecDeque<Bytes>,
    /// The number of short chunks at the end of `chunks`.
    run: usize,
    length: usize,
    limit: usize,
}

impl<B> Collect<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Reads up to `limit` bytes of a body into memory.
    pub fn new(body: B, limit: usize) -> Self {
        Self {
            body: Some(body),
            chunks: VecDeque::new(),
            run: 0,
            length: 0,
            limit,
        }
    }

    /// Returns a stream of the chunks that were read, followed by the tail.
    fn stream(&mut self, tail: Tail<B>) -> RequestBody {
        RequestBody::new(Prefixed {
            chunks: std::mem::take(&mut self.chunks),
            tail,
        })
    }

    /// Returns a buffered body of the chunks.
    fn bytes(&mut self) -> RequestBody {
        match self.chunks.len() {
            0 => Bytes::new().into(),
            1 => self.chunks.pop_front().unwrap_or_default().into(),
            _ => joined(&self.chunks).into(),
        }
    }

    fn push(&mut self, data: Bytes) {
        self.length += data.len();
        self.run = if data.len() < SHORT { self.run + 1 } else { 0 };
        self.chunks.push_back(data);
        if self.run == RUN {
            let run = joined(&self.chunks.split_off(self.chunks.len() - RUN));
            self.run = usize::from(run.len() < SHORT);
            self.chunks.push_back(run);
        }
    }
}

fn joined(chunks: &VecDeque<Bytes>) -> Bytes {
    let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks
        .iter()
        .for_each(|chunk| whole.extend_from_slice(chunk));
    whole.freeze()
}

impl<B> Future for Collect<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = RequestBody;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RequestBody> {
        let this = self.get_mut();
        let mut body = this.body.take().expect("polled after completion");
        let limit = this.limit as u64;
        loop {
            // A body that is known to be too long is not read.
            if (this.length as u64).saturating_add(body.size_hint().lower()) > limit {
                return Poll::Ready(this.stream(Tail::Body(body)));
            }
            let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) else {
                this.body = Some(body);
                return Poll::Pending;
            };
            match frame {
                None => return Poll::Ready(this.bytes()),
                Some(Err(error)) => {
                    return Poll::Ready(this.stream(Tail::Error(Some(error.into()))));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => {
                        let data = data.copy_to_bytes(data.remaining());
                        if !data.is_empty() {
                            this.push(data);
                        }
                        if this.length > this.limit {
                            return Poll::Ready(this.stream(Tail::Body(body)));
                        }
                    }
                    // A buffered body cannot hold trailers.
                    Err(frame) => {
                        let trailers = frame.into_trailers().ok();
                        return Poll::Ready(this.stream(Tail::Trailers(trailers)));
                    }
                },
            }
        }
    }
}

/// The chunks that were read from a body, followed by its tail.
struct Prefixed<B> {
    chunks: VecDeque<Bytes>,
    tail: Tail<B>,
}

/// The part of a body after its first chunks.
enum Tail<B> {
    Body(B),
    Error(Option<BoxError>),
    Trailers(Option<HeaderMap>),
}

impl<B> Body for Prefixed<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(chunk) = this.chunks.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match &mut this.tail {
            Tail::Body(body) => Pin::new(body).poll_frame(cx).map(|frame| {
                frame.map(|frame| match frame {
                    Ok(frame) => {
                        Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
                    }
                    Err(error) => Err(error.into()),
                })
            }),
            Tail::Error(error) => Poll::Ready(error.take().map(Err)),
            Tail::Trailers(trailers) => Poll::Ready(
                trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            ),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
            && match &self.tail {
                Tail::Body(body) => body.is_end_stream(),
                Tail::Error(error) => error.is_none(),
                Tail::Trailers(trailers) => trailers.is_none(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.chunks.iter().map(|chunk| chunk.len() as u64).sum();
        match &self.tail {
            Tail::Body(body) => plus(body.size_hint(), held),
            // Do not report an exact length, because the body ends with an error.
            Tail::Error(Some(_)) => {
                let mut hint = SizeHint::new();
                hint.set_lower(held);
                hint
            }
            Tail::Error(None) | Tail::Trailers(_) => SizeHint::with_exact(held),
        }
    }
}

/// Returns the size hint of a body that has `prefix` bytes in front of it.
pub(crate) fn plus(rest: SizeHint, prefix: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper.saturating_add(prefix));
    }
    hint.set_lower(rest.lower().saturating_add(prefix));
    hint
}
