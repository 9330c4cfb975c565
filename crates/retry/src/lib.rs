//! Sends failed Claude requests again.
#![forbid(unsafe_code)]

mod backoff;
mod body;
mod budget;
mod call;
mod claim;
mod failure;
mod future;
mod handle;
mod layer;
mod policy;
mod service;
mod timeouts;

/// The name in events, refusals and logs.
const LAYER: &str = "retry";

pub use backoff::{Backoff, Jitter};
pub use body::Body;
pub use budget::RetryBudget;
pub use future::ResponseFuture;
pub use handle::{RetryHandle, RetrySnapshot};
pub use layer::RetryLayer;
pub use service::Retry;
pub use timeouts::Timeouts;
