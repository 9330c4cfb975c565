//! A Tower layer that sends failed Claude requests again, at the right time and within a budget.
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
//! // Overloaded at the first request, then available.
//! let statuses = [200, 529].to_vec();
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
//!
//! - It retries failures that waiting can cure, as the [`Class`](tower_claude_core::Class) of the
//!   response tells: rate limits, overload, 5xx, broken connections, and errors and cuts in a
//!   stream before its content. It does not retry spend limits and 4xx. An attempt without an
//!   answer in time is repeated only once, because the server may still work on it and bill it.
//! - It sends a request that the server did not take (`REFUSED_STREAM`, a stream beyond `GOAWAY`, a
//!   connection that closed before the request was written) again at once and free of charge, up to
//!   three times.
//! - It never risks that something is created twice: a POST other than to the Messages and
//!   `count_tokens` endpoints is sent again only if the server has certainly not processed it
//!   ([`RetryLayer::with_repeatable`]). A request with the extension [`NoRetry`], or the header
//!   `x-tower-claude-no-retry`, is sent once.
//! - It waits 1 s, 2 s, 4 s … 60 s with upward jitter ([`Backoff`]), and never less than
//!   `retry-after`. It does not wait when an inner limiter has paused the scope
//!   ([`PausedByLimiter`](tower_claude_core::toolkit::PausedByLimiter)).
//! - It stops when no attempts are left, when the shared [`RetryBudget`] is empty, when the
//!   [`Deadline`](tower_claude_core::Deadline) would pass, when an inner circuit is open for longer
//!   than the wait, or when `retry-after` is over 60 s. The last response then goes to the caller
//!   unchanged, with its `Class` in the extensions.
//! - It waits for 3 s at most while a fallback layer outside of it may have another model ready, so
//!   that a caller waits for about 4 s before it is asked. Rate limits are waited for as ever.
//! - It owns the head, idle, content and total [`Timeouts`]. A call that runs out of time is
//!   answered with a 504 in Claude's error shape, tagged
//!   [`Rejection`](tower_claude_core::Rejection). The time to read the body of the request counts.
//! - It updates `x-stainless-retry-count` if the caller sends it.
//!
//! # Where it goes
//!
//! Outside of all layers that must see every attempt (breaker, limiters, client), and inside of
//! cache and model fallback. A retry layer inside another passes requests through. Retries of the
//! client or of an SDK should be switched off.
//!
//! # Readiness
//!
//! The service is always ready, so an outer `LoadShed` sees no pressure. Each attempt waits for the
//! inner service: the first attempt for the service that was called, the others for clones of it.
//!
//! # Clones
//!
//! Budget and counters belong to the layer. Its clones and all services made from it share them.
//!
//! # Cancellation
//!
//! Dropping the future drops all that it holds. A retry that was charged and not sent is refunded.
//! A failed response is dropped before the wait.
//!
//! # Streaming
//!
//! A stream is held until its first content event, and a JSON response until it is whole, up to
//! 64 KiB. Failures before that point are retried, later ones are only recorded. A Claude stream
//! that is silent for too long, yields only pings for too long or outlasts the total timeout ends
//! with an `error` event. Other bodies, and bodies of known length, have no timers once the caller
//! reads them.
//!
//! # Limits
//!
//! It never retries after content has reached the caller, and never retries a request body that is
//! too long to buffer. It changes no request and no response, sends no hedged requests, and logs
//! neither bodies nor keys. It cannot know whether the server carried out a Messages request whose
//! connection broke, which may then be billed twice.
#![forbid(unsafe_code)]

mod backoff;
mod budget;
mod decide;
mod handle;
mod kept_request;
mod layer;
mod policy;
#[cfg(test)]
mod tests;
mod timeouts;

pub use backoff::{Backoff, Jitter};
pub use budget::RetryBudget;
pub use handle::{RetryHandle, RetrySnapshot};
pub use layer::{Retry, RetryLayer};
pub use policy::{NO_RETRY, NoRetry, RetryBodyState, RetryPolicy, RetryState};
pub use timeouts::Timeouts;

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
