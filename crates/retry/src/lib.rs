//! Sends failed Claude requests again: at the right time, not too often, and only while that is harmless.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_claude_core::RequestBody;
//! use tower_claude_retry::RetryLayer;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let statuses = [200, 529].to_vec(); // overloaded once, then fine
//! # let statuses = std::sync::Arc::new(std::sync::Mutex::new(statuses));
//! let api = service_fn(move |_: Request<RequestBody>| {
//! #   let mut statuses = statuses.lock().expect("not poisoned");
//!     let response = Response::builder().status(statuses.pop().expect("two calls"));
//!     async move { Ok::<_, Infallible>(response.body(Full::new(Bytes::from("{}"))).expect("valid")) }
//! });
//!
//! let layer = RetryLayer::new();
//! let handle = layer.handle();
//! let response = layer.layer(api).oneshot(Request::new(RequestBody::from("{}"))).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(handle.snapshot().retries, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! - Retries what waiting can cure, as the [`Class`](tower_claude_core::Class) tells: rate limits, overload, 5xx, broken
//!   connections, errors and cuts in a stream before its content. Not spend limits, not 4xx. An attempt without an
//!   answer in time is repeated only once: its work may still go on, and be paid for.
//! - Waits 1 s, 2 s, 4 s … 60 s with upward jitter ([`Backoff`]), never less than `retry-after`, and not at all when
//!   a limiter inside has paused the scope ([`PausedByLimiter`](tower_claude_core::PausedByLimiter)).
//! - Stops when attempts, the shared [`RetryBudget`] or the [`Deadline`](tower_claude_core::Deadline) run out, or
//!   `retry-after` is over 60 s. The last response then goes up as it came, with its `Class` in the extensions.
//! - Owns the head, idle and total [`Timeouts`]: a 504 in Claude's shape, tagged [`Rejected`](tower_claude_core::Rejected).
//! - Keeps `x-stainless-retry-count` true where the caller sends it.
//!
//! # Where it goes
//! Outside all that must see every attempt (breaker, limiters, client), inside cache and model fallback. A retry layer
//! inside another passes requests through. Switch the retries of the client or SDK off.
//!
//! # Readiness, clones, cancellation
//! Always ready, so an outer `LoadShed` sees no pressure; nothing happens before the first poll. Each attempt waits for
//! the inner service itself, the first on the service that is called, the others on clones. Budget and counters live in
//! the layer and are shared by its clones and services. A failed response is dropped before the wait. Dropping the
//! future drops all it holds, and a retry that was paid and not sent is refunded.
//!
//! # Streaming
//! A stream is held until its first content event, a JSON answer until it is whole (64 KiB at most): failures up to
//! there are retried unseen, and from there on only watched. A Claude stream that falls silent or outlasts the total
//! timeout ends with an `error` event; other bodies, and those of known length, are not timed once handed on.
//!
//! # What it never does
//! Retry after content has reached the caller, or a request body too long to buffer; change a request or a response;
//! hedge; log a body or a key. It cannot know whether a request whose connection broke was carried out: where doing it
//! twice matters (creating a batch, say), allow one attempt.
#![forbid(unsafe_code)]

mod backoff;
mod body;
mod budget;
mod call;
mod claim;
mod failure;
mod future;
mod handle;
mod layer;
mod policy;
mod service;
mod stage;
mod state;
#[cfg(test)]
mod tests;
mod timeouts;

/// The name in events, refusals and logs.
const LAYER: &str = "retry";

pub use backoff::{Backoff, Jitter};
pub use body::Body;
pub use budget::RetryBudget;
pub use future::ResponseFuture;
pub use handle::{RetryHandle, RetrySnapshot};
pub use layer::RetryLayer;
pub use service::Retry;
#[doc(hidden)]
pub use stage::{RetryBodyState, RetryPolicy, RetryState};
pub use timeouts::Timeouts;
