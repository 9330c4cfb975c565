//! A Tower layer that answers equal Claude requests once, from memory or from a call in flight.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
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
//!         .header("x-api-key", "key") // callers with other keys get other responses
//!         .extension(Cacheable::new()) // without the mark it passes through
//!         .body(RequestBody::from(r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[]}"#))?;
//!     let response = layer.layer(api).oneshot(request).await?;
//!     assert_eq!(response.headers()["x-tower-claude-cache"], expected);
//!     response.into_body().collect().await?; // stored when it ends
//! }
//! assert_eq!(layer.handle().snapshot().hits, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! * **Selects.** Only Messages requests that are marked [`Cacheable`] use the cache, and
//!   `cache-control: no-store` wins over the mark. A marked request without a known credential
//!   [bypasses](CacheLayer::with_anonymous) the cache, and so does a marked request to another
//!   service. All other requests pass through. The header [`CACHE`] reports what was done.
//! * **Compares.** Two requests are equal if tenant,
//!   [credential](tower_claude_core::Scope::credential_of), host, URI, `origin`, `anthropic-`
//!   headers, content type and all body fields are equal, except `metadata` and `service_tier`. The
//!   field `stream` counts too. A [`Key`] is a keyed hash of all that. A request gets no response
//!   to another one if the API would reject what its key leaves out: any `metadata` but an optional
//!   `user_id` of 256 characters, an unknown `service_tier`, or an OAuth token in `x-api-key`.
//! * **Coalesces.** Equal requests in flight share one call to the inner service and its outcome.
//!   An error that `metadata` or `service_tier` may have caused is not shared, nor an error in a
//!   coding that the other request did not accept. The call gets the highest priority of all its
//!   callers.
//! * **Stores.** A complete response of the requested model is stored if it ended with `end_turn`
//!   or a stop sequence. It is fresh for its time to live ± 10 %.
//! * **Replays.** JSON is returned byte for byte, and a stream frame by frame, with the header
//!   `age`.
//! * **Serves stale responses.** For one hour more, a stored response may be served in place of a
//!   5xx, a timeout, a broken connection or a local rejection.
//!
//! # Where it goes
//!
//! Outermost. A hit then costs nothing in the inner layers: no limit, no attempt, no tokens.
//!
//! # Readiness
//!
//! Always ready, because a hit does not need the inner service. A miss waits for the readiness of a
//! clone of its own. A request that may be cached does nothing before its future is polled.
//!
//! # Clones
//!
//! The layer owns the store, the calls in flight and the counters. All its clones and all services
//! made from it share them. The response body must be `'static`, the inner service need not.
//!
//! # Cancellation
//!
//! All callers of a service and its clones drive the call that they share. A leader that is
//! cancelled or not polled therefore does not delay the others. The call ends with its last caller,
//! unless the layer is [`detached`](CacheLayer::detached). Every waiting caller keeps its own
//! deadline.
//!
//! Callers of different services of one layer share calls, too, but drive only their own before the
//! response head. If the leader is cancelled, or its call has woken and was not polled for a
//! second, the next waiting caller makes a new call.
//!
//! A shared call that makes no progress for [ten minutes](CacheLayer::with_idle_timeout) is
//! replaced, and a detached call then ends.
//!
//! # Streaming
//!
//! Frames are forwarded as they arrive, at the pace of the fastest reader. If the inner body fails,
//! one reader gets its error, and the streams of the others end with an `error` event.
//!
//! One response takes 4 MiB of memory at most. Longer responses keep a sliding window. A reader
//! that falls behind it gets an `error` event, and a new caller starts its own call.
//!
//! # Limits
//!
//! * It forwards requests with a `thread`, whose response can be continued once only.
//! * It never stores errors, refusals, fallbacks, truncated responses, or responses with side
//!   effects such as web searches.
//! * It runs no inner body, waker, store or observer under a lock, so all of them may use the
//!   [`handle`](CacheLayer::handle).
//! * It never writes a credential, a prompt or a tenant into a key or a log.
//! * A caller that is identified by a header of your own needs a [key
//!   header](CacheLayer::with_key_header). Callers with the same credential share responses
//!   otherwise.
//! * It verifies no credential. Of an AWS signature only the key id, the region and the service are
//!   compared, so a hit does not prove that the caller has the secret.
//! * Request bodies above 32 MiB and responses in unknown formats pass through.
#![forbid(unsafe_code)]

mod answer;
mod body;
mod call;
mod coalesce;
mod config;
mod detach;
mod handle;
mod layer;
mod request;
mod service;
mod store;
#[cfg(test)]
mod tests;

pub use answer::head::CACHE;
pub use body::Body;
pub use coalesce::leader_call::LeaderCall;
pub use detach::{Detach, Inline, Spawn};
pub use handle::{CacheHandle, CacheSnapshot};
pub use layer::CacheLayer;
pub use request::{key::Key, policy::Cacheable};
pub use service::{Cache, ResponseFuture};
pub use store::{
    Store,
    entry::{Entry, EntryParts, Freshness},
    memory::MemoryStore,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
