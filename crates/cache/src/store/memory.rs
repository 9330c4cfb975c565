//! The store in this process.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::{Ready, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use crate::{Entry, Key, Store, request::key::AsIs};

/// About what an answer weighs.
const USUAL: u64 = 4 * 1024;
/// Each part of the store has room for so many entries of the greatest length.
const LARGEST: u64 = 4 * 4 * 1024 * 1024;

/// Keeps answers in memory, up to a number of bytes in all and for each tenant. Cheap to clone; clones share.
///
/// What is used again stays longer than what was used once. No tenant takes more than its share, so none can push the
/// answers of the others out; what the requests without a [`Tenant`](tower_claude_core::Tenant) store counts as one
/// tenant whose share is everything.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    share: u64,
}

struct Shared {
    cache: Cache<Key, Entry, ByWeight, AsIs, Evicted>,
    tenants: Mutex<HashMap<Arc<str>, Held>>,
}

/// What one tenant has here.
#[derive(Default)]
struct Held {
    bytes: u64,
    entries: usize,
    /// Oldest first; some may be gone already.
    order: VecDeque<Key>,
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<Key, Entry> for ByWeight {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.weight() as u64
    }
}

/// Collects what an insertion pushed out.
#[derive(Clone)]
struct Evicted;

impl Lifecycle<Key, Entry> for Evicted {
    type RequestState = Vec<Entry>;

    fn on_evict(&self, evicted: &mut Vec<Entry>, _: Key, entry: Entry) {
        evicted.push(entry);
    }
}

impl MemoryStore {
    /// Room for so many bytes, a quarter of it at most for one tenant. An answer that weighs more than a part of the
    /// store (an eighth or more of it) is not kept.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let parts = (bytes / LARGEST).clamp(1, 8);
        let options = OptionsBuilder::new()
            .weight_capacity(bytes)
            .estimated_items_capacity(
                usize::try_from(bytes / USUAL)
                    .unwrap_or(usize::MAX)
                    .clamp(32, 1 << 20),
            )
            .shards(usize::try_from(parts).unwrap_or(1))
            .build()
            .expect("both capacities are set");
        Self {
            shared: Arc::new(Shared {
                cache: Cache::with_options(options, ByWeight, AsIs::default(), Evicted),
                tenants: Mutex::default(),
            }),
            share: bytes / 4,
        }
    }

    /// The most that one tenant may have here, in bytes.
    #[must_use]
    pub const fn with_tenant_share(mut self, bytes: u64) -> Self {
        self.share = bytes;
        self
    }

    /// Entries kept.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.shared.cache.len()
    }
}

impl Default for MemoryStore {
    /// 64 MiB.
    fn default() -> Self {
        Self::new(64 * 1024 * 1024)
    }
}

impl Store for MemoryStore {
    type Get = Ready<Option<Entry>>;

    fn get(&self, key: &Key) -> Self::Get {
        ready(self.shared.cache.get(key))
    }

    /// One at a time, so that the accounts of the tenants are right.
    fn insert(&self, key: Key, entry: Entry) {
        if entry.parts().tenant.is_some() && entry.weight() as u64 > self.share {
            // It would push out all else of its tenant first, and then itself.
            return self.remove(&key);
        }
        let shared = &self.shared;
        let mut tenants = shared.tenants();
        tenants.add(key, &entry);
        // What it replaces is among them.
        let mut evicted = Vec::new();
        shared
            .cache
            .insert_with_lifecycle(key, entry.clone(), &mut evicted);
        evicted.iter().for_each(|entry| tenants.subtract(entry));
        let mut removed = Vec::new();
        while let Some(oldest) = tenants.oldest_over(&entry, self.share) {
            if let Some((_, entry)) = shared.cache.remove(&oldest) {
                tenants.subtract(&entry);
                removed.push(entry);
            }
        }
        tenants.tidy(&entry, |key| shared.cache.peek(key));
        drop(tenants);
        drop((evicted, removed));
    }

    fn remove(&self, key: &Key) {
        let mut tenants = self.shared.tenants();
        if let Some((_, entry)) = self.shared.cache.remove(key) {
            tenants.subtract(&entry);
        }
    }

    fn bytes(&self) -> u64 {
        self.shared.cache.weight()
    }
}

/// The accounts, locked.
struct Tenants<'a>(MutexGuard<'a, HashMap<Arc<str>, Held>>);

impl Shared {
    fn tenants(&self) -> Tenants<'_> {
        Tenants(self.tenants.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tenants<'_> {
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

    /// The oldest key of the tenant of this entry, while it has more than its share.
    fn oldest_over(&mut self, entry: &Entry, share: u64) -> Option<Key> {
        let held = self.0.get_mut(&entry.parts().tenant.as_ref()?.0)?;
        (held.bytes > share)
            .then(|| held.order.pop_front())
            .flatten()
    }

    /// Forgets the keys of what is gone, once they are the most.
    fn tidy(&mut self, entry: &Entry, stored: impl Fn(&Key) -> Option<Entry>) {
        let Some(tenant) = &entry.parts().tenant else {
            return;
        };
        let Some(held) = self.0.get_mut(&tenant.0) else {
            return;
        };
        if held.order.len() <= held.entries * 2 + 16 {
            return;
        }
        let mut known =
            std::collections::HashSet::with_capacity_and_hasher(held.entries, AsIs::default());
        // Of a key that was inserted twice, the later place is the true one.
        let mut order: VecDeque<Key> = VecDeque::with_capacity(held.entries);
        for key in held.order.iter().rev() {
            let there =
                stored(key).is_some_and(|entry| entry.parts().tenant.as_ref() == Some(tenant));
            if there && known.insert(*key) {
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
