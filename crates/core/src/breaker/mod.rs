//! A circuit breaker as a pure automaton: no clock, no lock, no chance of its own, nothing asynchronous.
//!
//! The circuit-breaker layer keeps one [`Breaker`] per (endpoint, model) and one per credential, the
//! model-fallback layer one per target. A call is [admitted](Breaker::admit) with a [`Permit`] and
//! [settled](Breaker::settle) with a [`Verdict`], which [`Verdicts::of`] reads from a [`Class`](crate::Class).
//!
//! ```
//! use tokio::time::Instant;
//! use tower_claude_core::breaker::{Admission, Breaker, BreakerConfig, Verdict};
//!
//! let mut breaker = Breaker::new(BreakerConfig::new());
//! let now = Instant::now();
//! for _ in 0..5 {
//!     let Admission::Pass(permit) = breaker.admit(now, 0.5) else { panic!("it is closed") };
//!     breaker.settle(now, permit, Verdict::FAILURE, 0.5);
//! }
//! assert!(matches!(breaker.admit(now, 0.5), Admission::Rejected { .. }));
//! ```
//!
//! Time is `tokio::time::Instant`, chance a number in `0.0..1.0` that the caller draws. Instants may come slightly out of
//! order, as they do between threads.

mod automaton;
mod config;
mod counts;
mod permit;
mod ramp;
mod snapshot;
#[cfg(test)]
mod tests;
mod verdict;
mod window;

pub use automaton::Breaker;
pub use config::{BreakerConfig, FailureRate, SlowCallRate};
pub use permit::{Admission, Generation, Permit, Transition};
pub use snapshot::{BreakerSnapshot, BreakerState};
pub use verdict::{Verdict, Verdicts};
