//! Answers equal Claude requests once.
#![forbid(unsafe_code)]

mod answer;
mod body;
mod call;
mod canonical;
mod config;
mod detach;
mod entry;
mod fill;
mod flight;
mod flying;
mod future;
mod handle;
mod head;
mod key;
mod layer;
mod memory;
mod policy;
mod recording;
mod seat;
mod service;
mod source;
mod store;
mod wakers;

use http::HeaderName;

/// The name in events, refusals and logs.
const LAYER: &str = "cache";

/// Says what the cache did for a response: `hit` (stored, or shared with an equal request), `stale`, `miss`, or
/// `bypass`. Absent where the cache was not asked for.
pub const CACHE: HeaderName = HeaderName::from_static("x-tower-claude-cache");

/// On the answer of another model than the one that was asked; such an answer is not stored.
const SERVED_MODEL: HeaderName = HeaderName::from_static("x-tower-claude-served-model");

pub use body::Body;
pub use detach::{Detach, Inline, Spawn};
pub use entry::{Entry, EntryParts, Freshness};
pub use fill::Fill;
pub use future::ResponseFuture;
pub use handle::{CacheHandle, CacheSnapshot};
pub use key::Key;
pub use layer::CacheLayer;
pub use memory::MemoryStore;
pub use policy::Cacheable;
pub use service::Cache;
pub use store::Store;
