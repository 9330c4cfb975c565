//! A layer that stops calls to what fails, and finds out by single probes when it works again.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_claude_circuit_breaker::CircuitBreakerLayer;
//! use tower_claude_core::{RejectReason, Rejection, RequestBody};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let down = service_fn(|_: Request<RequestBody>| async {
//!     let response = Response::builder().status(529);
//!     Ok::<_, Infallible>(response.body(Full::new(Bytes::from("{}"))).expect("valid"))
//! });
//!
//! let layer = CircuitBreakerLayer::new();
//! let service = layer.layer(down);
//! for _ in 0..5 {
//!     let response = service.clone().oneshot(Request::new(RequestBody::from("{}"))).await?;
//!     assert!(response.extensions().get::<Rejection>().is_none());
//! }
//! let response = service.clone().oneshot(Request::new(RequestBody::from("{}"))).await?;
//! let rejected = response.extensions().get::<Rejection>().expect("rejected by the breaker");
//! assert!(matches!(rejected.reason, RejectReason::CircuitOpen { .. }));
//! assert_eq!(layer.handle().snapshot().opened, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! - Opens a circuit per host, endpoint and model (for services other than Claude: per host) after
//!   five failures in a row within a minute. Shares of failures and of slow calls can be configured
//!   as well ([`BreakerConfig`]).
//! - Counts failures by when their calls were sent. A failure continues the row if its call was
//!   sent after the last failure was known, or if it comes more than a second later. All calls that
//!   lose a connection together are one failure. Other calls that fail together count as up to four
//!   failures, so the second wave in which all calls fail opens the circuit, and the first does
//!   not.
//! - Keeps the circuit closed while more than a third of the calls around the failures are pending:
//!   a few calls of a burst may fail at once while the others take minutes. Without any success the
//!   share of failures that suffices falls with time, so calls that hang only delay the opening.
//! - Opens a circuit per credential and host at a single spend limit or 401. If the credential has
//!   worked before, a 401 may be a mistake of the server, and the second in a row opens the
//!   circuit. A spend limit can be raised at any time, so its circuit is probed whatever the
//!   response says about the time.
//! - Rejects calls while a circuit is open. The response is a 529 in Claude's shape (401, 402 or
//!   403 for a credential), tagged [`Rejection`](tower_claude_core::Rejection), with the rest of
//!   the cool-down as `retry-after`.
//! - Probes an open circuit after 10 s, then after 20 s, and never before the server's
//!   `retry-after` has passed, except for a spend limit. There is a single probe at a time, and
//!   another if it has no outcome for a minute. Two successful probes close the circuit, and over
//!   20 s a growing share of the calls passes.
//! - Offers manual control with the [`CircuitBreakerHandle`].
//!
//! | class | circuit of the endpoint and model | circuit of the credential |
//! |---|---|---|
//! | success, the model declined | success | success |
//! | overloaded, server error, timeout, transport, truncated | failure | not counted |
//! | the same, but for a reason of this request only, or not taken by the server | not counted | not counted |
//! | 429 | not counted, fails a probe | works |
//! | 401, spend limit, account on hold | works | opens at once, or at the second 401 |
//! | 403, 404, 409, 413 and other 4xx | works | works |
//! | rejected by another layer, given up by the caller | not counted | not counted |
//!
//! "Works" does not count while the circuit is closed, and is a success of a probe.
//!
//! # After a raised spend limit
//! The circuit of the credential is probed after 30 s at first and every 5 min later. To let calls
//! pass at once, close it with [`CircuitBreakerHandle::reset`]: `handle.reset(Kind::SpendLimit)`.
//!
//! # Where it goes
//! Inside the retry layer, so that it sees every attempt, and outside the limiters, so that a
//! rejected call takes no tokens. The lease of a probe starts when the limiter has let the probe
//! go.
//!
//! # Readiness
//! The service is always ready. A call waits for the inner service itself. A call that was admitted
//! and then waits, for readiness or in a limiter, is admitted again if its circuit has changed
//! before it is sent. An error of the inner service's readiness is not counted.
//!
//! # Clones
//! The circuits live in the layer. Its clones and services share them.
//!
//! # Cancellation
//! A dropped call is not counted, and a dropped probe frees its place. If a head or idle timer of
//! the retry layer has ended the call, it counts as a failure.
//!
//! # Streaming
//! A stream succeeds with its first content, so a probe that streams for ten minutes closes the
//! circuit early. A stream that breaks off before has failed, whatever its status was. A break
//! after the first content, or a silence that the retry layer ends, is a second outcome, which
//! counts as a failure. A JSON response succeeds with its end.
//!
//! # Limits
//! At most 1,024 circuits are kept ([`CircuitBreakerLayer::with_most_circuits`]). The layer never
//! holds a response back, never waits, and changes neither requests nor responses.
#![forbid(unsafe_code)]

mod circuits;
mod config;
mod handle;
mod layer;
mod permit;
mod policy;
mod state_machine;

pub use handle::{CircuitBreakerHandle, CircuitBreakerSnapshot, CircuitSnapshot};
pub use layer::{CircuitBreaker, CircuitBreakerLayer};
pub use policy::{BreakerAttempt, BreakerPolicy};
pub use state_machine::{BreakerConfig, BreakerSnapshot, BreakerState, FailureRate, SlowCallRate};

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
