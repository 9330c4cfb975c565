//! A layer that places the breakpoints of the [prompt cache] where they pay, and that measures what
//! they save.
//!
//! ```
//! use bytes::Bytes;
//! use tower::{Layer, ServiceExt};
//! use tower_claude_core::RequestBody;
//! use tower_claude_fake_claude::FakeClaude;
//! use tower_claude_prompt_cache::PromptCacheLayer;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = FakeClaude::builder().build(); // or a hyper or reqwest client
//! let layer = PromptCacheLayer::new();
//! let claude = layer.layer(client);
//!
//! let system = "Answer by the following rules. ".repeat(400);
//! for question in ["Who?", "Where?", "When?", "Why?"] {
//!     let body = format!(
//!         r#"{{"model":"claude-sonnet-5-5","max_tokens":64,"system":"{system}",
//!             "messages":[{{"role":"user","content":"{question}"}}]}}"#
//!     );
//!     let request = http::Request::post("https://api.anthropic.com/v1/messages")
//!         .header("x-api-key", "key")
//!         .header("anthropic-version", "2023-06-01")
//!         .body(RequestBody::from(Bytes::from(body)))?;
//!     claude.clone().oneshot(request).await?;
//! }
//! // The second request showed that the system prompt comes again. The third one reads it.
//! let snapshot = layer.handle().snapshot();
//! assert!(snapshot.usage.read > 0);
//! println!("saved {}", snapshot.saved); // saved $0.0116886
//! # Ok(())
//! # }
//! ```
//!
//! [prompt cache]: https://platform.claude.com/docs/en/build-with-claude/prompt-caching
//!
//! # What it does
//! - Recognises the prefixes of prompts by keyed hashes: the tools, each block of the system
//!   prompt, each leading block of the first message, and the whole prompt. It learns how often
//!   such prefixes come again within five minutes and within an hour, from the prefix itself, from
//!   its class (the same place on the same route), and from its kind (the same place in prompts of
//!   the same shape).
//! - Marks the deepest prefix that comes again often enough to pay for its writing, and the ones
//!   before it, which then cost nothing more. Prompts that never come again stay as they are. The
//!   API's automatic marker makes them a quarter dearer.
//! - Requests the lifetime of one hour where that saves more than its higher price.
//! - Holds a request while another one writes the same prefix (the cold-cache gate). A prefix can
//!   be read once the response of its writer has begun. The wait is at most 3 s, and nothing waits
//!   where first contents take longer.
//! - Compares each usage with what it expected. A class whose reads do not come is trusted less. A
//!   class that has lost money over a hundred requests is not marked for an hour, and an event
//!   reports it.
//! - Names the [cause](MissCause) for which a cached prefix of a conversation was not read, with
//!   the first block that has changed.
//! - Renews prefixes in pauses, if [`with_keep_alive`](PromptCacheLayer::with_keep_alive) switches
//!   that on.
//!
//! The layer inserts `cache_control` and changes no other byte, except that a text written as a
//! string becomes a block of text, because a string takes no marker. Each body has at most four
//! markers, whose lifetimes never grow from one to the next.
//!
//! # Where it goes
//! Inside the retry layer, so that each attempt is marked, and outside the limiters, so that they
//! expect what an attempt reads: reads do not count against the input limit. In the recommended
//! stack it is switched on by `with_prompt_cache()`.
//!
//! # Readiness
//! The service is always ready. A call waits at the gate and for the inner service itself.
//!
//! # Clones
//! The history lives in the layer. Its clones and services share it. Other processes have a history
//! of their own, and no gate holds requests of two processes.
//!
//! # Cancellation
//! A dropped follower leaves the gate. When a leader is dropped or fails, one of its followers
//! leads. An attempt that failed before its first content counts as no use of its prompt.
//!
//! # Streaming
//! The first content of a stream releases the followers. A JSON response does so with its head.
//! The usage is read at the end of the body.
//!
//! # Limits
//! - Bodies with breakpoints of the caller stay as they are ([`Existing::Complete`] fills their
//!   free slots). They are followed, and their misses are named.
//! - Requests for a model without known prices and minimum, to paths that name the model, of
//!   message threads, and to other endpoints pass untouched. See [`PromptCacheLayer::with_rules`].
//! - Only the end of a block takes a marker. If a document and a question are one text, the
//!   document is not cached.
//! - The order of tools and blocks is never changed, because the model sees it.
//!   [`MissCause::ToolOrder`] reports what an unstable order costs.
//! - The history keeps 65,536 prefixes, 8,192 classes and 1,024 conversations, in about 20 MB at
//!   most.
#![forbid(unsafe_code)]
mod gate;
mod handle;
mod history;
mod keep_alive;
mod kept;
mod layer;
mod miss;
mod options;
mod outline;
mod plan;
mod planner;
mod policy;
mod reuse;
mod rules;
mod shared;
mod snapshot;
mod usage;
pub use handle::PromptCacheHandle;
pub use history::ClassSnapshot;
pub use keep_alive::KeepAliveDriver;
pub use layer::{PromptCache, PromptCacheLayer};
pub use miss::MissCause;
pub use options::{Existing, PlannerOptions};
pub use outline::{Boundary, Outline, OutlineBlock};
pub use plan::{Marker, Plan};
pub use planner::{GateState, Learned, Planner, Started};
pub use policy::{PromptCacheAttempt, PromptCachePolicy};
pub use rules::CacheRules;
pub use snapshot::{MissCounts, PromptCacheSnapshot};
pub use usage::CacheUsage;

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
