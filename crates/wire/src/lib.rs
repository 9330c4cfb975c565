//! Pure parsers for what the Claude API sends and accepts: rate-limit headers, errors, request peek, SSE, usage, models.
//!
//! Functions over bytes and header maps: no I/O, no async, no clock of their own, no panic on any
//! input. What the API may add later (error kinds, models, events, header windows) is kept as open
//! text; what is malformed counts as absent.
//!
//! | Question | Answer |
//! | --- | --- |
//! | How much is left, and until when? | [`RateLimits::from_headers`] |
//! | How long to wait? | [`retry_after`], [`should_retry`] |
//! | What went wrong? | [`ApiError::parse`] |
//! | What does this request ask for? | [`Peek::parse`], [`estimate_tokens`], [`non_text_bytes`] |
//! | Where do its fields stand? | [`Fields`] |
//! | What did it use? | [`Usage::from_message`], [`StreamState`] |
//! | Which limits does a model share, what does it take? | [`ModelCatalog::lookup`] |
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
//! // Falling back inside one rate group does not escape a 429.
//! let catalog = ModelCatalog::builtin();
//! let group = |model| catalog.lookup(model).rate_group;
//! assert_eq!(group("claude-opus-4-8"), group("claude-opus-4-7"));
//! assert_ne!(group("claude-opus-4-8"), group("claude-opus-5-5"));
//! # Ok::<(), http::header::InvalidHeaderValue>(())
//! ```
#![forbid(unsafe_code)]

mod count;
mod error;
mod fields;
mod headers;
mod json;
mod models;
mod peek;
mod prompt;
mod retry_after;
mod sse;
mod stamp;
mod stream;
mod surplus;
mod unified;
mod usage;

pub use count::{count_tokens_body, counted_tokens};
pub use error::ApiError;
pub use fields::{Elements, Field, Fields, JsonBroken, json_string_end, json_text};
pub use headers::{
    Gauge, Media, RateLimits, date, is_compressed, is_event_stream, is_json, media,
    organization_id, readable, request_id, should_retry, workspace_id,
};
pub use models::{
    About, Capabilities, CatalogError, Effort, Lifecycle, Model, ModelCatalog, SamplingDefaults,
    Support, Tier, TierLimits, Tokenizer, estimate_tokens,
};
pub use peek::{Peek, Thinking};
pub use prompt::{Prompt, PromptBlock, PromptPart, mentions_cache_control};
pub use retry_after::{MAX_RETRY_AFTER, retry_after};
pub use sse::{SseEvent, SseScanner};
pub use stream::{StreamEvent, StreamState};
pub use surplus::non_text_bytes;
pub use unified::{Unified, UnifiedWindow};
pub use usage::{Usage, stop_reason};
