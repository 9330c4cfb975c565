//! Catalog of models: rate group, tokenizer generation, sizes and capabilities.

mod catalog;
mod id;
mod model;
mod node;

pub use catalog::ModelCatalog;
pub use model::{
    About, Capabilities, Effort, Lifecycle, Model, SamplingDefaults, Support, Tier, TierLimits,
    Tokenizer, estimate_tokens,
};
pub use node::CatalogError;
