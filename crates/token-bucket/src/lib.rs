//! Paces requests and tokens to the Claude API before it has to refuse them.
//!
//! ```
//! use std::num::NonZeroU64;
//! use http::Request;
//! use tower::{Layer, ServiceExt};
//! use tower_claude_core::RequestBody;
//! use tower_claude_fake_claude::FakeClaude;
//! use tower_claude_limiter::{Limiter, Limits};
//! use tower_claude_token_bucket::TokenBucketLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let per_minute = |n| NonZeroU64::new(n).expect("more than 0");
//! let layer = TokenBucketLayer::new(
//!     Limits::unlimited()
//!         .with_requests_per_minute(per_minute(1_000))
//!         .with_input_tokens_per_minute(per_minute(2_000_000))
//!         .with_output_tokens_per_minute(per_minute(400_000)),
//! );
//! let claude = layer.layer(FakeClaude::builder().build()); // or a hyper or reqwest client
//!
//! let request = Request::post("http://localhost/v1/messages")
//!     .header("x-api-key", "key")
//!     .header("anthropic-version", "2023-06-01")
//!     .body(RequestBody::from(
//!         r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#,
//!     ))?;
//! let response = claude.oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(layer.handle().snapshot().len(), 1); // one scope: this key, Messages, Sonnet 5.5
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! Estimates what a request will cost, waits in a fair queue until every limit of its
//! [scope](tower_claude_core::Scope) has room for all of it at once, sends it, and settles the reservation by what
//! the answer says it used. A 429 pauses the scope for everybody; the request that met it gets its reservation
//! back. A request that would wait longer than [`max_wait`](TokenBucketLayer::with_max_wait) or than its
//! [`Deadline`](tower_claude_core::Deadline), or for which the queue is full, is refused at once with a 429 or 504
//! in Claude's own error shape, with `retry-after` where the wait can be foreseen; one that can never fit a limit
//! with a 413 that names the limit and both numbers.
//!
//! The cost: input tokens by text length and tokenizer of the model, images and documents roughly by their data, less
//! expected cache reads, corrected by the running ratio of actual to estimated, or [counted](CountTokensLayer) by the
//! API; output tokens by a running mean of what answers use, never `max_tokens`, which [the API does not
//! count](https://platform.claude.com/docs/en/api/rate-limits); both learned by
//! [`Workload`](tower_claude_core::Workload). A body that is not JSON, names no model or is too long costs one request.
//!
//! # Where it goes
//! Inside a retry layer, so that every attempt pays; around `HeaderBudgetLayer`, which then corrects this layer's
//! books by what the server says: share the limiter, `HeaderBudgetLayer::over(token_bucket.limiter())`. Alone it
//! enforces the configured limits. A hedge goes around all of these layers: copies of one call share a reservation.
//!
//! # Readiness
//! Always ready: what a request costs is not known before it is there. An outer `LoadShed` therefore sees no
//! pressure; the bounded queue and `max_wait` take its place. Nothing happens before the first poll of the
//! future: it admits, then waits until the inner service is ready, then calls it.
//!
//! # Clone
//! The limiter lives in the layer. All services made by a layer, by its clones, and by repeated calls of `layer()`
//! share it; a second `new` is a second limiter.
//!
//! # Cancellation
//! Dropping the future before the request was sent gives everything back; after that the request and its input
//! stay paid (the server has probably counted them) and the output not yet produced comes back. A waiter that is
//! dropped wakes the next.
//!
//! # Streaming
//! A reservation ends with the body, not with the head: the input is trued up at `message_start`, the output grows
//! with what was produced, and the rest is settled at `message_stop`, at an error, or when the body is dropped.
//! Compressed bodies are not looked into; their estimate stays.
//!
//! # What it never does
//! Change a request or a response; retry; read rate-limit headers (`HeaderBudgetLayer` does); return an error of
//! its own; box a future or spawn a task; hold anything while the caller does not poll.
#![forbid(unsafe_code)]

mod count;
mod layer;

pub use count::{CountTokens, CountTokensFuture, CountTokensLayer};
pub use layer::TokenBucketLayer;

/// The service of a [`TokenBucketLayer`]: a gate over its limiter.
pub type TokenBucket<S, L, E, C> =
    tower_claude_core::driver::Driven<S, (), tower_claude_limiter::LimitPolicy<L, E, C>, C>;

/// The name of the layer in events and in `x-tower-claude-refused-by`.
pub const NAME: &str = "token-bucket";
