//! Scripted replies, and the requests that were received.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};

use crate::thinking;

/// The content of one message that the fake answers with, in place of its own text.
///
/// A reply is sent as JSON or as a stream, as the request asks. Its output is measured by its
/// bytes. `max_tokens` does not shorten it.
///
/// The methods take JSON as a text, or as a value that is displayed as JSON, such as
/// `serde_json::Value`. Any other text is sent as a JSON string.
///
/// ```
/// use serde_json::json;
/// use tower_claude_fake_claude::{FakeClaude, Reply};
///
/// let fake = FakeClaude::default();
/// fake.reply(Reply::text("Let me look.").with_tool_use("weather", json!({"city": "Bern"})));
/// fake.reply(Reply::json(json!({"degrees": 21})));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    blocks: Vec<Value>,
    stop_reason: Option<String>,
}

impl Reply {
    /// Creates a reply without content.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a reply with one block of text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::new().with_text(text)
    }

    /// Creates a reply whose text is this JSON value, as a structured output is.
    #[must_use]
    pub fn json(value: impl fmt::Display) -> Self {
        Self::text(value.to_string())
    }

    /// Adds a block of text.
    #[must_use]
    pub fn with_text(self, text: impl Into<String>) -> Self {
        self.with_block(json!({"type": "text", "text": text.into()}))
    }

    /// Adds a call of a tool. The `stop_reason` is then `tool_use`.
    #[must_use]
    pub fn with_tool_use(self, name: &str, input: impl fmt::Display) -> Self {
        let id = format!("toolu_01Fake{:015}", self.blocks.len());
        self.with_block(json!({"type": "tool_use", "id": id, "name": name, "input": parse(&input)}))
    }

    /// Adds thinking. The server signs it for the account that it stands for.
    #[must_use]
    pub fn with_thinking(self, thinking: impl Into<String>) -> Self {
        self.with_block(json!({"type": "thinking", "thinking": thinking.into()}))
    }

    /// Adds a content block of any type, in the form of a JSON message.
    ///
    /// In a stream, text, tool input and thinking are sent as deltas. A block of another type is
    /// sent with its start.
    #[must_use]
    pub fn with_block(mut self, block: impl fmt::Display) -> Self {
        self.blocks.push(parse(&block));
        self
    }

    /// Sets the `stop_reason`. Default: `tool_use` if the last block is one, else `end_turn`.
    #[must_use]
    pub fn with_stop_reason(mut self, stop_reason: impl Into<String>) -> Self {
        self.stop_reason = Some(stop_reason.into());
        self
    }

    /// Reads a reply from JSON: a string, or an object with `text` or `content`, and optionally
    /// `stop_reason`.
    pub(crate) fn from_json(value: &Value) -> Result<Self, &'static str> {
        if let Value::String(text) = value {
            return Ok(Self::text(text));
        }
        let mut reply = match (value.get("text"), value.get("content")) {
            (Some(Value::String(text)), None) => Self::text(text),
            (None, Some(Value::Array(blocks))) => Self {
                blocks: blocks.clone(),
                stop_reason: None,
            },
            _ => return Err("reply: a string, or an object with `text` or `content` is required"),
        };
        match value.get("stop_reason") {
            None | Some(Value::Null) => {}
            Some(Value::String(reason)) => reply.stop_reason = Some(reason.clone()),
            Some(_) => return Err("reply.stop_reason: Input should be a valid string"),
        }
        Ok(reply)
    }

    /// Signs thinking without a signature, as this model does for this account.
    pub(crate) fn signed(mut self, account: &str, model: &str) -> Self {
        for block in &mut self.blocks {
            let Some(thinking) = block["thinking"].as_str() else {
                continue;
            };
            if block["type"] == "thinking" && block["signature"].is_null() {
                block["signature"] = thinking::sign(account, model, thinking).into();
            }
        }
        self
    }

    pub(crate) fn stop_reason(&self) -> &str {
        let last_type = self.blocks.last().and_then(|block| block["type"].as_str());
        match (&self.stop_reason, last_type) {
            (Some(reason), _) => reason,
            (None, Some("tool_use")) => "tool_use",
            (None, _) => "end_turn",
        }
    }

    /// Returns the content of a JSON message.
    pub(crate) fn content(&self) -> String {
        Value::Array(self.blocks.clone()).to_string()
    }

    /// Returns the content as stream events of about `per_event` tokens each.
    pub(crate) fn events(&self, per_event: u64) -> Vec<ScriptEvent> {
        let mut events = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            let (field, delta_type, delta_field) = match block["type"].as_str() {
                Some("text") => ("text", "text_delta", "text"),
                Some("thinking") => ("thinking", "thinking_delta", "thinking"),
                Some("tool_use" | "server_tool_use" | "mcp_tool_use") => {
                    ("input", "input_json_delta", "partial_json")
                }
                _ => ("", "", ""),
            };
            let mut start = block.clone();
            let signature = match field {
                "thinking" => start.get_mut("signature").map(Value::take),
                _ => None,
            };
            if signature.is_some() {
                start["signature"] = "".into();
            }
            let text = match start.get_mut(field).map(Value::take) {
                Some(Value::String(text)) => {
                    start[field] = "".into();
                    text
                }
                Some(input) => {
                    start[field] = json!({});
                    input.to_string()
                }
                None => String::new(),
            };
            let tokens = u64::from(text.is_empty());
            let field = format!(",\"content_block\":{start}");
            events.push(ScriptEvent::new(
                "content_block_start",
                index,
                &field,
                tokens,
            ));
            for part in parts(&text, per_event) {
                let part_json = Value::from(part);
                let field = format!(
                    ",\"delta\":{{\"type\":\"{delta_type}\",\"{delta_field}\":{part_json}}}"
                );
                let tokens = tokens_of(part);
                events.push(ScriptEvent::new(
                    "content_block_delta",
                    index,
                    &field,
                    tokens,
                ));
            }
            if let Some(signature) = signature {
                let field = format!(
                    ",\"delta\":{{\"type\":\"signature_delta\",\"signature\":{signature}}}"
                );
                events.push(ScriptEvent::new("content_block_delta", index, &field, 0));
            }
            events.push(ScriptEvent::new("content_block_stop", index, "", 0));
        }
        events
    }
}

fn parse(text: &impl fmt::Display) -> Value {
    let text = text.to_string();
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// A stream event of a scripted reply.
pub(crate) struct ScriptEvent {
    pub(crate) frame: Bytes,
    /// The output tokens that the event charges.
    pub(crate) tokens: u64,
}

impl ScriptEvent {
    fn new(name: &str, index: usize, field: &str, tokens: u64) -> Self {
        let data = format!("{{\"type\":\"{name}\",\"index\":{index}{field}}}");
        Self {
            frame: format!("event: {name}\ndata: {data}\n\n").into(),
            tokens,
        }
    }
}

/// Bytes of one token of scripted text.
const TOKEN_BYTES: usize = 4;

fn tokens_of(text: &str) -> u64 {
    text.len().div_ceil(TOKEN_BYTES) as u64
}

/// Splits a text into parts of about `tokens` tokens, at the borders of characters.
fn parts(mut text: &str, tokens: u64) -> Vec<&str> {
    let bytes = usize::try_from(tokens)
        .unwrap_or(usize::MAX)
        .saturating_mul(TOKEN_BYTES);
    let mut parts = Vec::new();
    while !text.is_empty() {
        let end = (bytes.min(text.len())..=text.len())
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(text.len());
        let (part, rest) = text.split_at(end);
        parts.push(part);
        text = rest;
    }
    parts
}

/// A request as the fake received it.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ReceivedRequest {
    /// The method.
    pub method: Method,
    /// The path, with the query.
    pub uri: Uri,
    /// The headers, with the credential.
    pub headers: HeaderMap,
    /// The body. Empty if it was too large.
    pub body: Bytes,
}

impl ReceivedRequest {
    /// Returns the body as JSON, or `null` if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl fmt::Debug for ReceivedRequest {
    /// Leaves the headers and the body out, because they contain the credential and the prompt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedRequest")
            .field("method", &self.method)
            .field("path", &self.uri.path())
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A function that selects the reply to a request.
pub(crate) type SelectReply = Arc<dyn Fn(&ReceivedRequest) -> Option<Reply> + Send + Sync>;
