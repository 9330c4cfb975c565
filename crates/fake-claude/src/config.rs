//! Configuration of a server.

use std::sync::Arc;
use std::time::Duration;

use tower_claude_wire::{Model, ModelCatalog};

use crate::admin::AdminApi;
use crate::batches::outcome::SelectOutcome;
use crate::cloud::{FakeCloud, ids};
use crate::fault::Incident;
use crate::script::SelectReply;

/// Rate group of `count_tokens`, which has its own buckets.
pub(crate) const COUNT_TOKENS: &str = "count_tokens";
/// Rate group of the batch endpoints, which have their own bucket.
pub(crate) const BATCHES: &str = "batches";
/// Suffix of the name of the group for `speed: "fast"`.
pub(crate) const FAST_SUFFIX: &str = "+fast";

/// Time at which the levels for the rate-limit headers are read. The API does not document it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderSnapshot {
    /// Just after admission: only the estimate is charged.
    #[default]
    Admission,
    /// At the response head: the input is corrected, and for JSON the output is charged.
    Response,
}

/// Set of rate-limit headers in a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderFamily {
    /// `requests-*`, `input-tokens-*`, `output-tokens-*`, and `tokens-*` as input and output
    /// summed.
    #[default]
    Standard,
    /// `requests-*` and `tokens-*` only. `tokens-*` is the token bucket with the smaller share
    /// left.
    RequestsAndTokensOnly,
    /// None, as on cloud platforms that drop them.
    None,
}

/// Platform that serves the API. It determines the headers with the request id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Platform {
    /// Claude's own API: `request-id`.
    #[default]
    Claude,
    /// Claude Platform on AWS: `x-amzn-requestid` beside it.
    Aws,
    /// Microsoft Foundry: `apim-request-id` beside it. Foundry sends no rate-limit headers: use
    /// [`HeaderFamily::None`] with it.
    Foundry,
    /// Amazon Bedrock. [`FakeClaudeBuilder::cloud`](crate::FakeClaudeBuilder::cloud) sets it, with
    /// the endpoints of the platform.
    Bedrock,
    /// Claude on Google Cloud, managed by Google. It is set like [`Platform::Bedrock`].
    Vertex,
}

/// The account that thinking of the Claude API belongs to.
const ACCOUNT: &str = "claude-api";

pub(crate) struct Config {
    pub(crate) time_to_first_token: Duration,
    /// `None` for all at once.
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) tokens_per_event: u64,
    pub(crate) output_tokens: u64,
    pub(crate) api_key: Option<String>,
    pub(crate) admin: Option<AdminApi>,
    pub(crate) snapshot: HeaderSnapshot,
    pub(crate) family: HeaderFamily,
    pub(crate) platform: Platform,
    pub(crate) incidents: Vec<Incident>,
    pub(crate) bytes_per_1000_tokens: u64,
    pub(crate) admission_noise: f64,
    pub(crate) catalog: ModelCatalog,
    pub(crate) unknown_models: bool,
    pub(crate) kept_requests: usize,
    /// Time in which a batch processes all its requests.
    pub(crate) batch_time: Duration,
    /// Requests that all batches together may have in processing.
    pub(crate) batch_queue: usize,
    /// Time from the creation of a batch for which it is not found.
    pub(crate) batch_hidden: Duration,
    pub(crate) select_outcome: Option<SelectOutcome>,
    pub(crate) select_reply: Option<SelectReply>,
    /// The day on which models are alive or retired, e.g. `2026-11-30`.
    pub(crate) today: String,
    /// `None` for the Claude API.
    pub(crate) cloud: Option<FakeCloud>,
    /// True to reject thinking of another account instead of dropping it.
    pub(crate) rejects_foreign_thinking: bool,
}

impl Config {
    /// Returns the account that thinking belongs to.
    pub(crate) fn account(&self) -> &str {
        self.cloud.as_ref().map_or(ACCOUNT, |cloud| &cloud.account)
    }

    /// Returns the name of the limits that a model takes from.
    pub(crate) fn group_of(&self, model: &Model) -> Arc<str> {
        match &self.cloud {
            None => Arc::clone(&model.rate_group),
            Some(cloud) => Arc::from(ids::group(cloud, &model.id)),
        }
    }
}
