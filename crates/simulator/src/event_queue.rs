//! Queue of future events, with the clock.

use std::{cmp::Ordering, collections::BinaryHeap};

/// A queue of events in order of their time. Events of the same time keep the order in which they
/// were added.
#[derive(Debug)]
pub(crate) struct EventQueue<E> {
    heap: BinaryHeap<Entry<E>>,
    sequence: u64,
    now: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: u64,
    sequence: u64,
    event: E,
}

impl<E> EventQueue<E> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::with_capacity(4_096),
            sequence: 0,
            now: 0,
        }
    }

    /// Returns the time of the last event.
    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    /// Adds an event. A time in the past counts as now.
    pub(crate) fn add(&mut self, at: u64, event: E) {
        self.sequence += 1;
        self.heap.push(Entry {
            at: at.max(self.now),
            sequence: self.sequence,
            event,
        });
    }

    /// Returns the next event and moves the clock to its time. `None` if it is at `end` or later.
    pub(crate) fn next(&mut self, end: u64) -> Option<E> {
        if self.heap.peek()?.at >= end {
            return None;
        }
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

impl<E> Ord for Entry<E> {
    /// Reversed, because the heap returns the greatest entry first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}
