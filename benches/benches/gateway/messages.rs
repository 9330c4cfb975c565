//! The texts on the wire: requests and responses of 2 KiB, and the events of a stream.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

/// The size of a request body and of a JSON response.
const SIZE: usize = 2048;

/// The number of content events in a stream.
pub(crate) const EVENTS: usize = 2_000;

/// The request header that selects the response.
pub(crate) const KIND: &str = "x-bench-kind";

/// The value of [`KIND`] for a stream of [`EVENTS`] events.
pub(crate) const STREAM: &str = "stream";

/// The value of [`KIND`] for a stream that is silent after its first event.
pub(crate) const IDLE: &str = "idle";

/// The value of [`KIND`] for a JSON response.
pub(crate) const JSON: &str = "json";

pub(crate) const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":600,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";

/// A content event of 150 bytes.
pub(crate) const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" some words of a long answer\"}}\n\n";

pub(crate) const END: &str = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":2000}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

/// Returns a request with its head, as one text.
pub(crate) fn request(kind: &str) -> Vec<u8> {
    let stream = if kind == JSON { "" } else { "\"stream\":true," };
    let (head, tail) = (
        format!(
            "{{\"model\":\"claude-sonnet-5-5\",\"max_tokens\":64,{stream}\"messages\":[{{\"role\":\"user\",\"content\":\""
        ),
        "\"}]}",
    );
    let words = "all work and no play ".repeat(SIZE / 20);
    let body = format!("{head}{}{tail}", &words[..SIZE - head.len() - tail.len()]);
    format!(
        "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: key-of-caller\r\n\
         anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\nuser-agent: bench\r\n\
         {KIND}: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Returns the body of a JSON response.
pub(crate) fn message() -> Bytes {
    let (head, tail) = (
        "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[{\"type\":\"text\",\"text\":\"",
        "\"}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":600,\"output_tokens\":64}}",
    );
    let words = "all work and no play ".repeat(SIZE / 20);
    format!("{head}{}{tail}", &words[..SIZE - head.len() - tail.len()]).into()
}

/// Returns the headers of a response, with limits that are never reached.
pub(crate) fn headers(content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in [
        ("request-id", "req_011Bench"),
        (
            "anthropic-organization-id",
            "00000000-0000-4000-8000-000000000000",
        ),
        ("anthropic-workspace-id", "wrkspc_01Bench"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for dimension in ["requests", "tokens", "input-tokens", "output-tokens"] {
        for (part, value) in [
            ("limit", "1000000000000"),
            ("remaining", "1000000000000"),
            ("reset", "2026-11-22T10:00:00Z"),
        ] {
            let name = format!("anthropic-ratelimit-{dimension}-{part}");
            let name = HeaderName::try_from(name).expect("a valid name");
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    headers
}
