//! Reader of request bodies with a size limit.

use std::future::poll_fn;
use std::pin::pin;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;

use crate::error::FakeError;

/// Reads the complete body. `None` if it is longer than `limit`.
pub(crate) async fn read<B: Body>(body: B, limit: usize) -> Result<Option<Bytes>, FakeError> {
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(frame) = frame else {
            return Err(FakeError::RequestBody);
        };
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        let length = data.remaining();
        if first
            .len()
            .saturating_add(rest.len())
            .saturating_add(length)
            > limit
        {
            return Ok(None);
        }
        // A single frame is the usual case, so it is not copied.
        if first.is_empty() {
            first = data.copy_to_bytes(length);
        } else {
            rest.reserve(length);
            while data.has_remaining() {
                let chunk = data.chunk();
                let taken = chunk.len();
                rest.extend_from_slice(chunk);
                data.advance(taken);
            }
        }
    }
    if rest.is_empty() {
        return Ok(Some(first));
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(Some(whole.freeze()))
}
