//! A small bounded table that evicts the least recently used entry.

/// The most entries.
const MAX_ENTRIES: usize = 64;

/// A table of values by key. It is scanned, not hashed, since it usually has one entry.
#[derive(Debug)]
pub(crate) struct LruTable<V> {
    keys: Vec<u64>,
    values: Vec<Used<V>>,
    uses: u64,
}

#[derive(Debug)]
struct Used<V> {
    last: u64,
    value: V,
}

impl<V> Default for LruTable<V> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
            uses: 0,
        }
    }
}

impl<V: Default> LruTable<V> {
    pub(crate) fn get(&self, key: u64) -> Option<&V> {
        Some(&self.values[self.find(key)?].value)
    }

    /// Returns the slot of this key, which is added if it is missing. Returns `None` if the table is
    /// full of values that may not be evicted.
    pub(crate) fn claim(&mut self, key: u64, may_evict: impl Fn(&V) -> bool) -> Option<usize> {
        self.uses += 1;
        let last = self.uses;
        if let Some(slot) = self.find(key) {
            self.values[slot].last = last;
            return Some(slot);
        }
        let fresh = Used {
            last,
            value: V::default(),
        };
        if self.keys.len() < MAX_ENTRIES {
            self.keys.push(key);
            self.values.push(fresh);
            return Some(self.keys.len() - 1);
        }
        let slots = self.values.iter().enumerate();
        let (oldest, _) = slots
            .filter(|(_, used)| may_evict(&used.value))
            .min_by_key(|(_, used)| used.last)?;
        self.keys[oldest] = key;
        self.values[oldest] = fresh;
        Some(oldest)
    }

    pub(crate) fn at(&mut self, slot: usize) -> Option<&mut V> {
        Some(&mut self.values.get_mut(slot)?.value)
    }

    fn find(&self, key: u64) -> Option<usize> {
        self.keys.iter().position(|known| *known == key)
    }
}
