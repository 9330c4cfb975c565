//! A layer that sends requests for the Claude API to Amazon Bedrock and Google Vertex AI.
#![forbid(unsafe_code)]

mod authorize;
mod bearer;
#[cfg(feature = "bedrock")]
pub mod bedrock;
mod refresh;
mod translate;

pub use authorize::{Authorization, Authorize, AuthorizeError};
pub use bearer::Bearer;
pub use refresh::Issued;
pub use translate::{Translated, Translator};
