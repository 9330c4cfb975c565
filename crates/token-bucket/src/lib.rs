//! A layer that paces requests and tokens to the Claude API, so that the API need not reject them.
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
//!
//! The layer estimates the cost of a request and waits in a fair queue until every limit of its
//! [scope](tower_claude_core::Scope) has room for it. It then sends the request, and settles the
//! reservation by the usage in the response. A 429 pauses the scope for all requests, and the
//! rejected request gets its reservation back.
//!
//! Usage beyond what the request can have caused is charged as its
//! [bound](tower_claude_core::UsageBound), teaches nothing, and is reported by a `usage_capped`
//! event, once for each scope. Usage beyond the estimates holds requests back for at most 5
//! minutes.
//!
//! A request is rejected at once, in Claude's own error shape, in these cases:
//!
//! | case | status |
//! |---|---|
//! | the queue is full (by number or bytes) and no other tenant or class waits for more, or the wait would exceed [`with_max_wait`](TokenBucketLayer::with_max_wait) | 429 |
//! | the wait would exceed the [`Deadline`](tower_claude_core::Deadline) | 504 |
//! | the counted size is over a limit (the message names both numbers and the way out) | 413 |
//!
//! `retry-after` is set if the wait can be foreseen.
//!
//! An estimate never rejects for good. A request whose estimate is over a limit waits until the
//! limit is unused, and is sent. If the server refuses that size twice in a row, it is rejected for
//! 5 minutes before it is tried again.
//!
//! Input tokens are estimated by the length and the structure of the text and the tokenizer of the
//! model, images and documents roughly by the size of their data, less the expected cache reads.
//! Responses correct the estimate by an offset, which is the input beside the text, and a slope.
//! Both are learned by workload, tokenizer and presence of images, and one odd response hardly
//! changes them. `docs/measurements.md` has the errors that remain, and
//! [`ScopeSnapshot::estimates`](tower_claude_limiter::ScopeSnapshot::estimates) those of each
//! workload. Near a limit,
//! [`near_limit_percentile`](tower_claude_limiter::LimiterConfig::near_limit_percentile) can charge
//! more than is expected, and [`CountTokensLayer`] replaces the estimate by the count of the API.
//! Output tokens are the running mean of actual output, and never `max_tokens`, which [the API does
//! not count](https://platform.claude.com/docs/en/api/rate-limits). Both are learned by
//! [`Workload`](tower_claude_core::Workload). A body that is not JSON, names no model or is too
//! long costs one request.
//!
//! The cost of a [closure](TokenBucketLayer::with_estimate) is in units of its own. It is charged
//! as it is, and no usage in the response changes it.
//!
//! # Where it goes
//!
//! Inside a retry layer, so that every attempt is charged. Around `HeaderBudgetLayer`, which
//! corrects this layer by the rate-limit headers. Both must share the limiter:
//! `HeaderBudgetLayer::over(token_bucket.limiter())`. Alone, the layer enforces the configured
//! limits. With a header budget, the smaller of the configured limit and that of the server holds.
//! A hedging layer goes around all of these layers, because copies of one call share a
//! reservation.
//!
//! # Readiness
//!
//! Always ready, because the cost of a request is not known before the call. An outer `LoadShed`
//! sees no pressure. The bounded queue and the longest wait take its place. The call admits the
//! request, waits until the inner service is ready, and then calls it.
//!
//! # Clone
//!
//! The limiter belongs to the layer. Clones of the layer and all its services share it. A second
//! `new` creates a second limiter.
//!
//! # Cancellation
//!
//! Dropping the future before the request was sent gives everything back. After that, the request
//! and its input stay charged, because the server has probably counted them, and output not yet
//! produced is given back. A waiting request that is dropped wakes the next.
//!
//! # Streaming
//!
//! A reservation ends with the body. The input is corrected at `message_start`, and the output
//! grows as it is produced. The rest is settled at `message_stop`, at an error, or when the body is
//! dropped. A compressed body is not parsed, so its estimate stays.
//!
//! # Limits
//!
//! The layer changes no request or response, does not retry, and does not read rate-limit headers.
//! It returns no error of its own, boxes no future of the inner service, spawns no task, and holds
//! nothing for a call that is dropped.
#![forbid(unsafe_code)]

mod count_tokens;

use tower_claude_core::{ClaudeClassify, HeuristicCost, driver::Driver};
use tower_claude_limiter::{LimitKind, LimitLayer, LimitPolicy, LocalLimiter, TokenBucketKind};

pub use count_tokens::{CountTokens, CountTokensFuture, CountTokensLayer};

/// A layer that paces requests and tokens by configured limits. See the [crate page](crate).
pub type TokenBucketLayer<L = LocalLimiter, E = HeuristicCost, C = ClaudeClassify> =
    LimitLayer<TokenBucketKind, L, E, C>;

/// The service of a [`TokenBucketLayer`].
pub type TokenBucket<S, L = LocalLimiter, E = HeuristicCost, C = ClaudeClassify> =
    Driver<S, (), LimitPolicy<L, E>, C>;

/// The name of the layer in events and in `x-tower-claude-refused-by`.
pub const NAME: &str = TokenBucketKind::NAME;

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
