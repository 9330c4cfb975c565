//! Decodes any bytes as an event stream of `InvokeModel`, in two chunkings.
#![no_main]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libfuzzer_sys::fuzz_target;
use tower_claude_cloud::bedrock::EventStreamDecoder;

fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut decoder = EventStreamDecoder::new();
    let mut events = Vec::new();
    for chunk in chunks {
        events.extend(decoder.push(chunk));
    }
    events.extend(decoder.finish());
    events
}

/// Replaces the checksums of a frame by the right ones, which random bytes would never have.
fn repair(mut stream: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(rest) = stream.get_mut(at..).filter(|rest| rest.len() >= 16) {
        let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let crc = crc(&rest[..8]);
        rest[8..12].copy_from_slice(&crc);
        if !(16..=rest.len()).contains(&length) {
            break;
        }
        let end = self::crc(&rest[..length - 4]);
        rest[length - 4..length].copy_from_slice(&end);
        at += length;
    }
    stream
}

/// Writes a frame with this event, and then one with `message_stop`.
fn chunks(event: &[u8]) -> Vec<u8> {
    const HEADER: &[u8] = b"\x0B:event-type\x07\0\x05chunk";
    let mut stream = Vec::new();
    for event in [event, br#"{"type":"message_stop"}"#] {
        let payload = format!(r#"{{"bytes":"{}"}}"#, STANDARD.encode(event));
        let length = 16 + HEADER.len() + payload.len();
        stream.extend((length as u32).to_be_bytes());
        stream.extend((HEADER.len() as u32).to_be_bytes());
        stream.extend([0; 4]);
        stream.extend(HEADER);
        stream.extend(payload.as_bytes());
        stream.extend([0; 4]);
    }
    repair(stream)
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    });
    (!crc).to_be_bytes()
}

fuzz_target!(|data: &[u8]| {
    let Some((&width, stream)) = data.split_first() else {
        return;
    };
    for stream in [stream.to_vec(), repair(stream.to_vec()), chunks(stream)] {
        let whole = decode(std::iter::once(&*stream));
        let parts = decode(stream.chunks(usize::from(width).max(1)));
        assert_eq!(whole, parts);
        let end = |name: &[u8]| whole.windows(name.len()).any(|part| part == name);
        assert!(end(b"event: error\n") || end(b"event: message_stop\n"));
    }
});
