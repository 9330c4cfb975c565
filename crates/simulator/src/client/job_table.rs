//! Data structures shared by several strategies.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::JobId;
use crate::units::{SECOND, nanos};

/// A table with a value for every job, indexed by its slot.
#[derive(Debug, Default)]
pub(super) struct JobTable<T> {
    slots: Vec<T>,
}

impl<T: Default> JobTable<T> {
    pub(super) fn get(&mut self, job: JobId) -> &mut T {
        let index = job as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, T::default);
        }
        &mut self.slots[index]
    }
}

/// Jobs that wait for a time.
#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    heap: BinaryHeap<Reverse<(u64, JobId)>>,
}

impl TimerQueue {
    pub(super) fn add(&mut self, at: u64, job: JobId) {
        self.heap.push(Reverse((at, job)));
    }

    pub(super) fn due(&mut self, now: u64) -> Option<JobId> {
        self.next().filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse((_, job))| job)
    }

    pub(super) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

/// Returns a random delay with full jitter: up to 1 s, doubled with every previous rejection, at
/// most 60 s.
pub(super) fn full_jitter(refusals: u32, rng: &mut fastrand::Rng) -> u64 {
    let most = (1_u64 << refusals.min(6)).min(60);
    nanos(rng.f64() * (most * SECOND) as f64 / 1e9)
}
