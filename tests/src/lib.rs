//! The contract suite that every layer runs, and tests of the whole stack.
//!
//! A layer runs the suite with one line in its `tests/contract.rs`:
//!
//! ```
//! # use tower_layer::Identity;
//! tower_claude_tests::contract!(Identity::new(), stateless);
//! # fn main() {}
//! ```
//!
//! or, when it keeps state (the closure reads it, see [`contract::state_is_shared`]):
//!
//! ```ignore
//! tower_claude_tests::contract!(RetryLayer::new(), observe = |layer| layer.handle().snapshot());
//! ```
//!
//! Its parts serve other tests as well: [`Script`] is a scripted inner service, [`Reply`] what it
//! answers, [`FrameBody`] a body scripted frame by frame, [`Steps`] drives a call poll by poll.
//!
//! A layer that changes the error type does not compile:
//!
//! ```compile_fail
//! use std::time::Duration;
//! use tower::timeout::TimeoutLayer;
//! tower_claude_tests::contract::auto_traits(|| TimeoutLayer::new(Duration::from_secs(1)));
//! ```
#![forbid(unsafe_code)]

mod alive;
mod body;
pub mod contract;
mod error;
mod macros;
mod reply;
mod run;
mod script;
mod seen;
mod steps;

pub use alive::{Alive, Guard};
pub use body::{FrameBody, Piece};
pub use error::Broken;
pub use reply::{Marker, Reply};
pub use run::{paused, serve};
pub use script::{Borrowed, Readiness, Script};
pub use seen::{Answer, Seen, read};
pub use steps::Steps;
