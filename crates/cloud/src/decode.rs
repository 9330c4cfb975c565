//! The decoder of response bodies.

use bytes::BytesMut;
use tower_claude_core::STREAM_TRUNCATED;
use tower_claude_wire::ApiError;

/// The reason why a response body cannot be decoded any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenBody(pub(crate) &'static str);

impl BrokenBody {
    /// Returns the error with which the body ends, as an `error` event. Layers classify it as
    /// truncated.
    pub(crate) fn to_error(self) -> ApiError {
        let message = format!("the response of the target is broken: {}", self.0);
        let mut error = ApiError::new("api_error", message);
        error.error_code = Some(STREAM_TRUNCATED.to_owned());
        error
    }
}

/// A decoder of a response body into server-sent events.
pub(crate) trait Decode {
    /// Decodes more bytes of the body, and appends the events to `events`. After an error, nothing
    /// more is pushed, and what was appended before is sent.
    fn push(&mut self, bytes: &[u8], events: &mut BytesMut) -> Result<(), BrokenBody>;

    /// Checks the end of the body.
    fn finish(&mut self) -> Result<(), BrokenBody>;
}
