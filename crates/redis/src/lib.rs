//! One Claude API limit and one response cache for many processes, over Redis or Valkey.
//!
//! # The connection
//!
//! A [`RedisConfig`] names one server, a master with sentinels, or a cluster, by URL. Each limiter
//! and each store has one connection of its own, which carries all its commands at the same time.
//!
//! - **Start.** The constructors connect, log in, and try all commands that they will need. A
//!   [`RedisError`] names what is missing, for example the right to one command.
//! - **Deadline.** A command ends within the [deadline](RedisConfig::with_deadline), 25 ms by
//!   default. An answer that comes later is dropped.
//! - **Repair.** The connection is replaced if it breaks, if the server has become a replica, is
//!   loading its data or rejects the login, and after five timeouts in a row. The first connect
//!   follows at once. Further ones follow after 0.25 to 1 s, one at a time, and commands fail
//!   meanwhile without a wait. Sentinels are asked for the master each time.
//! - **Task.** The constructors return a driver, which the user spawns. It makes and keeps the
//!   connection, and it ends with the last clone of the limiter or the store. If it is dropped,
//!   they go on without Redis. While there is a connection, redis-rs has a task for its bytes on
//!   the same runtime, which ends with the connection.
//!
//! # Keys
//!
//! All keys begin with a [prefix](RedisConfig::with_prefix) and a version, have a hash tag, and
//! expire. Their names contain no prompt, credential or tenant, but hashes of them with a [key of
//! the user](RedisConfig::with_hash_key). Scripts name all their keys, so that they run in a
//! cluster.
//!
//! # The limiter
//!
//! [`RedisLimiter`] is a [`Limiter`](tower_claude_limiter::Limiter) for `TokenBucketLayer::over`,
//! `HeaderBudgetLayer::over` and `recommended().with_limiter`. All processes with one Redis, prefix
//! and hash key share the limits of each scope.
//!
//! - **Round trips.** A request of an idle process takes one, and one more if its estimate was
//!   wrong. Under load, one is for many requests.
//! - **Shares.** Each process has at most one block of work of each class outstanding, and the
//!   blocks of all processes are equal. So busy processes get equal shares.
//! - **Clock.** Only the clock of the server counts. If it goes back by more than 2 s, as after a
//!   failover, time goes on from there. If it goes ahead, the buckets are full at most once.
//! - **Outage.** Three failures in a second, or a failed connection, count as an outage: one
//!   `store_lost` event, then the local share of the limits, and a probe every second. A process
//!   that is cut off while others are not uses its share beside them.
//! - **Repetition.** A message is sent again if its answer is lost, and the script applies it once.
//!   A block whose answer never came stays charged.
//! - **Wrong keys.** If a key has another type, its scope alone uses the local share, and Redis is
//!   tried again every 4 s.
#![cfg_attr(
    feature = "cache",
    doc = "
# The cache

[`RedisStore`] is a store for the cache layer of `tower-claude-cache`: in memory, and behind it in
Redis. A lookup that fails or hangs is a miss within the deadline."
)]
#![forbid(unsafe_code)]

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
pub use store::{
    redis_store::{RedisGet, RedisStore},
    shared::RedisStoreSnapshot,
};

// Compiles the example of the README.
#[cfg(all(doctest, feature = "cache"))]
#[doc = include_str!("../README.md")]
mod readme {}
