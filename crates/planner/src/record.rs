//! The normal form of recorded traffic: one line of JSON for each record.
//!
//! Readers convert other logs to it, the event log of the layers and of the gateway is written in
//! it, and `docs/planning.md` describes it for other programs. Unknown fields are ignored, so a
//! writer may add its own.
//!
//! ```
//! use tower_claude_planner::record::Record;
//!
//! let line = r#"{"t_start":"2026-11-28T09:12:03.412Z","t_end":"2026-11-28T09:12:05.020Z",
//!     "model":"claude-sonnet-5-5","input":4808,"cache_read":0,"output":10,"status":200,
//!     "class":"success","attempt":1,"request_id":"req_1"}"#;
//! let record: Record = serde_json::from_str(line)?;
//! assert_eq!(record.output, Some(10));
//! # Ok::<(), serde_json::Error>(())
//! ```

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// A record of the normal form: one attempt, one call that was never sent, or the sum of all
/// requests in a period.
///
/// Only [`t_start`](Self::t_start) is required. A missing number is unknown, which is not 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Record {
    /// The start of the attempt, before its wait. For a sum, the start of the period.
    pub t_start: Time,
    /// The end of the response body. For a sum, the end of the period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t_end: Option<Time>,
    /// The seconds from `t_start` until the request was sent: the wait for a limiter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<f64>,
    /// An opaque id of the call. All its attempts have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// The number of the attempt in its call, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The rate group whose limits the request uses, such as `sonnet-5.5`. Found by `model` if it
    /// is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The model in the request that was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The endpoint family: `messages` if it is missing, or `count_tokens`, `batches`, ….
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// True for `speed: "fast"`, which has limits of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fast: bool,
    /// Input tokens that were neither read from the cache nor written to it: the API's
    /// `input_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// Input tokens that were read from the cache. No limit counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<u64>,
    /// Input tokens that were written to the cache, for 5 minutes or 1 hour together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    /// Output tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
    /// The `max_tokens` of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// The names of the fields above that are estimates, such as `input`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub estimated: Vec<String>,
    /// The status of the response. Missing if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The class of the outcome, named as by [`Kind::as_str`](tower_claude_core::Kind::as_str).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The end of the attempt: `answered`, `failed`, `broken` or `dropped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending: Option<String>,
    /// The name of the layer that rejected the request, which was then never sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_by: Option<String>,
    /// The reason of a failure in one word, such as `concurrency`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The `error.type` of the API's error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The `error.details.error_code` of the API's error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// The `retry-after` of the response, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<f64>,
    /// The rate-limit headers of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RecordedLimits>,
    /// The server's clock in the response, its header `date`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<Time>,
    /// The `request-id` of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// A name of the kind of work, chosen by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The tenant, or a hash of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// A hash of the API key or its id. Never the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The process or machine that wrote the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The number of requests in a sum. Missing for one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// The share of all records that was kept, from 0 to 1. Missing if all were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<f64>,
}

/// The rate-limit headers of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RecordedLimits {
    /// `anthropic-ratelimit-requests-*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RecordedLimit>,
    /// `anthropic-ratelimit-input-tokens-*`, or those of fast mode if `fast` is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<RecordedLimit>,
    /// `anthropic-ratelimit-output-tokens-*`, or those of fast mode if `fast` is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<RecordedLimit>,
    /// `anthropic-ratelimit-tokens-*`, the most restrictive token limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<RecordedLimit>,
}

/// One rate limit in the headers of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RecordedLimit {
    /// The limit per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The remaining requests or tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// The time at which the whole limit is available again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<Time>,
}
