//! Pure parsers for what the Claude API sends and accepts: rate-limit headers, errors, request peek, SSE, usage, models.
#![forbid(unsafe_code)]

mod error;
mod headers;
mod json;
mod models;
mod peek;
mod retry_after;
mod sse;
mod stream;
mod usage;

pub use error::ApiError;
pub use headers::{
    Gauge, RateLimits, Unified, UnifiedWindow, date, is_compressed, is_event_stream, is_json,
    organization_id, request_id, should_retry, workspace_id,
};
pub use models::{
    Capabilities, CatalogError, Effort, Model, ModelCatalog, Support, Tier, TierLimits, Tokenizer,
    estimate_tokens,
};
pub use peek::{Peek, Thinking};
pub use retry_after::{MAX_RETRY_AFTER, retry_after};
pub use sse::{SseEvent, SseScanner};
pub use stream::{StreamEvent, StreamState};
pub use usage::{Usage, stop_reason};
