//! The text of responses: stream events and the JSON message.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use tower_claude_wire::ApiError;

use crate::model::CacheTokens;
use crate::script::Reply;
use crate::validate::ValidCall;

/// Facts of a response that its text contains.
#[derive(Clone)]
pub(crate) struct ReplyMessage {
    pub(crate) id: String,
    /// The model as a JSON string with its quotes.
    pub(crate) model_json: String,
    /// Tokens that were neither read from the cache nor written to it.
    pub(crate) input: u64,
    pub(crate) cache: CacheTokens,
    pub(crate) speed: &'static str,
    pub(crate) service_tier: &'static str,
    /// The `input_transformations` as JSON, if the message has them.
    pub(crate) transformations: Option<String>,
}

/// Content of a response, and its end.
pub(crate) struct Content {
    /// Output tokens.
    pub(crate) tokens: u64,
    pub(crate) stop_reason: Cow<'static, str>,
    /// `None` for the fake's own text.
    pub(crate) script: Option<Reply>,
}

impl Content {
    /// Returns the content of a valid request. `per_event` is the number of tokens in an event.
    pub(crate) fn of(call: &ValidCall, script: Option<Reply>, per_event: u64) -> Self {
        if call.max_tokens == 0 {
            return Self {
                tokens: 0,
                stop_reason: "max_tokens".into(),
                script: None,
            };
        }
        if let Some(reply) = script {
            let events = reply.events(per_event);
            return Self {
                tokens: events.iter().map(|event| event.tokens).sum(),
                stop_reason: reply.stop_reason().to_owned().into(),
                script: Some(reply),
            };
        }
        let is_cut = call.output > call.max_tokens;
        Self {
            tokens: call.output.min(call.max_tokens),
            stop_reason: if is_cut { "max_tokens" } else { "end_turn" }.into(),
            script: None,
        }
    }
}

/// Words of one token each.
const WORDS: [&str; 16] = [
    "the", " river", " runs", " down", " to", " a", " quiet", " lake", " and", " rests", " there",
    " until", " morning", " comes", " again", ".",
];

impl ReplyMessage {
    pub(crate) fn of(call: &ValidCall, cache: CacheTokens, id: String) -> Self {
        Self {
            id,
            model_json: serde_json::Value::from(&*call.model).to_string(),
            input: call.input - cache.read - cache.written(),
            cache,
            speed: if call.fast { "fast" } else { "standard" },
            service_tier: "standard",
            transformations: call.transformations.clone(),
        }
    }

    pub(crate) fn start(&self) -> Bytes {
        let mut out = String::with_capacity(512);
        out.push_str(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"",
        );
        out.push_str(&self.id);
        out.push_str("\",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
        out.push_str(&self.model_json);
        out.push_str(
            ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"stop_details\":null,\"usage\":",
        );
        self.usage(&mut out, 1);
        self.transformations(&mut out);
        out.push_str("}}\n\n");
        out.into()
    }

    /// Returns `message_delta` with the usage so far.
    pub(crate) fn delta(&self, stop_reason: &str, output: u64) -> Bytes {
        let mut out = String::with_capacity(384);
        out.push_str(
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"",
        );
        out.push_str(stop_reason);
        out.push_str("\",\"stop_sequence\":null,\"stop_details\":");
        out.push_str(stop_details(stop_reason));
        let _ = write!(
            out,
            "}},\"usage\":{{\"input_tokens\":{},\"cache_creation_input_tokens\":{},\
             \"cache_read_input_tokens\":{},\"output_tokens\":{output}}}}}\n\n",
            self.input,
            self.cache.written(),
            self.cache.read,
        );
        out.into()
    }

    /// Returns the complete message as JSON.
    pub(crate) fn whole(&self, script: Option<&Reply>, stop_reason: &str, output: u64) -> Bytes {
        let mut out =
            String::with_capacity(640 + 8 * usize::try_from(output).unwrap_or(0).min(1 << 20));
        out.push_str("{\"id\":\"");
        out.push_str(&self.id);
        out.push_str("\",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
        out.push_str(&self.model_json);
        out.push_str(",\"content\":");
        match script {
            Some(reply) => out.push_str(&reply.content()),
            None if output > 0 => {
                out.push_str("[{\"type\":\"text\",\"text\":\"");
                text(&mut out, 0, output);
                out.push_str("\"}]");
            }
            None => out.push_str("[]"),
        }
        out.push_str(",\"stop_reason\":\"");
        out.push_str(stop_reason);
        out.push_str("\",\"stop_sequence\":null,\"stop_details\":");
        out.push_str(stop_details(stop_reason));
        out.push_str(",\"container\":null,\"diagnostics\":null,\"usage\":");
        self.usage(&mut out, output);
        self.transformations(&mut out);
        out.push('}');
        out.into()
    }

    fn transformations(&self, out: &mut String) {
        if let Some(transformations) = &self.transformations {
            out.push_str(",\"input_transformations\":");
            out.push_str(transformations);
        }
    }

    fn usage(&self, out: &mut String, output: u64) {
        let _ = write!(
            out,
            "{{\"input_tokens\":{},\"cache_creation_input_tokens\":{},\"cache_read_input_tokens\":{},\
             \"cache_creation\":{{\"ephemeral_5m_input_tokens\":{},\"ephemeral_1h_input_tokens\":{}}},\
             \"output_tokens\":{output},\"output_tokens_details\":{{\"thinking_tokens\":0}},\
             \"server_tool_use\":null,\"service_tier\":\"{}\",\"speed\":\"{}\",\"inference_geo\":\"global\"}}",
            self.input,
            self.cache.written(),
            self.cache.read,
            self.cache.written_5m,
            self.cache.written_1h,
            self.service_tier,
            self.speed,
        );
    }
}

/// Returns a `content_block_delta` with `count` tokens of text, from token `from` on.
pub(crate) fn text_delta(from: u64, count: u64) -> Bytes {
    let mut out = String::with_capacity(120 + 8 * usize::try_from(count).unwrap_or(0).min(1 << 20));
    out.push_str(
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
         \"delta\":{\"type\":\"text_delta\",\"text\":\"",
    );
    text(&mut out, from, count);
    out.push_str("\"}}\n\n");
    out.into()
}

pub(crate) fn block_start() -> Bytes {
    Bytes::from_static(
        b"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\
          \"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    )
}

pub(crate) fn block_stop() -> Bytes {
    Bytes::from_static(
        b"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    )
}

pub(crate) fn ping() -> Bytes {
    Bytes::from_static(b"event: ping\ndata: {\"type\":\"ping\"}\n\n")
}

pub(crate) fn message_stop() -> Bytes {
    Bytes::from_static(b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
}

/// Returns an `error` event. It has no request id, because the response head has it.
pub(crate) fn error(kind: &str, message: &str) -> Bytes {
    format!(
        "event: error\ndata: {}\n\n",
        ApiError::body(kind, message, None)
    )
    .into()
}

fn stop_details(stop_reason: &str) -> &'static str {
    if stop_reason == "refusal" {
        "{\"type\":\"refusal\",\"category\":\"general_harms\",\"explanation\":null}"
    } else {
        "null"
    }
}

fn text(out: &mut String, from: u64, count: u64) {
    for token in from..from.saturating_add(count) {
        out.push_str(WORDS[(token % WORDS.len() as u64) as usize]);
    }
}
