//! A small bounded table by kind of request: scanned, not hashed, since it is short and mostly has one
//! entry.

/// Kinds kept at once; over it the one unused for longest goes.
pub(crate) const MOST: usize = 64;

/// Values by kind.
#[derive(Debug)]
pub(crate) struct Kinds<V> {
    keys: Vec<u64>,
    values: Vec<Used<V>>,
    uses: u64,
}

#[derive(Debug)]
struct Used<V> {
    last: u64,
    value: V,
}

impl<V> Default for Kinds<V> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
            uses: 0,
        }
    }
}

impl<V: Default> Kinds<V> {
    pub(crate) fn get(&self, key: u64) -> Option<&V> {
        Some(&self.values[self.find(key)?].value)
    }

    /// The place of this kind, made when there is none. `None` when the table is full of what may not go.
    pub(crate) fn claim(&mut self, key: u64, may_go: impl Fn(&V) -> bool) -> Option<usize> {
        self.uses += 1;
        let last = self.uses;
        if let Some(place) = self.find(key) {
            self.values[place].last = last;
            return Some(place);
        }
        let fresh = Used {
            last,
            value: V::default(),
        };
        if self.keys.len() < MOST {
            self.keys.push(key);
            self.values.push(fresh);
            return Some(self.keys.len() - 1);
        }
        let places = self.values.iter().enumerate();
        let (oldest, _) = places
            .filter(|(_, used)| may_go(&used.value))
            .min_by_key(|(_, used)| used.last)?;
        self.keys[oldest] = key;
        self.values[oldest] = fresh;
        Some(oldest)
    }

    pub(crate) fn at(&mut self, place: usize) -> Option<&mut V> {
        Some(&mut self.values.get_mut(place)?.value)
    }

    fn find(&self, key: u64) -> Option<usize> {
        self.keys.iter().position(|known| *known == key)
    }
}
