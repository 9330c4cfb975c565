//! Pure parsers for what the Claude API sends and accepts: rate-limit headers, errors, request peek, SSE, usage, models.
#![forbid(unsafe_code)]

mod json;
mod peek;
mod sse;
mod usage;

pub use peek::{Peek, Thinking};
pub use sse::{SseEvent, SseScanner};
pub use usage::{Usage, stop_reason};
