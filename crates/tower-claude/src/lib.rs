//! Tower layers that keep a Claude integration inside its rate limits and alive through errors.
//!
//! This is the facade crate. It re-exports the layers, each behind a feature of its own, and stacks
//! them as recommended. The features of the layers are on by default. The feature `metrics` adds
//! `metrics`, an observer that counts all events with the facade crate of the same name, and the
//! feature `event-log` adds `event_log`, an observer that writes each attempt to a file.
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
//! # The layers
//!
//! From the outer to the inner layer, as [`recommended`] stacks them:
//!
//! | Layer | Feature | Task |
//! |---|---|---|
//! | [`CacheLayer`] | `cache` | Answers repeated requests, if the caller allows it. |
//! | [`FallbackModelLayer`] | `fallback-model` | Uses another model while a model is down. |
//! | [`RetryLayer`] | `retry` | Sends failed requests again, within a budget. |
//! | [`CircuitBreakerLayer`] | `circuit-breaker` | Stops calls to a model that is down. |
//! | [`TokenBucketLayer`] | `token-bucket` | Delays requests before the API rejects them. |
//! | [`HeaderBudgetLayer`] | `header-budget` | Learns the actual limits from response headers. |
//!
//! Others are switched on by a method each:
//!
//! | Layer | Feature | Task |
//! |---|---|---|
//! | [`PromptCacheLayer`] | `prompt-cache` | Marks prompts for the prompt cache of the API where it pays. |
//! | [`BatchLayer`] | `batch` | Answers calls that can wait by Message Batches, at half the price. |
//! | [`SpreadLayer`] | `spread` | Chooses a cloud, region or account for each attempt. |
//! | [`CloudLayer`](cloud::CloudLayer) | `cloud`, `bedrock` | Translates requests for Amazon Bedrock and Google Vertex AI. |
//!
//! Each layer also works alone, in any stack, over any HTTP client that is a
//! `Service<http::Request<_>>`. The page of each layer's module describes its readiness, clones,
//! cancellation and streams: [`cache`], [`fallback_model`], [`retry`], [`circuit_breaker`],
//! [`token_bucket`], [`header_budget`], [`prompt_cache`], [`batch`], [`spread`], [`cloud`].
//!
//! [`ServiceBuilderExt`] adds the layers to a [`tower::ServiceBuilder`].
//!
//! # Requests and responses
//!
//! A caller can insert a [`Deadline`], a [`Priority`], a [`Tenant`] or a [`Workload`] into the
//! extensions of a request. A response that a layer made has a [`Rejection`] in its extensions. A
//! failed response has a [`Class`].
//!
//! A rejection looks like an error of the Claude API. [`RejectionLayer`] gives it another status
//! and body, for other services or for callers with an error format of their own. [`HttpClassify`]
//! is the classifier for services that are not Claude.
//!
//! [`check`] checks at compile time that the layers accept a service. [`event`] describes the
//! events that layers emit, and [`driver`] is for authors of layers.
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

#[cfg(feature = "batch")]
pub use tower_claude_batch::{self as batch, BatchLayer};
#[cfg(feature = "cache")]
pub use tower_claude_cache::{self as cache, CacheLayer};
#[cfg(feature = "circuit-breaker")]
pub use tower_claude_circuit_breaker::{self as circuit_breaker, CircuitBreakerLayer};
#[cfg(feature = "cloud")]
pub use tower_claude_cloud as cloud;
#[cfg(feature = "fallback-model")]
pub use tower_claude_fallback_model::{self as fallback_model, FallbackModelLayer};
#[cfg(feature = "header-budget")]
pub use tower_claude_header_budget::{self as header_budget, HeaderBudgetLayer};
#[cfg(any(feature = "header-budget", feature = "token-bucket"))]
pub use tower_claude_limiter::{self as limiter, Limiter, LimiterConfig, Limits, LocalLimiter};
#[cfg(feature = "prompt-cache")]
pub use tower_claude_prompt_cache::{self as prompt_cache, PromptCacheLayer};
#[cfg(feature = "retry")]
pub use tower_claude_retry::{self as retry, RetryLayer};
#[cfg(feature = "spread")]
pub use tower_claude_spread::{self as spread, SpreadLayer};
#[cfg(feature = "token-bucket")]
pub use tower_claude_token_bucket::{self as token_bucket, TokenBucketLayer};

#[cfg(feature = "event-log")]
pub use tower_claude_core::event_log;
#[cfg(feature = "metrics")]
pub use tower_claude_core::metrics;
pub use tower_claude_core::{
    self as core, Class, Cost, CredentialId, Deadline, DeadlineLayer, EstimateCost, HttpClassify,
    Kind, Priority, RejectReason, Rejection, RejectionLayer, RequestBody, Scope, Settle, Tenant,
    Tolerance, Workload, check, driver, estimate_fn, event,
};
pub use tower_claude_wire as wire;

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
