//! A Claude API that enforces its limits and fails on script, in process or on a port, to test against.
#![forbid(unsafe_code)]

mod body;
mod builder;
mod error;
mod fake;
mod fault;
mod headers;
mod judge;
mod log;
pub mod model;
mod models;
mod read;
mod reply;
mod server;
mod service;
mod sse;
mod state;
mod validate;

pub use body::FakeBody;
pub use builder::{FakeClaudeBuilder, HeaderFamily, HeaderSnapshot};
pub use error::FakeError;
pub use fake::FakeClaude;
pub use fault::{Fault, Incident};
pub use log::{Attempt, Endpoint};
pub use model::{Dimension, Gauges, GroupLimits, Ramp, Reading};
pub use server::FakeServer;
pub use service::ResponseFuture;
