//! Learns from the rate-limit headers of the Claude API what is left, and keeps to it.
//!
//! ```
//! use http::Request;
//! use tower::{Layer, ServiceExt};
//! use tower_claude_core::RequestBody;
//! use tower_claude_fake_claude::FakeClaude;
//! use tower_claude_header_budget::HeaderBudgetLayer;
//! use tower_claude_limiter::Limiter;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = HeaderBudgetLayer::new(); // nothing to configure
//! let claude = layer.layer(FakeClaude::builder().build()); // or a hyper or reqwest client
//!
//! let request = Request::post("http://localhost/v1/messages")
//!     .header("x-api-key", "key")
//!     .header("anthropic-version", "2023-06-01")
//!     .header("content-type", "application/json")
//!     .body(RequestBody::from(
//!         r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#,
//!     ))?;
//! let response = claude.oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! # drop(response);
//! for scope in layer.handle().snapshot() {
//!     println!("{scope:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! Reads every family of [rate-limit headers](https://platform.claude.com/docs/en/api/rate-limits) from
//! every response and corrects the books of a limiter by them: limits, up and down, and the level, within
//! what requests in flight leave certain. Priority and unified headers are shown in the headroom event
//! and never paced by; `tokens-*`, the tightest token limit of the moment, is paced by only where the
//! input and output families are absent. A 429 pauses the scope for everybody. Each response makes a
//! headroom event (DEBUG); a limit of which 80 % is used makes one warning until it has recovered.
//!
//! Alone it also admits: until the first headers it lets
//! [8 requests](tower_claude_limiter::LimiterConfig::INITIAL_CONCURRENCY) out and doubles that with each answer, then it
//! enforces what it has learned, with the queue and the refusals of `TokenBucketLayer`.
//!
//! # Where it goes
//! Innermost, around the HTTP client: it must see every real response. With a `TokenBucketLayer` around
//! it, share the limiter: `HeaderBudgetLayer::over(token_bucket.limiter())`. The outer layer then admits
//! and settles, this one corrects. Over a limiter of its own it admits for itself, wherever it is.
//!
//! # Readiness
//! Always ready: what a request costs is not known before it is there. An outer `LoadShed` therefore
//! sees no pressure; the bounded queue and `max_wait` take its place. Nothing happens before the first
//! poll of the future: it admits, then waits until the inner service is ready, then calls it.
//!
//! # Clone
//! The limiter lives in the layer. All services made by a layer, by its clones, and by repeated calls
//! of `layer()` share it; a second `new` is a second limiter.
//!
//! # Cancellation
//! Dropping the future before the request was sent gives everything back; after that the request
//! and its input stay paid, since the server has probably counted them, and the output not yet produced
//! comes back. A waiter that is dropped leaves the queue and wakes the next.
//!
//! # Streaming
//! Headers come with the head; the body is looked into only where this layer admitted the request, to
//! settle it at its end.
//!
//! # What it never does
//! Change a request or a response; retry; believe a header beyond reason: a limit of 0 and malformed
//! values are ignored, a limit that only a header named holds nothing back for longer than 5 minutes, an
//! inferred pause ends after 5 minutes too, an explicit `retry-after` with its jitter after 1 hour. Nor does
//! it return an error of its own, box a future or spawn a task.
#![forbid(unsafe_code)]

mod layer;

pub use layer::HeaderBudgetLayer;

/// The service of a [`HeaderBudgetLayer`]: a gate over its limiter.
pub type HeaderBudget<S, L, E, C> =
    tower_claude_core::driver::Driven<S, (), tower_claude_limiter::LimitPolicy<L, E, C>, C>;

/// The name of the layer in events and in `x-tower-claude-refused-by`.
pub const NAME: &str = "header-budget";
