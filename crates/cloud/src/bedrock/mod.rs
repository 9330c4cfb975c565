//! Signatures of AWS, and the event streams of Bedrock's `InvokeModel`. Feature `bedrock`.
//!
//! Signatures are made by `aws-sigv4`, and frames are read by `aws-smithy-eventstream`, both of
//! which AWS maintains. They need Rust 1.94, so this feature does as well.

mod credentials;
mod exception;
mod frames;
mod invocation_metrics;
mod service;
mod sign;
mod stream;

pub use credentials::Credentials;
pub use exception::error_type;
pub use invocation_metrics::InvocationMetrics;
pub use service::AwsService;
pub use sign::{SignError, sign};
pub use stream::EventStreamDecoder;
