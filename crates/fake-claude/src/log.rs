//! What the server remembers of each attempt.

use std::sync::Arc;
use std::time::Duration;

use crate::model::Dimension;

/// What an attempt asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
    /// `GET /v1/models` and `GET /v1/models/{id}`.
    Models,
    /// Anything else: answered with 404 or 405.
    #[default]
    Other,
}

/// One attempt, from the moment its body had arrived.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Attempt {
    /// Its place in the log, from 0.
    pub seq: u64,
    /// `x-fake-tag`, as sent.
    pub tag: Option<Arc<str>>,
    /// What was asked for.
    pub endpoint: Endpoint,
    /// When the whole request had arrived, since the server's start.
    pub at: Duration,
    /// When the answer had been made to its end, or was given up; `None` while it runs.
    pub finished_at: Option<Duration>,
    /// Rate group that paid; empty when the request named no model.
    pub group: Arc<str>,
    /// Model, as sent; empty when the request named none.
    pub model: Arc<str>,
    /// Whether it asked for a stream.
    pub stream: bool,
    /// `x-stainless-retry-count`, if sent.
    pub retry_count: Option<u32>,
    /// Status of the answer; 0 while there is none, and for a reset.
    pub status: u16,
    /// `error.type` of an error answer or an `error` event.
    pub error_type: Option<&'static str>,
    /// `error.details.error_code` of an error answer.
    pub error_code: Option<&'static str>,
    /// What the buckets were short of, when they refused it.
    pub dimension: Option<Dimension>,
    /// Name of the fault it met ([`Fault::name`](crate::Fault::name)).
    pub fault: Option<&'static str>,
    /// Input tokens as estimated at admission.
    pub estimated_input: u64,
    /// Input tokens charged in the end; 0 when it was not admitted.
    pub charged_input: u64,
    /// Output tokens charged so far.
    pub charged_output: u64,
    /// Whole input tokens in the bucket just before it was judged, rounded down.
    pub input_level_before: i64,
    /// Whether content was made for the caller: a stream's first `content_block_start`, a first byte of a JSON message.
    pub content_sent: bool,
    /// Whether a successful answer was made to its end.
    pub completed: bool,
    /// Whether the server broke off after content had been sent.
    pub broken_after_content: bool,
    /// Whether the caller left before the end.
    pub client_gone: bool,
    /// Whether it came within the window of any scripted incident, whether or not that one touched it.
    pub in_incident: bool,
}
