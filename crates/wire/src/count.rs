//! Requests and responses of the `count_tokens` endpoint.

use crate::json::{Object, find, whole_number};

/// Fields of a Messages request that
/// [`count_tokens`](https://docs.claude.com/en/api/messages-count-tokens) accepts. It rejects all
/// others.
const ACCEPTED: [&[u8]; 9] = [
    b"messages",
    b"model",
    b"system",
    b"tools",
    b"tool_choice",
    b"thinking",
    b"cache_control",
    b"output_config",
    b"speed",
];

/// Returns the body of a `count_tokens` request for the prompt of a Messages request. Values are
/// copied byte for byte. `None` if `body` is not a JSON object.
///
/// ```
/// use tower_claude_wire::{count_tokens_body, counted_tokens};
///
/// let body = br#"{"model":"m","max_tokens":9,"messages":[ ]}"#;
/// assert_eq!(count_tokens_body(body).unwrap(), br#"{"model":"m","messages":[ ]}"#);
/// assert_eq!(counted_tokens(br#"{"input_tokens": 12}"#), Some(12));
/// ```
#[must_use]
pub fn count_tokens_body(body: &[u8]) -> Option<Vec<u8>> {
    let mut counted = Vec::with_capacity(body.len());
    let mut object = Object::open(body)?;
    while let Some(member) = object.next().ok()? {
        let plain = member.unescaped();
        let key = plain.as_deref().map_or(member.key, str::as_bytes);
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

/// Returns the token count of a `count_tokens` response. `None` if it has none.
#[must_use]
pub fn counted_tokens(answer: &[u8]) -> Option<u64> {
    find(answer, b"input_tokens").and_then(whole_number)
}
