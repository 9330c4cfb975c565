//! Encoder of `application/vnd.amazon.eventstream`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// The type byte of a header value that is a string.
const STRING: u8 = 7;
/// A type byte that the format does not define.
const UNKNOWN_TYPE: u8 = 12;
/// Padding of a chunk, which hides the length of its text.
const PADDING: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const JSON: &str = "application/json";

/// Encodes a frame with string headers.
pub(crate) fn encode(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        header(&mut block, name, value);
    }
    assemble(&block, payload)
}

fn header(block: &mut Vec<u8>, name: &str, value: &str) {
    // The lengths have one byte and two. Names and values of this crate are short, and a text from
    // outside is cut.
    let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
    let value = &value.as_bytes()[..value.len().min(usize::from(u16::MAX >> 1))];
    block.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    block.extend_from_slice(name);
    block.push(STRING);
    block.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
    block.extend_from_slice(value);
}

/// Adds the prelude, which has the lengths, and both checksums.
fn assemble(block: &[u8], payload: &[u8]) -> Vec<u8> {
    let total = 16 + block.len() + payload.len();
    let mut frame = Vec::with_capacity(total);
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    frame.extend_from_slice(&length(total));
    frame.extend_from_slice(&length(block.len()));
    let sum = crc32fast::hash(&frame);
    frame.extend_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(block);
    frame.extend_from_slice(payload);
    let sum = crc32fast::hash(&frame);
    frame.extend_from_slice(&sum.to_be_bytes());
    frame
}

/// Returns the payload of a chunk with this event.
fn chunk_payload(event: &str) -> String {
    let padding = &PADDING[..event.len() % PADDING.len()];
    let encoded = STANDARD.encode(event);
    format!("{{\"bytes\":\"{encoded}\",\"p\":\"{padding}\"}}")
}

/// Encodes an event of the stream, given as its JSON.
pub(crate) fn chunk(event: &str) -> Vec<u8> {
    let headers = [
        (":event-type", "chunk"),
        (":content-type", JSON),
        (":message-type", "event"),
    ];
    encode(&headers, chunk_payload(event).as_bytes())
}

/// Encodes an event with a header whose type no reader knows.
pub(crate) fn chunk_with_unknown_header(event: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":event-type", "chunk"), (":message-type", "event")] {
        header(&mut block, name, value);
    }
    block.push(1);
    block.extend_from_slice(&[b'x', UNKNOWN_TYPE]);
    assemble(&block, chunk_payload(event).as_bytes())
}

/// Encodes an event of a type that is no chunk.
pub(crate) fn unknown_event() -> Vec<u8> {
    let headers = [
        (":event-type", "notice"),
        (":content-type", JSON),
        (":message-type", "event"),
    ];
    encode(&headers, b"{\"note\":\"an event of a type that is new\"}")
}

/// Encodes an exception, which ends the stream.
pub(crate) fn exception(name: &str, message: &str) -> Vec<u8> {
    let headers = [
        (":exception-type", name),
        (":content-type", JSON),
        (":message-type", "exception"),
    ];
    let body = serde_json::json!({ "message": message }).to_string();
    encode(&headers, body.as_bytes())
}

/// Encodes an error that is not modelled, which ends the stream.
pub(crate) fn error(code: &str, message: &str) -> Vec<u8> {
    let headers = [
        (":error-code", code),
        (":error-message", message),
        (":message-type", "error"),
    ];
    encode(&headers, b"")
}

/// Returns a frame whose last checksum is wrong.
pub(crate) fn with_bad_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(last) = frame.last_mut() {
        *last ^= 1;
    }
    frame
}

/// Returns a frame whose prelude has a wrong checksum.
pub(crate) fn with_bad_prelude(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(byte) = frame.get_mut(8) {
        *byte ^= 1;
    }
    frame
}

/// Returns the first half of a frame.
pub(crate) fn cut(mut frame: Vec<u8>) -> Vec<u8> {
    frame.truncate(frame.len() / 2);
    frame
}

/// Returns the data of a frame of a stream of the Claude API: the JSON of its one event.
pub(crate) fn data(sse: &Bytes) -> &str {
    let text = std::str::from_utf8(sse).unwrap_or_default();
    let data = text.split_once("\ndata: ").map_or("", |(_, data)| data);
    data.trim_end_matches('\n')
}
