//! The clock and what is still to happen.

use std::{cmp::Ordering, collections::BinaryHeap};

/// Events in order of their time; those of one instant in the order they were added.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
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

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::with_capacity(4_096),
            sequence: 0,
            now: 0,
        }
    }

    /// When the last event happened.
    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    /// Adds an event; one in the past happens now.
    pub(crate) fn add(&mut self, at: u64, event: E) {
        self.sequence += 1;
        self.heap.push(Entry {
            at: at.max(self.now),
            sequence: self.sequence,
            event,
        });
    }

    /// Moves the clock to the next event, unless that is at `end` or later.
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
    /// The heap gives out the greatest: the earliest here.
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
