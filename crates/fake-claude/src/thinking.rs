//! Signatures of thinking, which bind it to the account that made it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::reply::ErrorReply;

/// The models whose thinking only the account that made it can read.
const BOUND: [&str; 4] = [
    "claude-fable-5-2",
    "claude-haiku-5-5",
    "claude-mythos-5-2",
    "claude-sonnet-5-5",
];
/// The beginning of what a signature of this crate contains.
const MARK: &str = "fake-claude";

/// Returns the signature of thinking that a model has made for an account.
pub(crate) fn sign(account: &str, model: &str, thinking: &str) -> String {
    let mut hasher = DefaultHasher::new();
    thinking.hash(&mut hasher);
    let hash = hasher.finish();
    STANDARD.encode(format!("{MARK}\n{account}\n{model}\n{hash:016x}"))
}

/// Returns true for a signature of a bound model and another account. A signature that this crate
/// has not made is nobody's.
fn is_foreign(account: &str, signature: &str) -> bool {
    let Ok(bytes) = STANDARD.decode(signature) else {
        return false;
    };
    let text = String::from_utf8_lossy(&bytes);
    let parts: Vec<&str> = text.split('\n').collect();
    let [MARK, maker, model, _] = parts[..] else {
        return false;
    };
    maker != account && BOUND.contains(&model)
}

/// The thinking of other accounts in a conversation.
#[derive(Debug, Default)]
pub(crate) struct ForeignThinking {
    /// The paths of the blocks, e.g. `messages.1.content.0`.
    pub(crate) paths: Vec<String>,
    /// The messages without these blocks, as JSON.
    pub(crate) messages: String,
}

/// Returns the thinking of other accounts in these messages. `None` if there is none.
pub(crate) fn foreign(account: &str, messages: &str) -> Option<ForeignThinking> {
    if !messages.contains("\"signature\"") {
        return None;
    }
    let mut value: Value = serde_json::from_str(messages).ok()?;
    let mut paths = Vec::new();
    for (index, message) in value.as_array_mut()?.iter_mut().enumerate() {
        let Some(blocks) = message["content"].as_array_mut() else {
            continue;
        };
        let mut place = 0;
        blocks.retain(|block| {
            let signature = block["signature"].as_str().unwrap_or_default();
            let is_kept = block["type"] != "thinking" || !is_foreign(account, signature);
            if !is_kept {
                paths.push(format!("messages.{index}.content.{place}"));
            }
            place += 1;
            is_kept
        });
    }
    (!paths.is_empty()).then(|| ForeignThinking {
        paths,
        messages: value.to_string(),
    })
}

/// Returns the value of `input_transformations` for blocks that were dropped.
pub(crate) fn transformations(paths: &[String]) -> String {
    let dropped = paths.iter().map(|path| {
        json!({"type": "thinking_dropped", "path": path, "reason": "organization_binding_mismatch"})
    });
    Value::from_iter(dropped).to_string()
}

/// Returns the error for the first block that another account made.
pub(crate) fn rejection(paths: &[String]) -> ErrorReply {
    let path = paths.first().map_or("messages", String::as_str);
    ErrorReply::invalid(format!("{path}: Invalid `signature` in `thinking` block"))
}
