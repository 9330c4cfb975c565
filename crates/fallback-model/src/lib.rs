//! Sends a Claude request to another model when the one asked for cannot serve it, and says so.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_claude_core::RequestBody;
//! use tower_claude_fallback_model::{FallbackModelLayer, ServedBy};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let api = service_fn(|request: Request<RequestBody>| async move {
//!     // Opus is overloaded, the others are well.
//!     let status = if request.body().model() == Some("claude-opus-5-5") { 529 } else { 200 };
//!     let response = Response::builder().status(status);
//!     Ok::<_, Infallible>(response.body(Full::new(Bytes::from("{}"))).expect("valid"))
//! });
//!
//! let layer = FallbackModelLayer::new(["claude-sonnet-5-5", "claude-haiku-5-5"]);
//! let request = Request::post("https://api.anthropic.com/v1/messages").body(RequestBody::from(
//!     r#"{"model":"claude-opus-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#,
//! ))?;
//! let response = layer.layer(api).oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(response.headers()["x-tower-claude-served-model"], "claude-sonnet-5-5");
//! let served = response.extensions().get::<ServedBy>().expect("another model served");
//! assert_eq!((served.why.kind.as_str(), served.hops), ("overloaded", 2));
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! - Falls back for overload, 5xx, timeouts, broken connections, streams cut before content, retired models (404), refusals
//!   of the layers inside; for 429s only to another rate group; for declined answers and spend limits where asked to. Not
//!   for other 4xx or credentials; what one stand-in rejects the next may take. Messages requests only.
//! - [Rewrites](fn@rewrite) the original request for each model; passes over one that cannot be asked this.
//! - Sticks for the outage: after three failures requests go straight to the stand-in, and one real request per
//!   cool-down, its stand-in ready, finds out if the model is back. A 429 counts against credential and rate group.
//! - When all are out, asks the one that will be back first. No stand-in that never answers so fast as the deadline asks.
//! - Says who served, why and what was lost: [`ServedBy`] and three headers, `FellBack` events, [`FallbackHandle`].
//!
//! # Where it goes
//! Outside retry, inside a cache. The attempts that a retry layer makes inside are counted over all models, with one at
//! least for each. It has no timers: it acts on those of the retry layer.
//!
//! # Readiness, clones, cancellation
//! Always ready; nothing happens before the first poll. Each attempt waits for the inner service itself, the first on the
//! service that is called, the others on clones. What is known of outages lives
//! in the layer and is shared by its clones and services. A failed response is dropped before the next request is made;
//! dropping the future drops all, and a probe given up so tells nothing.
//!
//! # Streaming
//! A stream is held until its first content event, a JSON answer until it is whole (64 KiB at most). After that the
//! response passes through unwatched: what breaks later is the caller's to see, and the breaker's to count.
//!
//! # What it never does
//! Fall back after content has reached the caller; rewrite a rewritten request; send a prompt to another credential or
//! host; switch silently; retry the same model; keep a declined answer for when the stand-ins fail; log a body or a key.
#![forbid(unsafe_code)]

mod call;
mod chains;
mod future;
mod handle;
mod journey;
mod last;
mod layer;
mod outage;
mod policy;
mod rewrite;
mod route;
mod served;
mod service;
mod stage;
#[cfg(test)]
mod tests;
mod ticket;

/// The name in events and logs.
const LAYER: &str = "fallback-model";

pub use future::ResponseFuture;
pub use handle::{FallbackHandle, FallbackSnapshot, PoolSnapshot, TargetSnapshot};
pub use last::{LAST_MESSAGE, LastResort};
pub use layer::FallbackModelLayer;
pub use rewrite::{Loss, Losses, RewriteOptions, Rewritten, Unportable, Why, rewrite};
pub use served::{FALLBACK_LOSSES, FALLBACK_REASON, SERVED_MODEL, ServedBy};
pub use service::FallbackModel;
#[doc(hidden)]
pub use stage::{FallbackPolicy, FallbackState};
