//! What is said of a response that another model served.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, response::Parts};
use tower_claude_core::Class;

use crate::Loss;

/// The model that served, where it is not the one asked for. Only then.
pub const SERVED_MODEL: HeaderName = HeaderName::from_static("x-tower-claude-served-model");

/// Why the model asked for did not serve: the name of a [`Kind`](tower_claude_core::Kind). Only when another did.
pub const FALLBACK_REASON: HeaderName = HeaderName::from_static("x-tower-claude-fallback-reason");

/// The fields that the serving model was not sent as asked, with commas between them. Only when there are any.
pub const FALLBACK_LOSSES: HeaderName = HeaderName::from_static("x-tower-claude-fallback-losses");

/// The extension on a response that another model served than the one asked for: on its answers, and on the errors
/// with which it rejects the request. A cache must not take the one for the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedBy {
    /// The model that was sent the request.
    pub model: Arc<str>,
    /// The model that the caller asked for.
    pub asked: Arc<str>,
    /// How the model asked for failed: in this call, or lately, when it was passed over.
    pub why: Class,
    /// What was not sent as asked.
    pub losses: Arc<[Loss]>,
    /// How many models the call was sent to: 1 when the one asked for was passed over because it had failed lately,
    /// 2 when it was asked and failed.
    pub hops: u32,
}

impl ServedBy {
    /// Says so, in the extensions and in the headers.
    pub(crate) fn mark(self, head: &mut Parts) {
        let headers = &mut head.headers;
        // A name that is no header value is not worth a failure.
        if let Ok(model) = HeaderValue::from_str(&self.model) {
            headers.insert(SERVED_MODEL, model);
        }
        let why = HeaderValue::from_static(self.why.kind.as_str());
        headers.insert(FALLBACK_REASON, why);
        if !self.losses.is_empty() {
            let fields: Vec<&str> = self.losses.iter().map(|loss| loss.field).collect();
            if let Ok(fields) = HeaderValue::from_str(&fields.join(",")) {
                headers.insert(FALLBACK_LOSSES, fields);
            }
        }
        head.extensions.insert(self);
    }
}
