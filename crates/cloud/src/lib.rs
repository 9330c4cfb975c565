//! A layer that sends requests for the Claude API to Amazon Bedrock and Google Vertex AI.
#![forbid(unsafe_code)]

mod answer;
mod attempt;
mod authorize;
mod bearer;
#[cfg(feature = "bedrock")]
pub mod bedrock;
mod body;
mod check;
mod config;
mod held;
mod layer;
mod refresh;
mod service;
mod translate;

pub use answer::{LOSSES, Native, TARGET};
pub use authorize::{Authorization, Authorize, AuthorizeError};
pub use bearer::Bearer;
pub use body::CloudBody;
pub use check::check;
pub use layer::CloudLayer;
pub use refresh::Issued;
pub use service::{CloudService, ResponseFuture};
pub use translate::{Translated, Translator};
