//! Parsers for the requests and responses of the Claude API.
//!
//! All items are plain functions and types over bytes and header maps. They do no I/O, read no
//! clock and never panic, whatever the input. Values that the API may extend later (error kinds,
//! models, events, header windows) are kept as text. A malformed value counts as absent.
//!
//! | Input | Parsers |
//! | --- | --- |
//! | Rate-limit headers | [`RateLimits::from_headers`] |
//! | Advice on retries | [`retry_after`], [`should_retry`] |
//! | Error body | [`ApiError::parse`], [`ApiError::parse_any`] |
//! | Request body | [`Peek::parse`], [`Prompt::parse`], [`user_id`], [`estimate_tokens`], [`text_bytes`] |
//! | Any JSON object or array | [`Fields`], [`Elements`] |
//! | Response body | [`JsonResponse::of`], [`Usage::from_message`], [`stop_reason`], [`StreamState`] |
//! | JSON in pieces | [`JsonScanner`] |
//! | Model id | [`ModelCatalog::lookup`] |
//! | Usage and model | [`ModelCatalog::bill`] |
//! | Host and path | [`Platform::of`] |
//! | Clouds | [`cloud::Target`] |
//! | Limits in the Admin API | [`admin`] |
//!
//! ```
//! use tower_claude_wire::{ApiError, ModelCatalog, RateLimits};
//!
//! let mut headers = http::HeaderMap::new();
//! headers.insert("anthropic-ratelimit-requests-limit", "1000".parse()?);
//! headers.insert("anthropic-ratelimit-requests-remaining", "0".parse()?);
//! let requests = RateLimits::from_headers(&headers).requests;
//! assert_eq!((requests.limit, requests.remaining), (Some(1000), Some(0)));
//!
//! let error = ApiError::parse(br#"{"type":"error","error":{"type":"rate_limit_error",
//!     "message":"slow down","details":{"error_code":"ramp_limit_exceeded"}}}"#).unwrap();
//! assert_eq!(error.error_code.as_deref(), Some("ramp_limit_exceeded"));
//!
//! // Models of one rate group share their limits.
//! let catalog = ModelCatalog::builtin();
//! let group = |model| catalog.lookup(model).rate_group;
//! assert_eq!(group("claude-opus-4-8"), group("claude-opus-4-7"));
//! assert_ne!(group("claude-opus-4-8"), group("claude-opus-5-5"));
//! # Ok::<(), http::header::InvalidHeaderValue>(())
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod cloud;
mod count;
mod error;
mod fields;
mod headers;
mod json;
mod models;
mod peek;
mod prompt;
mod response;
mod retry_after;
mod sse;
mod stream;
mod text_bytes;
mod timestamp;
mod usage;

pub use count::{count_tokens_body, counted_tokens};
pub use error::ApiError;
pub use fields::{Field, Fields};
pub use headers::{
    Gauge, Media, RateLimits, Unified, UnifiedWindow, content_length, date, is_compressed,
    is_event_stream, is_json, is_page, is_text, media, organization_id, readable, request_id,
    should_retry, unified_wait, workspace_id,
};
pub use json::{Elements, InvalidJson, json_string_end, json_text};
pub use models::{
    About, Bill, Billing, Capabilities, CatalogError, Effort, Lifecycle, Model, ModelCatalog,
    Money, Platform, Prices, RateCard, SamplingDefaults, Support, Tier, TierLimits, Tokenizer,
    estimate_tokens,
};
pub use peek::{Peek, Thinking, user_id};
pub use prompt::{
    BlockKind, CacheTtl, InnerBreakpoint, PlainBlock, Prompt, PromptBlock, PromptPart,
    insert_breakpoints, tool_call_id,
};
pub use response::{JsonResponse, JsonScanner, is_cut_json};
pub use retry_after::{MAX_RETRY_AFTER, retry_after};
pub use sse::{SseEvent, SseScanner};
pub use stream::{StreamEvent, StreamState};
pub use text_bytes::text_bytes;
pub use usage::{Iteration, ServiceTier, Speed, Usage, stop_reason};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
