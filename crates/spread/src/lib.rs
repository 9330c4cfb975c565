//! A layer that spreads requests over several clouds, regions and accounts, and that keeps each
//! conversation where its prompt is cached.
//!
//! ```
//! use tower::{Layer, ServiceExt};
//! use tower_claude_core::RequestBody;
//! use tower_claude_fake_claude::FakeClaude;
//! use tower_claude_retry::RetryLayer;
//! use tower_claude_spread::{Route, SpreadLayer};
//! use tower_claude_wire::cloud::{Profile, Target};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = FakeClaude::builder().build(); // or the cloud layer over a client
//! let spread = SpreadLayer::new([
//!     Target::claude_api(),
//!     Target::bedrock("us-west-2")?.with_profile(Profile::Us)?,
//!     Target::vertex("my-project", "global")?,
//! ]);
//! let claude = RetryLayer::new().layer(spread.layer(client));
//!
//! let body = r#"{"model":"claude-sonnet-5-5","max_tokens":64,
//!     "messages":[{"role":"user","content":"Hi"}]}"#;
//! let request = http::Request::post("https://api.anthropic.com/v1/messages")
//!     .header("x-api-key", "key")
//!     .header("anthropic-version", "2023-06-01")
//!     .body(RequestBody::from(body))?;
//! let response = claude.oneshot(request).await?;
//! let route = response.extensions().get::<Route>().expect("inserted by the layer");
//! println!("served by {}", route.target); // one of the cheapest two, such as vertex/global
//! println!("{:#?}", spread.handle().snapshot()); // attempts, failures, cool-downs, learned limits
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! - Chooses the target of each attempt by its expected cost: the price of the tokens there, cache
//!   reads included, and the price of the expected wait ([`Spreader`] has the formula). The price
//!   of cache reads keeps a conversation where its prompt is cached, until waiting would cost more
//!   than to write the prompt anew.
//! - Assigns new conversations by a weighted hash of the tools, the system prompt and the first
//!   message, so that conversations with one system prompt are divided.
//! - Leaves out targets that cannot serve a request, are not in an allowed area
//!   ([`Residency`]), or have failed lately. A cool-down ends with one request as a probe.
//! - Keeps a conversation at its account if its thinking is [bound to the
//!   account](#thinking-that-is-bound-to-an-account).
//! - Learns the limits of targets from rate-limit headers. Where there are none, it learns them
//!   from 429s: a 429 cuts the limit to 85 % of the last minute's use, and the limit grows by 2 %
//!   in each minute in which it is used, and to what a later minute has used without a 429.
//!   [`TargetLimits`] sets them.
//! - Reports the target in the header [`TARGET`], in the extension [`Route`], and in an event that
//!   names each target that was left out, with the reason.
//!
//! It sets the host of the request, inserts the [`Target`] and a
//! [`CredentialId`](tower_claude_core::CredentialId) of the target into its extensions, and changes
//! nothing else. Limits, circuits and caches of inner layers are therefore those of the target. The
//! layer of `tower-claude-cloud` translates and signs the request. Without it, all targets must
//! take requests of the Claude API and the headers of the caller.
//!
//! [`Target`]: tower_claude_wire::cloud::Target
//!
//! # Where it goes
//! Directly inside the retry layer, and outside the prompt cache, the circuit breaker and the
//! limiters. Retry sends a failed request to another target at once, whatever the failed one asked
//! for. That holds for rejections by inner layers as well, such as an open circuit. Fallback is
//! outside of both: the same model elsewhere comes before another model. Without a retry layer each
//! call has one attempt.
//!
//! Each target gets a call once. When all of them have failed, the retry layer waits for the
//! soonest and begins a second round, within its number of attempts. The caller gets the last
//! failure.
//!
//! # Thinking that is bound to an account
//! Thinking blocks of some models can be read by the account that made them only. The API drops
//! them in another one without an error. A conversation with such thinking stays at the targets of
//! its account, even if that means to wait or to fail. The account is known from the turn that it
//! answered, which is remembered for 65,536 prompts. If it is not, for instance after a restart,
//! all processes assume the same account for a conversation, and [`Binding::Assumed`] reports it.
//! Insert a [`ThinkingAccount`] into the request to name the right one.
//!
//! # Readiness
//! The service is always ready. If the server has paused all targets, a call waits for the first
//! one, for [60 s](SpreadLayer::with_max_wait) and until its deadline at most. Where it would wait
//! longer, it is rejected with the `retry-after` of the server. A pause that is only guessed delays
//! a request and never rejects it.
//!
//! # Clones
//! All that was learned lives in the layer. Its clones and services share it. Other processes learn
//! by themselves, and assign new conversations in the same way.
//!
//! # Cancellation
//! A dropped call gives back what it holds: the estimated use of limits, and its place as a probe.
//! A probe that never ends makes way for another one after a minute.
//!
//! # Streaming
//! The head of a success ends a cool-down. A stream that fails before its first content is sent to
//! another target by the retry layer. A later failure counts against the target.
//!
//! # Limits
//! - `POST` requests to Messages and to token counting are spread. All others pass untouched.
//! - A body that is not buffered, or is no JSON object, goes to a target of the Messages API.
//! - The thinking of a model that the catalog does not list counts as bound.
//! - Files, containers and message threads exist in one account. Name it in a [`Residency`] for
//!   requests that use them.
//! - Two conversations whose prompts were equal up to the thinking have one entry, and the last
//!   answer counts.
//! - The estimate of limits orders targets only. Put a limiter inside to keep to limits.
//! - At most 10,000 calls wait. Per target, 4,096 cached prefixes and 256 groups of models are
//!   known, with a group for each caller where the target takes the credentials of callers.
#![forbid(unsafe_code)]

mod accounts;
mod conversation;
mod handle;
mod headroom;
mod health;
mod layer;
mod options;
mod policy;
mod request;
mod shared;
mod skip;
mod snapshot;
mod spreader;
#[cfg(test)]
mod tests;

pub use conversation::Conversation;
pub use handle::SpreadHandle;
pub use layer::{Spread, SpreadLayer};
pub use options::{SpreadOptions, SpreadTarget, TargetLimits};
pub use policy::{SpreadAttempt, SpreadPolicy};
pub use request::{Residency, Route, TARGET, ThinkingAccount};
pub use skip::Skip;
pub use snapshot::{CoolDownSnapshot, SpreadSnapshot, TargetSnapshot};
pub use spreader::{Binding, Choice, Lease, Reason, SpreadRequest, Spreader, Tried};

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
