//! The sample's response body.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::sample::Fault;

pub(crate) struct SampleBody<R> {
    inner: Option<R>,
    fault: Fault,
    stream: bool,
    read: usize,
    late: Option<Frame<Bytes>>,
}

impl<R> SampleBody<R> {
    pub(crate) const fn new(inner: Option<R>, fault: Fault, stream: bool) -> Self {
        Self {
            inner,
            fault,
            stream,
            read: 0,
            late: None,
        }
    }
}

impl<R: Body<Data = Bytes> + Unpin> Body for SampleBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if this.fault == Fault::OneFrameLate && this.late.is_none() {
            match ready!(Pin::new(&mut *inner).poll_frame(cx)) {
                Some(Ok(frame)) => this.late = Some(frame),
                end => return Poll::Ready(end),
            }
        }
        if this.fault == Fault::OneFrameLate {
            return Pin::new(inner).poll_frame(cx).map(|next| match next {
                Some(Ok(frame)) => this.late.replace(frame).map(Ok),
                _ => this.late.take().map(Ok),
            });
        }
        Pin::new(inner).poll_frame(cx).map(|frame| match frame {
            Some(Ok(frame)) if frame.is_trailers() && this.fault == Fault::LosesTrailers => None,
            Some(Err(_)) if this.fault == Fault::LosesBodyError => None,
            Some(Ok(frame)) if this.fault == Fault::DropsComments && this.stream => Some(Ok(frame
                .map_data(|data| match data.first() {
                    Some(b':') => Bytes::new(),
                    _ => data,
                }))),
            Some(Ok(frame)) if this.fault == Fault::CutsErrorBody => {
                let left = 65_536 - this.read;
                this.read += frame.data_ref().map_or(0, |data| data.len().min(left));
                Some(Ok(frame.map_data(|data| data.slice(..data.len().min(left)))))
            }
            frame => frame,
        })
    }
}

impl<R> Drop for SampleBody<R> {
    fn drop(&mut self) {
        if self.fault == Fault::LeaksBody {
            std::mem::forget(self.inner.take());
        }
    }
}
