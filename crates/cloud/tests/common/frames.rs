//! Event streams as Bedrock sends them, written without a library.
#![allow(dead_code, reason = "each test uses a part")]

use base64::{Engine as _, engine::general_purpose::STANDARD};

pub(crate) const MESSAGE_START: &str = r#"{"type":"message_start","message":{"id":"msg_bdrk_01","type":"message","role":"assistant","content":[],"model":"claude-sonnet-4-5-20250929","stop_reason":null,"usage":{"input_tokens":12,"cache_creation_input_tokens":0,"cache_read_input_tokens":1800,"output_tokens":1}}}"#;
pub(crate) const BLOCK_START: &str =
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
pub(crate) const DELTA: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Grüße \"😀\"\n"}}"#;
pub(crate) const BLOCK_STOP: &str = r#"{"type":"content_block_stop","index":0}"#;
pub(crate) const MESSAGE_DELTA: &str = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":8}}"#;
pub(crate) const MESSAGE_STOP: &str = r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":12,"outputTokenCount":8,"invocationLatency":1245,"firstByteLatency":412,"cacheReadInputTokenCount":1800,"cacheWriteInputTokenCount":0}}"#;

/// Calculates a CRC-32 bit by bit.
pub(crate) fn crc(bytes: &[u8]) -> [u8; 4] {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    });
    (!crc).to_be_bytes()
}

/// Writes a frame whose headers are these bytes.
pub(crate) fn frame_of(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = 16 + headers.len() + payload.len();
    let mut frame = (length as u32).to_be_bytes().to_vec();
    frame.extend((headers.len() as u32).to_be_bytes());
    frame.extend(crc(&frame));
    frame.extend(headers);
    frame.extend(payload);
    frame.extend(crc(&frame));
    frame
}

pub(crate) fn text_header(name: &str, value: &str) -> Vec<u8> {
    let mut header = vec![name.len() as u8];
    header.extend(name.as_bytes());
    header.push(7);
    header.extend((value.len() as u16).to_be_bytes());
    header.extend(value.as_bytes());
    header
}

pub(crate) fn frame(headers: &[(&str, &str)], payload: &str) -> Vec<u8> {
    let headers: Vec<u8> = headers
        .iter()
        .flat_map(|(name, value)| text_header(name, value))
        .collect();
    frame_of(&headers, payload.as_bytes())
}

/// Writes the frame of an event, as Bedrock does, with padding in `p`.
pub(crate) fn chunk(event: &str) -> Vec<u8> {
    let bytes = STANDARD.encode(event);
    let headers = [
        (":event-type", "chunk"),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ];
    frame(
        &headers,
        &format!(r#"{{"bytes":"{bytes}","p":"abcdefghijkl"}}"#),
    )
}

pub(crate) fn exception(name: &str, payload: &str) -> Vec<u8> {
    let headers = [
        (":exception-type", name),
        (":content-type", "application/json"),
        (":message-type", "exception"),
    ];
    frame(&headers, payload)
}

pub(crate) fn whole() -> Vec<u8> {
    [
        MESSAGE_START,
        BLOCK_START,
        DELTA,
        BLOCK_STOP,
        MESSAGE_DELTA,
        MESSAGE_STOP,
    ]
    .into_iter()
    .flat_map(chunk)
    .collect()
}
