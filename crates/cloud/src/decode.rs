//! The decoder of response bodies.

use bytes::BytesMut;

/// The reason why a response body cannot be decoded any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenBody(pub(crate) &'static str);

/// A decoder of a response body into server-sent events.
pub(crate) trait Decode {
    /// Decodes more bytes of the body, and appends the events to `events`. After an error, nothing
    /// more is pushed, and what was appended before is sent.
    fn push(&mut self, bytes: &[u8], events: &mut BytesMut) -> Result<(), BrokenBody>;

    /// Checks the end of the body.
    fn finish(&mut self) -> Result<(), BrokenBody>;
}
