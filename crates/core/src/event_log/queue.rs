//! The rows that wait to be written.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// Rows that did not fit, and the time in which that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LostRows {
    pub(super) rows: u64,
    pub(super) since: SystemTime,
    pub(super) until: SystemTime,
}

/// The result of an attempt to queue a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Queued,
    /// The row is lost. `is_first` is true if the row before was queued.
    Lost {
        is_first: bool,
    },
}

/// A bounded queue of rows between the layers and the writer. It is locked for the time of a copy.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    /// The most bytes that wait.
    capacity: usize,
}

#[derive(Debug, Default)]
struct QueueState {
    rows: Vec<u8>,
    lost: Option<LostRows>,
    is_closed: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity,
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a row with its line break.
    pub(super) fn push(&self, row: &[u8], now: SystemTime) -> Pushed {
        let mut state = self.state();
        if state.is_closed || state.rows.len() + row.len() > self.capacity {
            let is_first = state.lost.is_none();
            let lost = state.lost.get_or_insert(LostRows {
                rows: 0,
                since: now,
                until: now,
            });
            lost.rows += 1;
            // The clock of the machine may have been set back.
            lost.until = lost.until.max(now);
            return Pushed::Lost { is_first };
        }
        let was_empty = state.rows.is_empty();
        state.rows.extend_from_slice(row);
        drop(state);
        if was_empty {
            self.changed.notify_one();
        }
        Pushed::Queued
    }

    /// Ends the queue. What it has can still be taken.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits for rows, and swaps them with `rows`, which must be empty. Returns the rows that were
    /// lost after these. `None` when the queue is closed and empty.
    pub(super) fn take(&self, rows: &mut Vec<u8>) -> Option<Option<LostRows>> {
        let is_idle = |state: &mut QueueState| state.rows.is_empty() && !state.is_closed;
        let waited = self.changed.wait_while(self.state(), is_idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        // Closed. Rows of later events are counted only.
        if state.rows.is_empty() {
            return None;
        }
        std::mem::swap(&mut state.rows, rows);
        Some(state.lost.take())
    }

    /// Waits until the queue is closed, for `time` at most. Returns true if it is closed.
    pub(super) fn wait_closed(&self, time: Duration) -> bool {
        let is_open = |state: &mut QueueState| !state.is_closed;
        let waited = self.changed.wait_timeout_while(self.state(), time, is_open);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_counts_lost_rows_and_keeps_the_others() {
        let queue = Queue::new(8);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(queue.push(b"one\n", at(1)), Pushed::Queued);
        assert_eq!(queue.push(b"two\n", at(2)), Pushed::Queued);
        let lost = |is_first| Pushed::Lost { is_first };
        assert_eq!(queue.push(b"x\n", at(3)), lost(true));
        assert_eq!(queue.push(b"x\n", at(5)), lost(false));
        let mut rows = Vec::new();
        let expected = LostRows {
            rows: 2,
            since: at(3),
            until: at(5),
        };
        assert_eq!(queue.take(&mut rows), Some(Some(expected)));
        assert_eq!(rows, b"one\ntwo\n");
        rows.clear();
        assert_eq!(queue.push(b"new\n", at(6)), Pushed::Queued);
        assert_eq!(queue.take(&mut rows), Some(None));
        assert_eq!(rows, b"new\n");
    }

    #[test]
    fn closed_queue_gives_what_it_has_and_then_none() {
        let queue = Queue::new(8);
        let now = SystemTime::UNIX_EPOCH;
        queue.push(b"one\n", now);
        queue.close();
        assert_eq!(queue.push(b"two\n", now), Pushed::Lost { is_first: true });
        let mut rows = Vec::new();
        let taken = queue.take(&mut rows).flatten();
        assert_eq!(taken.map(|lost| lost.rows), Some(1));
        assert_eq!(rows, b"one\n");
        rows.clear();
        assert_eq!(queue.take(&mut rows), None);
        assert!(queue.wait_closed(Duration::from_secs(3_600)));
    }
}
