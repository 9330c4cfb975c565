//! Message Batches: the endpoints, and what a batch does with its requests.

mod items;
mod respond;
mod store;

use http::Method;
use serde_json::Value;

use crate::script::Reply;

pub(crate) use self::items::item_problem;
pub(crate) use self::respond::{BatchAnswer, respond};
pub(crate) use self::store::BatchStore;

/// The path of the endpoints.
pub(crate) const PATH: &str = "/v1/messages/batches";
/// The API's own limit on the body of a creation.
pub(crate) const MAX_BODY: usize = 256 * 1024 * 1024;
/// The default number of requests that all batches may have in processing, of the Start tier.
pub(crate) const QUEUE: usize = 200_000;

/// Call of one of the endpoints, with the id in its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BatchCall {
    Create,
    List,
    Retrieve(String),
    Results(String),
    Cancel(String),
    Delete(String),
}

impl BatchCall {
    /// Returns the call for the part of a path after [`PATH`]. `None` if there is no such endpoint.
    ///
    /// # Errors
    /// Returns the allowed methods if the method is another.
    pub(crate) fn of(method: &Method, path: &str) -> Result<Option<Self>, &'static str> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (id, action) = path.split_once('/').unwrap_or((path, ""));
        let id = id.to_owned();
        let call = match (&*id, action, method.as_str()) {
            ("", "", "POST") => Self::Create,
            ("", "", "GET") => Self::List,
            ("", "", _) => return Err("GET, POST"),
            ("", ..) => return Ok(None),
            (_, "", "GET") => Self::Retrieve(id),
            (_, "", "DELETE") => Self::Delete(id),
            (_, "", _) => return Err("GET, DELETE"),
            (_, "results", "GET") => Self::Results(id),
            (_, "results", _) => return Err("GET"),
            (_, "cancel", "POST") => Self::Cancel(id),
            (_, "cancel", _) => return Err("POST"),
            _ => return Ok(None),
        };
        Ok(Some(call))
    }
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
