//! A layer that learns from the rate-limit headers of the Claude API and keeps within the limits.
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
//!
//! The layer reads every family of [rate-limit
//! headers](https://platform.claude.com/docs/en/api/rate-limits) from responses, and corrects a
//! limiter by them. A success is skipped if the last head that was read is less than 100 ms old and
//! its levels were all at least half of their limits. A changed limit is then learned at most 100
//! ms later. All other responses are read, and every response if headroom events are enabled.
//! Limits follow the headers up and down. Levels follow them within the uncertainty of the requests
//! in flight. Priority and unified headers appear in the headroom event but do not limit. The
//! `tokens-*` headers show whichever token limit is tightest, and limit only if the input and
//! output families are absent. A 429 pauses the scope for all requests. Each response emits a
//! headroom event (DEBUG). A limit that is used to 80 % emits one warning until it has recovered.
//!
//! A server may name no limits, or enforce others. The rate of requests is then learned from the
//! times of 429s that no header explains: it rises by a little with each success, and falls by more
//! with each 429. After such a 429 a single request is sent first. Levels of zero that successes
//! contradict are ignored.
//!
//! Alone, the layer also admits. Until the first headers arrive, it lets out [8
//! requests](tower_claude_limiter::LimiterConfig::INITIAL_CONCURRENCY) and one more with each
//! response that shows that the server took its request: the head of a success, or a 400. Then it
//! enforces the limits that it has learned, with the queue and the rejections of
//! `TokenBucketLayer`.
//!
//! # Where it goes
//!
//! Innermost, around the HTTP client, where it sees every real response. With a `TokenBucketLayer`
//! around it, both must share the limiter: `HeaderBudgetLayer::over(token_bucket.limiter())`. The
//! outer layer then admits and settles, and this layer corrects. Over a limiter of its own it
//! always admits by itself.
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
//! produced is given back. A waiting request that is dropped leaves the queue and wakes the next.
//!
//! # Streaming
//!
//! Headers arrive with the head. The usage in the body is used only if this layer has admitted the
//! request, to settle it at the end.
//!
//! # Limits
//!
//! A limit of 0 and malformed values are ignored. A limit known only from headers holds requests
//! back for at most 5 minutes. A pause without `retry-after` ends after at most 5 minutes, and one
//! with it, including its jitter, after at most 1 hour. The layer changes no request or response,
//! does not retry, returns no error of its own, boxes no future of the inner service and spawns no
//! task.
#![forbid(unsafe_code)]

use tower_claude_core::{ClaudeClassify, HeuristicCost, driver::Driver};
use tower_claude_limiter::{HeaderBudgetKind, LimitKind, LimitLayer, LimitPolicy, LocalLimiter};

/// A layer that learns limits and levels from response headers. See the [crate page](crate).
pub type HeaderBudgetLayer<L = LocalLimiter, E = HeuristicCost, C = ClaudeClassify> =
    LimitLayer<HeaderBudgetKind, L, E, C>;

/// The service of a [`HeaderBudgetLayer`].
pub type HeaderBudget<S, L = LocalLimiter, E = HeuristicCost, C = ClaudeClassify> =
    Driver<S, (), LimitPolicy<L, E>, C>;

/// The name of the layer in events and in `x-tower-claude-refused-by`.
pub const NAME: &str = HeaderBudgetKind::NAME;

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
