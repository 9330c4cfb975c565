//! An adaptor from any body to a body of `Bytes` with boxed errors.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::BoxError;

pin_project! {
    /// A body with its data converted to `Bytes` and its errors boxed.
    ///
    /// Unlike `map_frame` and `map_err`, it keeps the size hint. A client then sends
    /// `content-length` instead of chunks.
    pub(crate) struct Erase<B> {
        #[pin]
        body: B,
    }
}

impl<B> Erase<B> {
    pub(crate) const fn new(body: B) -> Self {
        Self { body }
    }
}

impl<B> Body for Erase<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx).map(|frame| {
            frame.map(|frame| match frame {
                Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
                Err(error) => Err(error.into()),
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
