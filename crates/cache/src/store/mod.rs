//! Storage of responses.

pub(crate) mod entry;
pub(crate) mod memory;

use crate::{request::key::Key, store::entry::Entry};

/// A store of responses, such as [`MemoryStore`](crate::MemoryStore). A store over a network fits
/// too: `get` is a future, and `insert` and `remove` may leave their work to a task of the store.
///
/// The layer checks the freshness of entries. The store may evict any entry at any time. Its
/// functions must not panic or block for long, because `insert` and `remove` also run in
/// destructors. They may use the layer's [handle](crate::CacheHandle).
pub trait Store: Clone + Send + Sync + 'static {
    /// Future of [`get`](Self::get). Just before a call to the inner service, the layer calls `get`
    /// again and polls its future once.
    type Get: Future<Output = Option<Entry>> + Unpin + Send;

    /// Returns the entry of this key, if it is stored. The layer waits for it for a
    /// [limited time](crate::CacheLayer::with_store_timeout).
    fn get(&self, key: &Key) -> Self::Get;

    /// Stores an entry and replaces the previous entry of the key.
    fn insert(&self, key: Key, entry: Entry);

    /// Removes the entry of this key.
    fn remove(&self, key: &Key);

    /// Returns the number of stored bytes, or 0 if the store does not count them.
    fn bytes(&self) -> u64 {
        0
    }
}
