//! Tower layers that keep a Claude integration inside its rate limits and alive through errors.
//!
//! This crate is the door: it re-exports the six layers, each behind a feature of its own (all on
//! by default), and their shared vocabulary, and stacks them as recommended.
#![cfg_attr(
    all(
        feature = "cache",
        feature = "circuit-breaker",
        feature = "fallback-model",
        feature = "header-budget",
        feature = "retry",
        feature = "token-bucket"
    ),
    doc = include_str!("example.md")
)]
//! # Which layer does what
//!
//! From the outside in, as `recommended()` stacks them:
//!
//! | layer | module | what it does |
//! |---|---|---|
//! | `CacheLayer` | `cache` | answers what was answered before, where the caller allows it |
//! | `FallbackModelLayer` | `fallback_model` | another model for the duration of an outage |
//! | `RetryLayer` | `retry` | sends failed requests again: at the right time, within a budget, never after content |
//! | `CircuitBreakerLayer` | `circuit_breaker` | spares a server that is down, and everyone the wait |
//! | `TokenBucketLayer` | `token_bucket` | waits before the API has to refuse |
//! | `HeaderBudgetLayer` | `header_budget` | learns the real headroom from the API's headers |
//!
//! Each works alone, in any stack, over any HTTP client that is a `Service<http::Request<_>>`;
//! [`ServiceBuilderExt`] adds them to a [`tower::ServiceBuilder`]. Every layer says on its page
//! what it does, where it goes, and how it treats readiness, clones, cancellation and streams.
#![forbid(unsafe_code)]

mod builder;
#[cfg(all(
    feature = "cache",
    feature = "circuit-breaker",
    feature = "fallback-model",
    feature = "header-budget",
    feature = "retry",
    feature = "token-bucket"
))]
mod recommended;

pub use builder::ServiceBuilderExt;
#[cfg(all(
    feature = "cache",
    feature = "circuit-breaker",
    feature = "fallback-model",
    feature = "header-budget",
    feature = "retry",
    feature = "token-bucket"
))]
pub use recommended::{Recommended, recommended};

#[cfg(feature = "cache")]
pub use tower_claude_cache::{self as cache, CacheLayer};
#[cfg(feature = "circuit-breaker")]
pub use tower_claude_circuit_breaker::{self as circuit_breaker, CircuitBreakerLayer};
#[cfg(feature = "fallback-model")]
pub use tower_claude_fallback_model::{self as fallback_model, FallbackModelLayer};
#[cfg(feature = "header-budget")]
pub use tower_claude_header_budget::{self as header_budget, HeaderBudgetLayer};
#[cfg(any(feature = "header-budget", feature = "token-bucket"))]
pub use tower_claude_limiter::{self as limiter, Limiter, LimiterConfig, Limits, LocalLimiter};
#[cfg(feature = "retry")]
pub use tower_claude_retry::{self as retry, RetryLayer};
#[cfg(feature = "token-bucket")]
pub use tower_claude_token_bucket::{self as token_bucket, TokenBucketLayer};

pub use tower_claude_core::{
    self as core, Class, Deadline, Kind, Priority, RejectReason, Rejection, RequestBody, Tenant,
    Workload, check, driver, event,
};
pub use tower_claude_wire as wire;
