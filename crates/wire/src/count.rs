//! Requests and responses of the `count_tokens` endpoint.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::json::{Elements, Object, find, json_text, skip_space, value_end, whole_number};

/// Fields of a Messages request that
/// [`count_tokens`](https://docs.claude.com/en/api/messages-count-tokens) accepts, the last two
/// with the beta that the message needs for them too. It rejects all others.
const ACCEPTED: [&[u8]; 11] = [
    b"messages",
    b"model",
    b"system",
    b"tools",
    b"tool_choice",
    b"thinking",
    b"cache_control",
    b"output_config",
    b"speed",
    b"context_management",
    b"output_format",
];

/// Fields of requests that cannot be counted.
const REJECTED: [&[u8]; 2] = [b"mcp_servers", b"thread"];

/// Types of server tools, without their dates. Requests with these tools cannot be counted.
const SERVER_TOOLS: [&str; 5] = [
    "web_search_",
    "web_fetch_",
    "code_execution_",
    "tool_search_tool_",
    "mcp_toolset",
];

static SOURCE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"source\""));

/// Returns the body of a `count_tokens` request for the prompt of a Messages request. Values are
/// copied byte for byte.
///
/// `None` if `body` is not a JSON object, or if the endpoint rejects such a request: with server
/// tools other than the advisor, the MCP connector, images or documents by URL or file, or a
/// thread.
///
/// ```
/// use tower_claude_wire::{count_tokens_body, counted_tokens};
///
/// let body = br#"{"model":"m","max_tokens":9,"messages":[ ]}"#;
/// assert_eq!(count_tokens_body(body).unwrap(), br#"{"model":"m","messages":[ ]}"#);
/// assert_eq!(counted_tokens(br#"{"input_tokens": 12}"#), Some(12));
///
/// let body = br#"{"model":"m","messages":[],"tools":[{"type":"web_search_20250305"}]}"#;
/// assert_eq!(count_tokens_body(body), None);
/// ```
#[must_use]
pub fn count_tokens_body(body: &[u8]) -> Option<Vec<u8>> {
    let mut counted = Vec::with_capacity(body.len());
    let mut object = Object::open(body)?;
    while let Some(member) = object.next().ok()? {
        let plain = member.unescaped();
        let key = plain.as_deref().map_or(member.key, str::as_bytes);
        let is_rejected = match key {
            b"tools" => has_server_tool(member.value),
            b"messages" => has_reference(member.value),
            _ => REJECTED.contains(&key) && !matches!(member.value, b"null" | b"[]"),
        };
        if is_rejected {
            return None;
        }
        if ACCEPTED.contains(&key) {
            counted.push(if counted.is_empty() { b'{' } else { b',' });
            for piece in [b"\"", member.key, b"\":", member.value] {
                counted.extend_from_slice(piece);
            }
        }
    }
    if counted.is_empty() {
        counted.push(b'{');
    }
    counted.push(b'}');
    Some(counted)
}

fn has_server_tool(tools: &[u8]) -> bool {
    let is_server_tool = |tool: &[u8]| {
        let kind = find(tool, b"type").and_then(json_text);
        kind.is_some_and(|kind| SERVER_TOOLS.iter().any(|server| kind.starts_with(server)))
    };
    Elements::open(tools)
        .into_iter()
        .flatten()
        .any(is_server_tool)
}

/// Returns true if a block refers to its content by URL or file, at any depth.
fn has_reference(messages: &[u8]) -> bool {
    SOURCE.find_iter(messages).any(|at| {
        let colon = skip_space(messages, at + SOURCE.needle().len());
        let value = skip_space(messages, colon + 1);
        messages.get(colon) == Some(&b':')
            && value_end(messages, value).is_some_and(|end| {
                let kind = find(&messages[value..end], b"type").and_then(json_text);
                matches!(kind.as_deref(), Some("url" | "file"))
            })
    })
}

/// Returns the token count of a `count_tokens` response. `None` if it has none.
#[must_use]
pub fn counted_tokens(answer: &[u8]) -> Option<u64> {
    find(answer, b"input_tokens").and_then(whole_number)
}
