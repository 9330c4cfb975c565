//! An exact vector bucket with a fair queue that paces requests and tokens for tower-claude layers.
//!
//! A [`LocalLimiter`] keeps a [`Pool`] for every [`Scope`], with levels of requests, input, output
//! and total tokens, tokens per day, and requests in flight. A request takes from all of them or
//! from none. Requests that must wait form one queue per scope, and only its head may be admitted,
//! so that small requests do not starve large ones. Priority classes and their tenants share the
//! bottleneck by weight ([`FairShares`]). The requests of one tenant and class are served in order
//! of arrival. A [`Reservation`] gives back everything that was not used, whenever it is dropped.
//!
//! The levels are exact integers. The rate-limit headers of the server bound them from both sides
//! but never overwrite them, so that rounding, reordering and work in flight do not change a
//! correct level.
//!
//! * **Waiting** is bounded by a number of requests and of bytes, a longest wait and a deadline per
//!   request. A request whose estimated wait is too long is rejected at once.
//! * **Guesses** never reject for good. A request whose counted size is over a limit is rejected
//!   with both numbers. An estimate over a limit is tried when the limit is unused.
//! * **Cancellation**: dropping a waiting [`LocalAcquire`] removes it from the queue and wakes the
//!   next request. Dropping a [`Reservation`] returns everything that the server cannot have
//!   counted.
//! * **Clones** share all state.
//! * **Several processes** share the levels with [`LocalLimiter::shared`], through a store that a
//!   driver exchanges [messages](pool::ShareMessage) with. `tower-claude-redis` does this over
//!   Redis. [`pool::MemoryStore`] is a store for tests and simulators.
//! * **Time** is tokio's, and only [`LocalLimiter`] reads it. A [`Pool`] takes the time as a
//!   parameter.
//!
//! ```
//! use std::num::NonZeroU64;
//! use tower_claude_core::{Cost, Scope};
//! use tower_claude_limiter::{AcquireRequest, Limiter, Limits, LocalLimiter, Settlement};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let limits = Limits::new().with_input_tokens_per_minute(NonZeroU64::new(10_000).unwrap());
//! let limiter = LocalLimiter::new(limits);
//! let request = AcquireRequest::new(Scope::named("tokens"), Cost::new(8_000, 200));
//! let mut reservation = limiter.acquire(request).await.unwrap();
//! reservation.sent();
//! reservation.settle(Settlement::Rejected); // a 429: the server took nothing
//! assert_eq!(limiter.snapshot()[0].in_flight, 0);
//! # }
//! ```
#![forbid(unsafe_code)]

mod config;
mod layer;
mod limiter;
mod limits;
mod local;
pub mod pool;
#[cfg(feature = "metrics")]
mod record_metrics;
mod reservation;
mod snapshot;
mod sync;

pub use config::{LimiterConfig, OutputAccounting, Sharing, SlowStart};
pub use layer::{
    HeaderBudgetKind, LimitAttempt, LimitKind, LimitLayer, LimitPolicy, TokenBucketKind,
};
pub use limiter::{AcquireRequest, Limiter};
pub use limits::{Day, Limits, PoolLimits};
pub use local::{LocalAcquire, LocalLimiter, ShareQueue, SharedScope};
pub use pool::{Pool, QueuePlace, SharePolicy, queue::flow::FairShares};
#[cfg(feature = "metrics")]
pub use record_metrics::record_metrics;
pub use reservation::{Reservation, ReservationBackend, Settlement};
pub use snapshot::{ClassSnapshot, DimensionSnapshot, EstimateSnapshot, ScopeSnapshot};
#[doc(no_inline)]
pub use tower_claude_core::{Cost, Dimension, Rejection, Scope};

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
