//! What is known about models: rate group, tokenizer generation, sizes, and what a request may ask of
//! them.

mod capabilities;
mod catalog;
mod id;
mod load;
mod node;
mod responses;

use std::sync::Arc;

pub use capabilities::{About, Capabilities, Effort, Lifecycle, SamplingDefaults, Support};
pub use catalog::ModelCatalog;
pub use node::CatalogError;

/// Tokenizer generation. The newer one makes about 30 % more tokens of the same text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tokenizer {
    /// Models up to 4.6: about 3.5 characters per token.
    Old,
    /// Models from 4.7 on: about 2.5 characters per token.
    New,
}

/// Tokens that `bytes` of text probably are, rounded up. Rough: correct it by the reported usage.
///
/// ```
/// # use tower_claude_wire::{estimate_tokens, Tokenizer};
/// assert_eq!(estimate_tokens(1_000, Tokenizer::New), 400);
/// assert_eq!(estimate_tokens(1_000, Tokenizer::Old), 286);
/// ```
#[must_use]
pub fn estimate_tokens(bytes: u64, tokenizer: Tokenizer) -> u64 {
    // Two tokens per 7 or 5 bytes; split so that no product overflows.
    let per_two = match tokenizer {
        Tokenizer::Old => 7,
        Tokenizer::New => 5,
    };
    bytes / per_two * 2 + (bytes % per_two * 2).div_ceil(per_two)
}

/// One model. Cloning copies no text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Model {
    /// Canonical id, without date or cloud dress.
    pub id: Arc<str>,
    /// Models with the same group draw on the same rate limits: falling back inside one does not
    /// escape a 429.
    pub rate_group: Arc<str>,
    /// Tokenizer generation.
    pub tokenizer: Tokenizer,
    /// Context window in tokens.
    pub context: u64,
    /// Most output tokens of one answer.
    pub max_output: u64,
    /// False when the catalog does not list the model and the rest is a family's default.
    pub known: bool,
    /// Where it is in its life, as of the catalog's date.
    pub lifecycle: Lifecycle,
    /// What a request may ask of it.
    pub capabilities: Arc<Capabilities>,
    /// Dates, and which of these facts are uncertain.
    pub about: Arc<About>,
}

impl Model {
    /// A model with a rate group of its own (named as its id), the newer tokenizer, 200,000 tokens of
    /// context, 64,000 of output, and capabilities unknown: the smallest of today's. Set the fields
    /// that you know better.
    #[must_use]
    pub fn new(id: &str) -> Self {
        let id: Arc<str> = id.into();
        Self {
            rate_group: Arc::clone(&id),
            id,
            tokenizer: Tokenizer::New,
            context: 200_000,
            max_output: 64_000,
            known: true,
            lifecycle: Lifecycle::Unknown,
            capabilities: Arc::default(),
            about: Arc::default(),
        }
    }
}

/// Usage tier of an organization. Evaluation has no published numbers, Custom is by contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The first paid tier.
    Start,
    /// The middle tier.
    Build,
    /// The highest tier with published limits.
    Scale,
}

/// Limits of one rate group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierLimits {
    /// Requests per minute.
    pub requests_per_minute: u64,
    /// Input tokens per minute, cache reads not counted.
    pub input_tokens_per_minute: u64,
    /// Output tokens per minute.
    pub output_tokens_per_minute: u64,
}
