//! Targets on several clouds: addresses, model ids, paths and errors.
//!
//! A [`Target`] is one place that serves Claude models: the Claude API, a region of Amazon Bedrock
//! or a location of Google Vertex AI. All parts of a stack speak the Claude API, and only the
//! innermost layer translates a request for its target. What the translation changes is a [`Loss`].
//! A request that a target cannot serve is [`Unportable`].

mod betas;
mod data;
mod ids;
mod loss;
mod native_error;
mod path;
mod profile;
mod quota;
mod target;

pub use betas::{BetaSupport, Betas};
pub use loss::{Loss, Losses, Unportable};
pub use native_error::{
    CREDENTIAL_EXPIRED, INFERENCE_PROFILE_MISSING, MODEL_NOT_ENABLED, USE_CASE_FORM_MISSING,
    aws_error_type, claude_error,
};
pub use path::model_segment;
pub use profile::Profile;
pub use quota::quota_group;
pub use target::{Dialect, InvalidTarget, Target};
