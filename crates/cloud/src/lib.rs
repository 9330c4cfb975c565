//! A layer that sends requests for the Claude API to Amazon Bedrock and Google Vertex AI.
#![forbid(unsafe_code)]

#[cfg(feature = "bedrock")]
pub mod bedrock;
