//! A small bounded table that evicts the least recently used entry.

/// The most entries.
const MAX_ENTRIES: usize = 64;

/// A table of values by key. It is scanned, not hashed, since it usually has one entry.
#[derive(Debug)]
pub(crate) struct LruTable<V> {
    entries: Vec<Entry<V>>,
    uses: u64,
}

#[derive(Debug)]
struct Entry<V> {
    key: u64,
    last_used: u64,
    value: V,
}

impl<V> Default for LruTable<V> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            uses: 0,
        }
    }
}

impl<V: Default> LruTable<V> {
    pub(crate) fn get(&self, key: u64) -> Option<&V> {
        let mut entries = self.entries.iter();
        Some(&entries.find(|entry| entry.key == key)?.value)
    }

    /// Returns the slot of this key, which is added if it is missing. Returns `None` if the table
    /// is full of values that may not be evicted.
    pub(crate) fn claim(&mut self, key: u64, may_evict: impl Fn(&V) -> bool) -> Option<usize> {
        self.uses += 1;
        let last_used = self.uses;
        if let Some(slot) = self.entries.iter().position(|entry| entry.key == key) {
            self.entries[slot].last_used = last_used;
            return Some(slot);
        }
        let entry = Entry {
            key,
            last_used,
            value: V::default(),
        };
        if self.entries.len() < MAX_ENTRIES {
            self.entries.push(entry);
            return Some(self.entries.len() - 1);
        }
        let entries = self.entries.iter().enumerate();
        let (oldest, _) = entries
            .filter(|(_, entry)| may_evict(&entry.value))
            .min_by_key(|(_, entry)| entry.last_used)?;
        self.entries[oldest] = entry;
        Some(oldest)
    }

    pub(crate) fn at(&mut self, slot: usize) -> Option<&mut V> {
        Some(&mut self.entries.get_mut(slot)?.value)
    }
}
