//! The marks on a response that another model served.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, response::Parts};
use tower_claude_core::Class;

use crate::rewrite::Loss;

/// Response header: the model that served the request, present if it is not the model asked for.
pub const SERVED_MODEL: HeaderName = HeaderName::from_static("x-tower-claude-served-model");

/// Response header: the failure of the model asked for, as the name of a
/// [`Kind`](tower_claude_core::Kind). Present if another model served the request.
pub const FALLBACK_REASON: HeaderName = HeaderName::from_static("x-tower-claude-fallback-reason");

/// Response header: the fields that were changed for the serving model, separated by commas.
/// Present if there are any.
pub const FALLBACK_LOSSES: HeaderName = HeaderName::from_static("x-tower-claude-fallback-losses");

/// Response extension: the model that served the request, if it is not the model asked for. Present
/// on its responses, and on errors with which it rejects the request. A cache must keep the
/// responses of two models apart.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedBy {
    /// The model that was sent the request.
    pub model: Arc<str>,
    /// The model that the caller asked for.
    pub asked: Arc<str>,
    /// The failure of the model asked for: in this call, or an earlier one if it was skipped.
    pub why: Class,
    /// The fields that were changed for the serving model.
    pub losses: Arc<[Loss]>,
    /// The number of models that the call was sent to: 1 if the model asked for was skipped because
    /// it had failed lately, 2 if it was tried and failed.
    pub hops: u32,
}

impl ServedBy {
    /// Sets the headers and the extension.
    pub(crate) fn mark(self, head: &mut Parts) {
        let headers = &mut head.headers;
        // A name that is no header value does not fail the call.
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
