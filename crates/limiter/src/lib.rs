//! An exact vector bucket with a fair queue that paces requests and tokens for tower-claude layers.
//!
//! One [`LocalLimiter`] keeps a [`Pool`] for every [`Scope`]: levels of requests, input, output and
//! total tokens, tokens per day, and requests at once. A request takes from all of them or from none. Who
//! must wait waits in one queue per scope, where only the first may take, so that big requests are not
//! starved by small ones. Priority classes and their tenants take turns by the work they ask for
//! ([`FairShares`]); requests of one tenant and class are served in order of arrival. A [`Reservation`] gives
//! everything back that was not used, whenever and wherever it is dropped.
//!
//! The levels are exact integers. What the server says in its rate-limit headers bounds them from
//! both sides (it never overwrites them), so that neither rounding, nor reordering, nor work in
//! flight moves a level that is right.
//!
//! * **Waiting** is bounded: a queue limit, a longest wait and a deadline per request. A request that
//!   would wait too long is refused at once, and one that can never fit the limit is refused with
//!   both numbers.
//! * **Cancellation**: dropping a waiting [`LocalAcquire`] gives its place up and wakes the next one;
//!   dropping a [`Reservation`] returns what the server cannot have counted.
//! * **Clones** share everything.
//! * **Time** is tokio's, read by [`LocalLimiter`] only; the [`Pool`] is told what time it is.
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
mod day;
mod layer;
mod limiter;
mod limits;
mod local;
mod policy;
pub mod pool;
mod reservation;
mod settlement;
mod shares;
mod snapshot;
mod sync;

pub use config::{LimiterConfig, OutputAccounting};
pub use day::Day;
pub use layer::{
    HeaderBudgetKind, LimitAttempt, LimitKind, LimitLayer, LimitPolicy, TokenBucketKind,
};
pub(crate) use limiter::Ask;
pub use limiter::{AcquireRequest, Limiter};
pub use limits::{Limits, PoolLimits};
pub use local::{LocalAcquire, LocalLimiter};
pub use policy::{Concurrency, RampUp, Sharing};
pub use pool::{Pool, QueuePlace};
pub(crate) use reservation::Books;
pub use reservation::{Reservation, ReservationBackend};
pub use settlement::Settlement;
pub use shares::FairShares;
pub use snapshot::{ClassSnapshot, DimensionSnapshot, ScopeSnapshot};
#[doc(no_inline)]
pub use tower_claude_core::{Cost, Dimension, Rejection, Scope};
