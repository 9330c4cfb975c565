//! The service that runs the layers: a layer decides as a policy, the driver does the rest.
//!
//! A layer is one of two kinds of policy:
//!
//! - An [`AttemptPolicy`] admits an attempt or rejects it, and is notified when the request is
//!   sent, when the outcome is known, while a stream goes on and when the body has ended. The
//!   circuit breaker and the limiters are attempt policies.
//! - A [`CallPolicy`] decides whether a failed call is sent again, and as which request. It also
//!   owns the timers of a call. Retry and fallback are call policies.
//!
//! A policy never sees futures or bodies. [`Driver`] calls the inner service, classifies each
//! response once, reads error bodies, holds a response until its first content, tracks the body to
//! its end and drops everything in the right order. Policies compose as nested pairs with the outer
//! policy first, and `()` is the empty policy of both kinds.
//!
//! # The life of a call
//!
//! 1. The body of the request is buffered, within [`CallPolicy::request_timeout`] and the deadline
//!    of the caller. If it fails, breaks a limit or is late, the caller gets a 400, 413 or 504 and
//!    no policy counts the call. A body over the buffer limit is not awaited.
//! 2. [`CallPolicy::start`] reads the request and keeps a copy if it may have to send it again.
//! 3. [`AttemptPolicy::poll_admit`] runs from the outer policy to the inner one. The inner service
//!    becomes ready, the request is sent, and [`CallPolicy::on_sent`] and
//!    [`AttemptPolicy::on_sent`] follow.
//! 4. The response head, or the error, becomes a [`Class`](crate::Class). The attempt policies get
//!    it in [`AttemptPolicy::on_response`], from the inner one to the outer one.
//! 5. A success is held until its first content. After a failure, the attempt policies report the
//!    way of another attempt in [`AttemptPolicy::reroute`], if they choose its target. The failure
//!    then goes to [`CallPolicy::on_failure`], which may ask for another attempt. The failed
//!    response and all that the attempt holds are dropped before the wait. What has arrived of its
//!    body is read before, so that the connection stays usable.
//! 6. The caller gets the response. Its body reports progress to the attempt policies and ends with
//!    exactly one [`AttemptPolicy::on_end`].
//!
//! # A policy of your own
//!
//! ```
//! use std::{sync::Arc, task::{Context, Poll}};
//! use http::Request;
//! use tokio::sync::{OwnedSemaphorePermit, Semaphore};
//! use tower_claude_core::{
//!     Call, ClaudeClassify, RejectReason, Rejection, RequestBody,
//!     driver::{AttemptPolicy, Clock, DriverLayer},
//! };
//!
//! /// A limit on requests in flight that rejects instead of waiting.
//! struct InFlightLimit(Arc<Semaphore>);
//!
//! impl AttemptPolicy for InFlightLimit {
//!     /// Released when the body of the response has ended, or when the call is dropped.
//!     type Attempt = Option<OwnedSemaphorePermit>;
//!
//!     fn poll_admit(
//!         &self,
//!         attempt: &mut Self::Attempt,
//!         _: &mut Request<RequestBody>,
//!         _: &Arc<Call>,
//!         _: &mut Clock,
//!         _: &mut Context<'_>,
//!     ) -> Poll<Result<(), Rejection>> {
//!         *attempt = self.0.clone().try_acquire_owned().ok();
//!         Poll::Ready(match attempt {
//!             Some(_) => Ok(()),
//!             None => Err(Rejection::new(
//!                 "in-flight-limit",
//!                 RejectReason::QueueFull { waiting: 0, limit: 0 },
//!             )),
//!         })
//!     }
//! }
//!
//! let limit = InFlightLimit(Arc::new(Semaphore::new(8)));
//! let layer = DriverLayer::new((), limit, ClaudeClassify::default());
//! # let _ = layer;
//! ```

mod attempt_policy;
mod body;
mod call_policy;
mod failure;
mod future;
mod peek;
mod policies;
mod progress;
mod report;
mod response;
mod service;
mod spans;

pub use crate::reroute::Reroute;
pub use attempt_policy::{AttemptPolicy, Clock};
pub use body::Body;
pub use call_policy::{AttemptFailure, CallPolicy, CallStart};
pub use future::ResponseFuture;
pub use service::{Driver, DriverLayer};
