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

#[cfg(test)]
mod tests {
    use super::{chunk, chunk_payload, data, encode, with_bad_checksum, with_bad_prelude};

    /// Frames of the tests of <https://github.com/awslabs/aws-c-event-stream> (Apache-2.0), in
    /// `tests/message_deserializer_test.c`.
    const NO_HEADERS: &[u8] = &[
        0x00, 0x00, 0x00, 0x1D, 0x00, 0x00, 0x00, 0x00, 0xfd, 0x52, 0x8c, 0x5a, 0x7b, 0x27, 0x66,
        0x6f, 0x6f, 0x27, 0x3a, 0x27, 0x62, 0x61, 0x72, 0x27, 0x7d, 0xc3, 0x65, 0x39, 0x36,
    ];
    const ONE_HEADER: &[u8] = &[
        0x00, 0x00, 0x00, 0x3D, 0x00, 0x00, 0x00, 0x20, 0x07, 0xFD, 0x83, 0x96, 0x0C, b'c', b'o',
        b'n', b't', b'e', b'n', b't', b'-', b't', b'y', b'p', b'e', 0x07, 0x00, 0x10, b'a', b'p',
        b'p', b'l', b'i', b'c', b'a', b't', b'i', b'o', b'n', b'/', b'j', b's', b'o', b'n', 0x7b,
        0x27, 0x66, 0x6f, 0x6f, 0x27, 0x3a, 0x27, 0x62, 0x61, 0x72, 0x27, 0x7d, 0x8D, 0x9C, 0x08,
        0xB1,
    ];

    #[test]
    fn frames_are_those_of_other_implementations() {
        assert_eq!(encode(&[], b"{'foo':'bar'}"), NO_HEADERS);
        let headers = [("content-type", "application/json")];
        assert_eq!(encode(&headers, b"{'foo':'bar'}"), ONE_HEADER);
    }

    #[test]
    fn spoiled_frames_differ_in_one_checksum() {
        let frame = encode(&[], b"{'foo':'bar'}");
        let differing = |other: &[u8]| {
            let pairs = frame.iter().zip(other).enumerate();
            pairs
                .filter(|(_, (a, b))| a != b)
                .map(|(index, _)| index)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            differing(&with_bad_checksum(frame.clone())),
            [frame.len() - 1]
        );
        assert_eq!(differing(&with_bad_prelude(frame.clone())), [8]);
    }

    #[test]
    fn chunk_holds_its_event_in_base64() {
        let event = "{\"type\":\"message_stop\"}";
        let payload: serde_json::Value =
            serde_json::from_str(&chunk_payload(event)).expect("it is JSON");
        assert_eq!(payload["bytes"], "eyJ0eXBlIjoibWVzc2FnZV9zdG9wIn0=");
        let frame = chunk(event);
        let length = u32::from_be_bytes(frame[..4].try_into().expect("four bytes"));
        assert_eq!(length as usize, frame.len());
    }

    #[test]
    fn data_of_an_event_is_its_json() {
        let sse = "event: ping\ndata: {\"type\":\"ping\"}\n\n".into();
        assert_eq!(data(&sse), "{\"type\":\"ping\"}");
    }
}
