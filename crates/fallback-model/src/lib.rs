//! Requests rewritten for the model that they fall back to.
#![forbid(unsafe_code)]

mod rewrite;

pub use rewrite::{Loss, Losses, RewriteOptions, Rewritten, Unportable, Why, rewrite};
