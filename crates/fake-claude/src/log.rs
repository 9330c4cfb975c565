//! The log of attempts.

use std::sync::Arc;
use std::time::Duration;

use crate::model::Dimension;
use crate::script::ReceivedRequest;

/// Endpoint of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST /v1/messages`, and on a cloud every path to a message.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
    /// `GET /v1/models` and `GET /v1/models/{id}`.
    Models,
    /// `/v1/messages/batches` and the paths below it.
    Batches,
    /// Any other path or method. The response is 404 or 405.
    #[default]
    Other,
}

/// One attempt, logged when its body has been received.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Attempt {
    /// Index in the log, from 0.
    pub seq: u64,
    /// `x-fake-tag`, as sent.
    pub tag: Option<Arc<str>>,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Time since the server's start at which the request was complete.
    pub at: Duration,
    /// Time at which the response ended or was abandoned. `None` before.
    pub finished_at: Option<Duration>,
    /// Charged rate group. Empty if the request has no model.
    pub group: Arc<str>,
    /// Model, as sent. Empty if the request has none. On a cloud it is the id of the Claude API, if
    /// the id that was sent is known.
    pub model: Arc<str>,
    /// True for a streaming request.
    pub stream: bool,
    /// `x-stainless-retry-count`, if sent.
    pub retry_count: Option<u32>,
    /// Status of the response. 0 before it is sent, and for a reset.
    pub status: u16,
    /// `error.type` of an error response or an `error` event. On a cloud it is that of the same
    /// error of the Claude API.
    pub error_type: Option<&'static str>,
    /// `error.details.error_code` of an error response.
    pub error_code: Option<&'static str>,
    /// The exceeded limit, if the buckets rejected the request.
    pub dimension: Option<Dimension>,
    /// Name of the fault that was applied ([`Fault::name`](crate::Fault::name)).
    pub fault: Option<&'static str>,
    /// Input tokens as estimated at admission.
    pub estimated_input: u64,
    /// Input tokens charged at the end, without those read from the prompt cache. 0 if the request
    /// was not admitted.
    pub charged_input: u64,
    /// Input tokens read from the prompt cache. They are not charged.
    pub cache_read: u64,
    /// Blocks of thinking that were dropped, because another account had made them.
    pub dropped_thinking: usize,
    /// Input tokens written to the prompt cache. They are a part of those charged.
    pub cache_creation: u64,
    /// Output tokens charged so far.
    pub charged_output: u64,
    /// Input tokens in the bucket just before the decision, rounded down.
    pub input_level_before: i64,
    /// True if content was sent: the first `content_block_start` of a stream, or the first byte of
    /// a JSON message.
    pub content_sent: bool,
    /// True if a successful response was complete.
    pub completed: bool,
    /// True if the server broke off after content had been sent.
    pub broken_after_content: bool,
    /// True if the caller dropped the future or the body before the end.
    pub client_gone: bool,
    /// The request, as it was received. `None` for older attempts (see
    /// [`FakeClaudeBuilder::keep_requests`](crate::FakeClaudeBuilder::keep_requests)).
    pub request: Option<Arc<ReceivedRequest>>,
    /// True if the request came during any incident, even if its fault was not applied.
    pub in_incident: bool,
}
