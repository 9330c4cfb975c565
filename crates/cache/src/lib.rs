//! Answers equal Claude requests once: from memory, or by sharing the call that is under way.
//!
//! ```
//! # use std::convert::Infallible;
//! # use bytes::Bytes; use http_body_util::Full;
//! # use http::{Request, Response};
//! use std::time::Duration;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_claude_cache::{CacheLayer, Cacheable};
//! use tower_claude_core::RequestBody;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let api = service_fn(|_: Request<RequestBody>| async {
//!     let answer = r#"{"model":"claude-sonnet-5-5","content":[],"stop_reason":"end_turn"}"#;
//!     let response = Response::builder().header("content-type", "application/json");
//!     Ok::<_, Infallible>(response.body(Full::new(Bytes::from(answer))).expect("valid"))
//! });
//!
//! let layer = CacheLayer::new(Duration::from_secs(300));
//! for expected in ["miss", "hit"] {
//!     let request = Request::post("https://api.anthropic.com/v1/messages")
//!         .extension(Cacheable::new()) // what is not marked passes through
//!         .body(RequestBody::from(r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[]}"#))?;
//!     let response = layer.layer(api).oneshot(request).await?;
//!     assert_eq!(response.headers()["x-tower-claude-cache"], expected);
//!     tower_claude_tests::read(response.into_body()).await; // stored at its end
//! }
//! assert_eq!(layer.handle().snapshot().hits, 1);
//! # Ok(())
//! # }
//! ```
//! # What it does
//! - Caches the Messages requests that are marked [`Cacheable`], and no others; `no-store` wins. Two are equal when
//!   tenant, credential, host, URI, `origin`, `anthropic-…` headers, kind of body and its fields are ([`Key`]), all but
//!   `metadata` and `service_tier`. `stream` counts: a stream is replayed frame for frame, JSON byte for byte. Equal requests
//!   under way share one call and its outcome, but no error that may be due to those two. [`CACHE`] says what was done.
//! - Stores whole answers of the asked model that ended with `end_turn` or a stop sequence, for their time ± 10 %, and
//!   an hour more to serve them, with `age`, in place of 5xx, timeouts, broken connections and local refusals.
//!
//! # Where it goes
//! Outermost: a hit then costs nothing further in.
//!
//! # Readiness, clones, cancellation
//! Always ready; nothing happens before the first poll. A miss waits for the inner service on a clone of its own. Store,
//! flights and counters live in the layer. A caller that gives up before the head is replaced by the next who waits, with a call of its own; after the head,
//! whoever still reads drives the same body on. With the last one the call ends, unless the layer is
//! [`detached`](CacheLayer::detached). Who waits keeps its own deadline. The response body alone must be `'static`.
//!
//! # Streaming
//! Frames go out as they come, at the pace of the fastest reader. One answer takes 4 MiB of memory at most; of longer
//! ones a window is kept: who falls out of it gets an `error` event, who comes then begins a call anew.
//!
//! # What it never does
//! Store unasked, or errors, refusals, fallbacks, what was cut short or had side effects; tell credential, prompt or
//! tenant in a key or a log. Who is known by other headers needs a [key header](CacheLayer::with_key_header).
#![forbid(unsafe_code)]

mod answer;
mod body;
mod call;
mod config;
mod detach;
mod flight;
mod future;
mod handle;
mod layer;
mod lookup;
mod request;
mod service;
mod store;
#[cfg(test)]
mod tests;

const LAYER: &str = "cache";

pub use answer::head::CACHE;
pub use body::Body;
pub use detach::{Detach, Inline, Spawn};
pub use flight::fill::Fill;
pub use future::ResponseFuture;
pub use handle::{CacheHandle, CacheSnapshot};
pub use layer::CacheLayer;
pub use request::{key::Key, policy::Cacheable};
pub use service::Cache;
pub use store::{
    Store,
    entry::{Entry, EntryParts, Freshness},
    memory::MemoryStore,
};
