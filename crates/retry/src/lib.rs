//! Sends failed Claude requests again: at the right time, not too often, and only while that is
//! harmless.
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
//! - Retries what waiting can cure, as [`Class`](tower_claude_core::Class) tells: rate limits, overload, 5xx, broken connections,
//!   errors and cuts in a stream before its first content. Not spend limits, not 4xx. An attempt
//!   that got no answer in time is repeated once only, since its work may still go on, and be paid.
//! - Waits 1 s, 2 s, 4 s … 60 s with upward jitter ([`Backoff`]); never less than `retry-after`;
//!   not at all when a limiter inside has paused the scope ([`Paced`](tower_claude_core::Paced)).
//! - Stops when attempts, the shared [`RetryBudget`] or the
//!   [`Deadline`](tower_claude_core::Deadline) run out, or `retry-after` asks for more than 60 s. The last response
//!   then goes up as it came, with its `Class` in the extensions.
//! - Owns the head, idle and total timeouts ([`Timeouts`]). Running out of time is a 504 in Claude's
//!   error shape, tagged [`Refused`](tower_claude_core::Refused).
//! - Keeps `x-stainless-retry-count` true where the caller sends it.
//!
//! # Where it goes
//! Outside everything that should see every attempt: breaker, limiters, client. Inside cache and
//! model fallback. In one place: a retry layer inside another one passes requests through. Switch
//! the retries of the client or SDK off.
//!
//! # Readiness, clones
//! Always ready; each attempt waits for the inner service itself, on a clone of its own. An outer
//! `LoadShed` therefore sees no pressure. Budget and counters live in the layer and are shared by all
//! its clones and services.
//!
//! # Cancellation
//! Dropping the future drops the attempt or the wait with all it holds, and gives back what a
//! retry had paid that was not sent. The failed response is dropped before the wait begins.
//!
//! # Streaming
//! A stream is held until its first content event, a JSON answer until it is whole (64 KiB at most
//! each), so that failures up to there can be retried unseen. From then on it is watched only. A
//! Claude stream that falls silent or outlasts the total timeout ends with an `error` event; bodies
//! of other kinds, or with a `content-length`, are not timed once they are handed on.
//!
//! # What it never does
//! Retry after content has reached the caller, or a request body too long to buffer; change a
//! request or a response; hedge; log a body or a key. It cannot know whether a request whose connection broke was
//! carried out: for endpoints where doing it twice matters, use one attempt.
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
pub use timeouts::Timeouts;
