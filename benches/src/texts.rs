//! The inputs: bodies of three kinds in any size, one answer, one stream.

use bytes::Bytes;

/// An answer of the Messages API, about 800 bytes.
pub(crate) const MESSAGE: &[u8] = include_bytes!("message.json");

const PROSE: &str = "The keeper wrote down every sail that passed the point, the wind and the hour, and whether she had answered the light. ";
const CODE: &str = "fn main() {\\n\\tlet name = \\\"tower\\\";\\n\\tif name.len() > 4 {\\n\\t\\tprintln!(\\\"{name}\\\\n\\\");\\n\\t}\\n}\\n";
const TOOL: &str = r#"{"name":"get_tide","description":"Height of the tide at a port.","input_schema":{"type":"object","properties":{"port":{"type":"string","description":"Name of the port"},"hour":{"type":"integer","minimum":0,"maximum":23},"unit":{"type":"string","enum":["m","ft"]}},"required":["port","hour"]}},"#;

/// A request whose text is prose.
pub(crate) fn prose(bytes: usize) -> Vec<u8> {
    chat(PROSE, bytes)
}

/// A request whose text is source code, full of escapes.
pub(crate) fn code(bytes: usize) -> Vec<u8> {
    chat(CODE, bytes)
}

/// A request that is nearly all tool schemas: many short strings.
pub(crate) fn tools(bytes: usize) -> Vec<u8> {
    let frame = r#"{"model":"claude-sonnet-5-5","max_tokens":1024,"tools":[],"messages":[{"role":"user","content":"Which tide?"}],"stream":true}"#;
    let repeats = (bytes.saturating_sub(frame.len()) / TOOL.len()).max(1);
    let list = TOOL.repeat(repeats);
    frame
        .replacen("[]", &format!("[{}]", list.trim_end_matches(',')), 1)
        .into_bytes()
}

fn chat(text: &str, bytes: usize) -> Vec<u8> {
    let head = r#"{"model":"claude-sonnet-5-5","max_tokens":1024,"system":"Answer briefly.","messages":[{"role":"user","content":""#;
    let tail = r#""}],"stream":false}"#;
    let repeats = bytes.saturating_sub(head.len() + tail.len()) / text.len();
    format!("{head}{}{tail}", text.repeat(repeats)).into_bytes()
}

/// Events of a stream, one chunk each.
pub(crate) const EVENTS: u64 = 2_000;

/// A streamed answer of [`EVENTS`] deltas of about 150 bytes between its begin and its end.
pub(crate) fn stream() -> Vec<Bytes> {
    let first = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_01Bench\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[],\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" and the lantern was lit\"}}\n\n";
    let last = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2000}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let mut chunks = vec![Bytes::from_static(first.as_bytes())];
    // Each in memory of its own, as from a socket.
    chunks.extend((0..EVENTS).map(|_| Bytes::copy_from_slice(delta.as_bytes())));
    chunks.push(Bytes::from_static(last.as_bytes()));
    chunks
}
