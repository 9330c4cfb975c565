//! A circuit as a pure state machine: no clock, no lock, no random numbers, nothing asynchronous.
//!
//! The layer keeps one [`Breaker`] per endpoint and model, and one per credential. A call is
//! [admitted](Breaker::admit) with a [`Permit`] and [settled](Breaker::settle) with a
//! [`CircuitOutcome`], which [`CircuitOutcomes::of`] derives from a
//! [`Class`](tower_claude_core::Class).
//!
//! Time is `tokio::time::Instant`. A random number is a `chance` in `0.0..1.0` that the caller
//! draws. Instants may come slightly out of order, as they do between threads.

mod breaker;
mod config;
mod counter;
mod outcome;
mod permit;
mod ramp;
mod snapshot;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use breaker::Breaker;
pub use config::{BreakerConfig, FailureRate, SlowCallRate};
pub(crate) use outcome::{CircuitOutcome, CircuitOutcomes};
pub(crate) use permit::{Admission, Generation, Origin, Permit, Transition};
pub use snapshot::{BreakerSnapshot, BreakerState};
