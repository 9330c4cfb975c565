//! Reader of event streams for tests.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A frame of an event stream.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) headers: HashMap<String, String>,
    /// True if it has a header of a type that is not a string.
    pub(crate) has_unknown: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) prelude_is_valid: bool,
    pub(crate) is_valid: bool,
}

impl Frame {
    /// Returns the frames of a body, and the bytes after the last complete one.
    pub(crate) fn all(mut body: &[u8]) -> (Vec<Self>, &[u8]) {
        let mut frames = Vec::new();
        while body.len() >= 16 {
            let total = number(&body[..4]);
            if body.len() < total {
                break;
            }
            let (frame, rest) = body.split_at(total);
            frames.push(Self::parse(frame));
            body = rest;
        }
        (frames, body)
    }

    fn parse(frame: &[u8]) -> Self {
        let end = 12 + number(&frame[4..8]);
        let (content, sum) = frame.split_at(frame.len() - 4);
        let mut headers = HashMap::new();
        let mut rest = &frame[12..end];
        let mut has_unknown = false;
        while let Some((length, tail)) = rest.split_first() {
            let (name, tail) = tail.split_at(usize::from(*length));
            if tail[0] != 7 {
                has_unknown = true;
                break;
            }
            let length = usize::from(u16::from_be_bytes([tail[1], tail[2]]));
            let (value, tail) = tail[3..].split_at(length);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
            headers.insert(text(name), text(value));
            rest = tail;
        }
        Self {
            headers,
            has_unknown,
            payload: content[end..].to_vec(),
            prelude_is_valid: crc32fast::hash(&frame[..8]).to_be_bytes() == frame[8..12],
            is_valid: crc32fast::hash(content).to_be_bytes() == sum,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Returns the event of a chunk.
    pub(crate) fn event(&self) -> Value {
        let payload = self.json();
        let bytes = payload["bytes"].as_str().expect("bytes");
        let event = STANDARD.decode(bytes).expect("base64");
        serde_json::from_slice(&event).expect("it is JSON")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).expect("it is JSON")
    }

    /// Returns the type of the event of a chunk.
    pub(crate) fn kind(&self) -> String {
        self.event()["type"].as_str().unwrap_or_default().to_owned()
    }
}

fn number(bytes: &[u8]) -> usize {
    u32::from_be_bytes(bytes.try_into().expect("four bytes")) as usize
}
