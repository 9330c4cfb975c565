//! Answers equal Claude requests once: from memory, or by sharing the call that is under way.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_claude_cache::{CacheLayer, Cacheable};
//! use tower_claude_core::RequestBody;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let api = service_fn(|_: Request<RequestBody>| async {
//!     let answer = r#"{"model":"claude-sonnet-5-5","content":[],"stop_reason":"end_turn"}"#;
//!     let response = Response::builder().header("content-type", "application/json");
//!     Ok::<_, Infallible>(response.body(Full::new(Bytes::from(answer))).expect("valid"))
//! });
//!
//! let layer = CacheLayer::new(Duration::from_secs(300));
//! let handle = layer.handle();
//! for expected in ["miss", "hit"] {
//!     let request = Request::post("https://api.anthropic.com/v1/messages")
//!         .extension(Cacheable::new()) // what is not marked passes through
//!         .body(RequestBody::from(r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[]}"#))?;
//!     let response = layer.layer(api).oneshot(request).await?;
//!     assert_eq!(response.headers()["x-tower-claude-cache"], expected);
//!     let (_answer, _, _) = tower_claude_tests::read(response.into_body()).await; // stored at its end
//! }
//! assert_eq!(handle.snapshot().hits, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! - Caches the Messages requests that are marked [`Cacheable`], and no others; `no-store` wins. Two are equal when
//!   tenant, credential, URI, version, betas and the fields of the body are ([`Key`]); `metadata` and `service_tier`
//!   aside. `stream` counts: a stream is replayed frame for frame, JSON byte for byte.
//! - Stores whole answers of the asked model that ended with `end_turn` or a stop sequence, and nothing else.
//! - Serves them for their time ± 10 %; for an hour more in place of 5xx, timeouts, broken connections and local
//!   refusals, with `age`.
//! - Lets equal requests under way share one call and what comes of it, an error too. Errors are never stored.
//! - Labels what it was asked for: [`CACHE`] is `hit`, `stale`, `miss` or `bypass`.
//!
//! # Where it goes
//! Outermost: a hit then costs nothing further in. No layer outside may change what a request means after the key is made.
//!
//! # Readiness, clones, cancellation
//! Always ready; a miss waits for the inner service on a clone of its own. Store, flights and counters live in the layer.
//! A caller that gives up before the head is replaced by the next who waits, with a call of its own; after the head,
//! whoever still reads drives the same body on. With the last one the call ends, unless the layer is
//! [`detached`](CacheLayer::detached). Who waits keeps its own deadline. The service needs no `'static`; its response body
//! does, since it may outlive the caller that it was for.
//!
//! # Streaming
//! Frames go out as they come, to all, at the pace of the fastest reader. One answer takes 4 MiB at most while it is
//! recorded; of longer ones a window is kept, and who falls out of it gets an `error` event.
//!
//! # What it never does
//! Cache unasked; store errors, refusals, fallbacks, or what was cut short or had side effects; tell a credential, prompt
//! or tenant in a key or a log. Who is told apart by other headers than the usual ones must have a
//! [`Tenant`](tower_claude_core::Tenant) or a [key header](CacheLayer::with_key_header).
#![forbid(unsafe_code)]

mod answer;
mod body;
mod call;
mod canonical;
mod config;
mod detach;
mod entry;
mod fill;
mod flight;
mod flying;
mod future;
mod handle;
mod head;
mod key;
mod layer;
mod memory;
mod policy;
mod recording;
mod seat;
mod service;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod wakers;

use http::HeaderName;

/// The name in events, refusals and logs.
const LAYER: &str = "cache";

/// Says what the cache did for a response: `hit` (stored, or shared with an equal request), `stale`, `miss`, or
/// `bypass`. Absent where the cache was not asked for.
pub const CACHE: HeaderName = HeaderName::from_static("x-tower-claude-cache");

/// On the answer of another model than the one that was asked; such an answer is not stored.
const SERVED_MODEL: HeaderName = HeaderName::from_static("x-tower-claude-served-model");

pub use body::Body;
pub use detach::{Detach, Inline, Spawn};
pub use entry::{Entry, EntryParts, Freshness};
pub use fill::Fill;
pub use future::ResponseFuture;
pub use handle::{CacheHandle, CacheSnapshot};
pub use key::Key;
pub use layer::CacheLayer;
pub use memory::MemoryStore;
pub use policy::Cacheable;
pub use service::Cache;
pub use store::Store;
