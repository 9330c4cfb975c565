//! Scripted results of the requests in a batch.

use std::sync::Arc;

use serde_json::Value;

use crate::script::Reply;

/// End of a creation that was executed, so that its client does not know that the batch exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostCreation {
    /// The connection is reset before the response.
    Reset,
    /// The response is a 500 `api_error`.
    ServerError,
}

/// Scripted result of a request in a batch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BatchOutcome {
    /// A message with this content. An invalid request is errored all the same.
    Succeeded(Reply),
    /// An error, whether the request is valid or not.
    Errored {
        /// `error.type`, e.g. `api_error`.
        error_type: String,
        /// `error.message`.
        message: String,
    },
    /// A cancellation, whether the batch is cancelled or not.
    Canceled,
    /// An expiry, though the batch ends before 24 hours have passed.
    Expired,
}

/// Selection of a result by the `custom_id` and the `params` of a request.
pub(crate) type SelectOutcome = Arc<dyn Fn(&str, &[u8]) -> Option<BatchOutcome> + Send + Sync>;

impl LostCreation {
    /// Reads an end from JSON.
    pub(crate) fn from_json(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("reset") => Ok(Self::Reset),
            Some("server_error") => Ok(Self::ServerError),
            _ => Err(format!(
                "lost_creation: reset or server_error is required, not {value}"
            )),
        }
    }
}

impl BatchOutcome {
    /// Reads an outcome from JSON: `outcome`, and the fields of a reply or `error_type` and
    /// `message`.
    pub(crate) fn from_json(value: &Value) -> Result<Self, String> {
        let text = |field: &str, default: &str| match &value[field] {
            Value::Null => Ok(default.to_owned()),
            Value::String(text) => Ok(text.clone()),
            other => Err(format!("{field}: a string is required, not {other}")),
        };
        Ok(match value["outcome"].as_str() {
            Some("succeeded") => Self::Succeeded(Reply::from_json(value)?),
            Some("errored") => Self::Errored {
                error_type: text("error_type", "api_error")?,
                message: text("message", "Internal server error")?,
            },
            Some("canceled") => Self::Canceled,
            Some("expired") => Self::Expired,
            _ => {
                return Err(format!(
                    "outcome: succeeded, errored, canceled or expired is required, not {}",
                    value["outcome"]
                ));
            }
        })
    }
}
