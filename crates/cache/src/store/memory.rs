//! The store in memory.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    future::{Ready, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use crate::{
    request::key::{IdentityHasher, Key},
    store::{Store, entry::Entry},
};

/// Typical weight of an entry in bytes.
const TYPICAL_WEIGHT: u64 = 4 * 1024;
/// Least capacity of a shard in bytes: four entries of the greatest length.
const SHARD_CAPACITY: u64 = 4 * 4 * 1024 * 1024;

/// A store in memory, bounded in bytes for all and for each tenant. Cheap to clone. All clones
/// share the entries.
///
/// Entries that were used again are kept longer than entries used once. No tenant takes more than
/// its share, so that no tenant can evict the responses of the others. Requests without a
/// [`Tenant`](tower_claude_core::Tenant) count as one tenant, whose share is the whole store.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    share: u64,
}

struct Shared {
    cache: Cache<Key, Entry, ByWeight, IdentityHasher, CollectEvicted>,
    tenants: Mutex<TenantTable>,
}

/// The entries of one tenant.
#[derive(Default)]
struct TenantUse {
    bytes: u64,
    entries: usize,
    /// Keys, oldest first. Some may be evicted already.
    order: VecDeque<Key>,
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<Key, Entry> for ByWeight {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.weight() as u64
    }
}

/// A listener that collects the entries an insertion evicts.
#[derive(Clone)]
struct CollectEvicted;

impl Lifecycle<Key, Entry> for CollectEvicted {
    type RequestState = Vec<Entry>;

    fn on_evict(&self, evicted: &mut Vec<Entry>, _: Key, entry: Entry) {
        evicted.push(entry);
    }
}

impl MemoryStore {
    /// Returns a store with a capacity in bytes. One tenant gets a quarter of it at most.
    ///
    /// The store has up to eight shards. An entry larger than a shard is not stored.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let shards = (bytes / SHARD_CAPACITY).clamp(1, 8);
        let options = OptionsBuilder::new()
            .weight_capacity(bytes)
            .estimated_items_capacity((bytes / TYPICAL_WEIGHT).clamp(32, 1 << 20) as usize)
            .shards(shards as usize)
            .build()
            .expect("both capacities are set");
        Self {
            shared: Arc::new(Shared {
                cache: Cache::with_options(
                    options,
                    ByWeight,
                    IdentityHasher::default(),
                    CollectEvicted,
                ),
                tenants: Mutex::default(),
            }),
            share: bytes / 4,
        }
    }

    /// Sets the capacity for one tenant, in bytes. Default: a quarter of the store.
    #[must_use]
    pub const fn with_tenant_share(mut self, bytes: u64) -> Self {
        self.share = bytes;
        self
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.shared.cache.len()
    }
}

impl Default for MemoryStore {
    /// Returns a store of 64 MiB.
    fn default() -> Self {
        Self::new(64 * 1024 * 1024)
    }
}

impl Store for MemoryStore {
    type Get = Ready<Option<Entry>>;

    fn get(&self, key: &Key) -> Self::Get {
        ready(self.shared.cache.get(key))
    }

    /// Inserts under the lock of the tenant table, so that its counts match the entries.
    fn insert(&self, key: Key, entry: Entry) {
        if entry.parts().tenant.is_some() && entry.weight() as u64 > self.share {
            // It would evict all other entries of its tenant, and then itself.
            return self.remove(&key);
        }
        let shared = &self.shared;
        let mut tenants = shared.tenants();
        tenants.add(key, &entry);
        // Includes the replaced entry.
        let mut evicted = Vec::new();
        shared
            .cache
            .insert_with_lifecycle(key, entry.clone(), &mut evicted);
        evicted.iter().for_each(|entry| tenants.subtract(entry));
        // Dropped after the lock, because the memory of a body may have a foreign destructor.
        let mut removed = Vec::new();
        while let Some(oldest) = tenants.oldest_over(&entry, self.share) {
            if let Some((_, entry)) = shared.cache.remove(&oldest) {
                tenants.subtract(&entry);
                removed.push(entry);
            }
        }
        tenants.compact(&entry, |key| {
            let stored = shared.cache.peek(key)?;
            removed.push(stored.clone());
            Some(stored)
        });
        drop(tenants);
        drop((evicted, removed));
    }

    fn remove(&self, key: &Key) {
        let mut tenants = self.shared.tenants();
        let removed = self.shared.cache.remove(key);
        if let Some((_, entry)) = &removed {
            tenants.subtract(entry);
        }
        drop(tenants);
        drop(removed);
    }

    fn bytes(&self) -> u64 {
        self.shared.cache.weight()
    }
}

/// The entries of each tenant.
#[derive(Default)]
struct TenantTable(HashMap<Arc<str>, TenantUse>);

impl Shared {
    fn tenants(&self) -> MutexGuard<'_, TenantTable> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TenantTable {
    fn add(&mut self, key: Key, entry: &Entry) {
        if let Some(tenant) = &entry.parts().tenant {
            let held = self.0.entry(tenant.0.clone()).or_default();
            held.bytes += entry.weight() as u64;
            held.entries += 1;
            held.order.push_back(key);
        }
    }

    fn subtract(&mut self, entry: &Entry) {
        let Some(tenant) = &entry.parts().tenant else {
            return;
        };
        if let Some(held) = self.0.get_mut(&tenant.0) {
            held.bytes = held.bytes.saturating_sub(entry.weight() as u64);
            held.entries = held.entries.saturating_sub(1);
            if held.entries == 0 {
                self.0.remove(&tenant.0);
            }
        }
    }

    /// Removes and returns the oldest key of the entry's tenant, if the tenant has more than its
    /// share.
    fn oldest_over(&mut self, entry: &Entry, share: u64) -> Option<Key> {
        let held = self.0.get_mut(&entry.parts().tenant.as_ref()?.0)?;
        (held.bytes > share)
            .then(|| held.order.pop_front())
            .flatten()
    }

    /// Removes the keys of evicted entries once they are the majority.
    fn compact(&mut self, entry: &Entry, mut stored: impl FnMut(&Key) -> Option<Entry>) {
        let Some(tenant) = &entry.parts().tenant else {
            return;
        };
        let Some(held) = self.0.get_mut(&tenant.0) else {
            return;
        };
        if held.order.len() <= held.entries * 2 + 16 {
            return;
        }
        let mut known = HashSet::with_capacity_and_hasher(held.entries, IdentityHasher::default());
        // A key that was inserted twice keeps its later position.
        let mut order: VecDeque<Key> = VecDeque::with_capacity(held.entries);
        for key in held.order.iter().rev() {
            let is_stored =
                stored(key).is_some_and(|entry| entry.parts().tenant.as_ref() == Some(tenant));
            if is_stored && known.insert(*key) {
                order.push_front(*key);
            }
        }
        held.order = order;
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("bytes", &self.bytes())
            .field("entries", &self.entries())
            .field("tenant_share", &self.share)
            .finish()
    }
}
