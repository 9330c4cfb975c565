//! The prefixes that are kept alive in a pause.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_core::toolkit::SavedRequest;

use crate::{reuse::PERIOD, rules::CacheRules};

/// The most prefixes that are kept alive. Each keeps the body of its request in memory.
const MAX_KEPT: usize = 256;

/// A prefix that is kept alive.
pub(crate) struct Kept {
    pub(crate) request: Arc<SavedRequest>,
    pub(crate) rules: CacheRules,
    pub(crate) model: Arc<str>,
    /// The time after which a return is too unlikely.
    pub(crate) until: Instant,
    /// The time of the next renewal.
    pub(crate) next: Instant,
}

impl Kept {
    pub(crate) fn new(
        request: Arc<SavedRequest>,
        rules: CacheRules,
        model: Arc<str>,
        sent_at: Instant,
        keep_for: Duration,
    ) -> Self {
        Self {
            request,
            rules,
            model,
            until: sent_at + keep_for,
            next: sent_at + PERIOD,
        }
    }
}

/// The prefixes that are kept alive, by their hashes.
#[derive(Default)]
pub(crate) struct KeptPrefixes {
    map: HashMap<u64, Kept, RandomState>,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The driver is gone, so nothing is kept.
    is_closed: bool,
}

impl KeptPrefixes {
    /// Keeps a prefix. Returns what is discarded, to be dropped outside of the lock.
    pub(crate) fn insert(&mut self, hash: u64, kept: Kept) -> Option<Kept> {
        if self.is_closed || self.map.len() >= MAX_KEPT && !self.map.contains_key(&hash) {
            return Some(kept);
        }
        if self.due.len() >= 2 * MAX_KEPT {
            // Most of them are of prefixes that were used again.
            let due = self.map.iter().map(|(hash, kept)| (kept.next, *hash));
            self.due = due.map(Reverse).collect();
        }
        self.due.push(Reverse((kept.next, hash)));
        self.map.insert(hash, kept)
    }

    /// Ends the renewals of a prefix, because it was used again.
    pub(crate) fn remove(&mut self, hash: u64) -> Option<Kept> {
        self.map.remove(&hash)
    }

    /// Discards all requests, and keeps no others.
    pub(crate) fn close(&mut self) -> HashMap<u64, Kept, RandomState> {
        self.is_closed = true;
        self.due.clear();
        std::mem::take(&mut self.map)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns the time of the next renewal.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        loop {
            let Reverse((at, hash)) = self.due.peek()?;
            if self.map.get(hash).is_some_and(|kept| kept.next == *at) {
                return Some(*at);
            }
            self.due.pop();
        }
    }

    /// Removes and returns a prefix whose renewal is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(u64, Kept)> {
        self.next().filter(|at| *at <= now)?;
        let Reverse((_, hash)) = self.due.pop()?;
        Some((hash, self.map.remove(&hash)?))
    }
}
