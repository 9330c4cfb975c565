//! Stops calling what fails, and finds out by single probes when it works again.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_claude_circuit_breaker::CircuitBreakerLayer;
//! use tower_claude_core::{RejectReason, Rejected, RequestBody};
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
//!     assert!(response.extensions().get::<Rejected>().is_none());
//! }
//! let response = service.clone().oneshot(Request::new(RequestBody::from("{}"))).await?;
//! let refused = response.extensions().get::<Rejected>().expect("by the breaker");
//! assert!(matches!(refused.reason, RejectReason::CircuitOpen { .. }));
//! assert_eq!(layer.handle().snapshot().opened, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! - Opens a circuit per endpoint and model after five failures in a row within a minute; shares of failures and of slow
//!   calls can be set besides ([`BreakerConfig`]). Overload, 5xx, timeouts and broken connections are failures; a 429 is
//!   none, but fails a probe; other 4xx count for nothing ([`Verdicts`](tower_claude_core::breaker::Verdicts)).
//! - Opens a circuit per credential on one 401 or spend limit. A 403 opens nothing.
//! - Refuses while open: 529 in Claude's shape (401 or 402 for a credential), tagged
//!   [`Rejected`](tower_claude_core::Rejected), with what remains as `retry-after`.
//! - After 10 s, then 20 s, never sooner than the server's `retry-after`, lets one call through at a time; two that
//!   succeed close the circuit, and over 20 s a growing share of the calls passes.
//! - Can be taken in hand: [`CircuitBreakerHandle`].
//!
//! # Where it goes
//! Inside retry, so that it sees every attempt, and outside the limiters, so that a refused call takes nothing. A probe that
//! waits in a limiter's queue is not timed yet: its lease runs from when the limiter lets it go.
//!
//! # Readiness, clones, cancellation
//! Always ready; nothing happens before the first poll. A call waits for the inner service itself, and asks the circuit
//! when that is ready. Circuits live in the layer and are shared by its clones and services. A call that is dropped
//! says nothing, and a probe gives its place back; but where the retry layer's head or idle timer ended it, it has failed.
//! An error of readiness says nothing either. A probe that lost its place in a limiter's queue asks the circuit anew.
//!
//! # Streaming
//! A stream succeeds with its first content event, so a probe that streams for ten minutes closes the circuit at once. If it
//! breaks off before, the call has failed, whatever its status was; a break afterwards, or a silence that the retry layer
//! ends, is a failure of its own. A JSON answer succeeds with its end.
//!
//! # What it never does
//! Hold a response back; change a request or a response; wait; count its own refusals or those of other layers; let more
//! probes out than it was told.
#![forbid(unsafe_code)]

mod body;
mod call;
mod circuits;
mod future;
mod handle;
mod layer;
mod service;
mod stage;
mod ticket;

/// The name in events, refusals and logs.
const LAYER: &str = "circuit-breaker";

pub use body::Watcher;
pub use future::ResponseFuture;
pub use handle::{CircuitBreakerHandle, CircuitBreakerSnapshot, CircuitSnapshot};
pub use layer::CircuitBreakerLayer;
pub use service::CircuitBreaker;
#[doc(hidden)]
pub use stage::{BreakerAttempt, BreakerPolicy};
pub use tower_claude_core::breaker::{BreakerConfig, FailureRate, SlowCallRate};
