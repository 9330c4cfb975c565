//! Prediction of the part of a prompt that the server will read from its prompt cache.
//!
//! Claude does not count cache reads against the input limit, so a request is charged for the rest
//! only. Source: <https://platform.claude.com/docs/en/build-with-claude/prompt-caching>.

mod chain;
mod memory;

pub use chain::{Prefix, Prefixes};
pub use memory::{CacheReads, PrefixMemory};
