//! A cache store that processes share.

pub(crate) mod codec;
pub(crate) mod expiry;
mod job;
pub(crate) mod redis_store;
pub(crate) mod shared;
