//! Catalog of models: rate group, tokenizer generation, sizes, capabilities, dates and prices.

mod catalog;
mod id;
mod model;
mod money;
mod node;
mod platform;
mod price;

pub use catalog::ModelCatalog;
pub use model::{
    About, Capabilities, Effort, Lifecycle, Model, SamplingDefaults, Support, Tier, TierLimits,
    Tokenizer, estimate_tokens,
};
pub use money::Money;
pub use node::CatalogError;
pub use platform::Platform;
pub use price::{Bill, Billing, Prices, RateCard};
