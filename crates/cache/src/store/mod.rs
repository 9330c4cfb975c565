//! Where answers are kept.

pub(crate) mod entry;
pub(crate) mod memory;

use crate::{Entry, Key};

/// Keeps stored answers. [`MemoryStore`](crate::MemoryStore) is one; one over a network fits too: `get` is a future, and
/// `insert` and `remove` may hand their work to a task of the store's own.
///
/// Whether an entry is fresh is not the store's to decide; it may forget any entry at any time. None of its functions
/// may panic or block for long: `insert` and `remove` run in destructors too.
pub trait Store: Clone + Send + Sync + 'static {
    /// Future of [`get`](Self::get). It is polled once more, and dropped then, just before a call to the inner service.
    type Get: Future<Output = Option<Entry>> + Unpin + Send;

    /// The entry of this key, if it is here.
    fn get(&self, key: &Key) -> Self::Get;

    /// Keeps an entry, in place of the one that was there.
    fn insert(&self, key: Key, entry: Entry);

    /// Forgets the entry of this key.
    fn remove(&self, key: &Key);

    /// Bytes kept, if that is known.
    fn bytes(&self) -> u64 {
        0
    }
}
