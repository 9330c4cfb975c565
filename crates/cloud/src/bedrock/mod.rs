//! Signatures of AWS, and the event streams of Bedrock's `InvokeModel`. Feature `bedrock`.
//!
//! Signatures are made by `aws-sigv4`, and frames are read by `aws-smithy-eventstream`, both of
//! which AWS maintains. They need Rust 1.94, so this feature does as well.

mod credentials;
mod frames;
mod invocation_metrics;
mod sign;
mod sigv4;
mod stream;

pub use credentials::Credentials;
pub use invocation_metrics::{InvocationMetrics, ReportedMetrics};
pub use sign::SignError;
pub use sigv4::{SigV4, aws_service};
pub use stream::EventStreamDecoder;
