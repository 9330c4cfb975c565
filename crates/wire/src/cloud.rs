//! Targets on several clouds: addresses, model ids, paths and errors.
//!
//! A [`Target`] is one place that serves Claude models: the Claude API, a region of Amazon Bedrock
//! or a location of Google Vertex AI. All parts of a stack speak the Claude API, and only the
//! innermost layer translates a request for its target. What the translation changes is a [`Loss`].
//! A request that a target cannot serve is [`Unportable`].

mod loss;
mod profile;
mod target;

pub use loss::{Loss, Losses, Unportable};
pub use profile::Profile;
pub use target::{Dialect, InvalidTarget, Target};
