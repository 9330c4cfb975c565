//! One Claude API limit and one response cache for many processes, over Redis or Valkey.
#![forbid(unsafe_code)]
#![allow(dead_code)] // until the limiter and the store use the link

mod config;
mod error;
mod limiter;
mod link;
#[cfg(feature = "cache")]
mod store;
#[cfg(all(test, unix))]
mod tests;

pub use config::RedisConfig;
pub use error::RedisError;
pub use limiter::{RedisLimiter, RedisLimiterSnapshot, SharedLimits, StoreState};
#[cfg(feature = "cache")]
pub use store::{RedisGet, RedisStore, RedisStoreSnapshot};
