//! The prompt cache.

#[path = "../common/mod.rs"]
mod common;
mod requests;
mod rules;
mod store;
