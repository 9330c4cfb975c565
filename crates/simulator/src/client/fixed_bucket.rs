//! Strategy with a client-side bucket of fixed limits, by estimated input and mean output, first
//! in, first out. It ignores headers. A rejected request waits like in "backoff for ever" and is
//! then queued again.

use std::collections::VecDeque;

use super::{
    Action, JobId, NewRequest, ResponseHead, Strategy,
    bucket::LevelSet,
    job_table::{JobTable, TimerQueue, full_jitter},
};
use crate::workload::{OUTPUT, Quota};

#[derive(Debug)]
pub(super) struct FixedBucket {
    levels: LevelSet,
    queue: VecDeque<JobId>,
    jobs: JobTable<(u64, u32)>,
    timers: TimerQueue,
    rng: fastrand::Rng,
}

impl FixedBucket {
    pub(super) fn new(quota: Quota, rng: fastrand::Rng) -> Self {
        Self {
            levels: LevelSet::full(quota),
            queue: VecDeque::new(),
            jobs: JobTable::default(),
            timers: TimerQueue::default(),
            rng,
        }
    }
}

impl Strategy for FixedBucket {
    fn submit(&mut self, now: u64, ask: NewRequest, io: &mut Action) {
        *self.jobs.get(ask.job) = (ask.estimate, 0);
        self.queue.push_back(ask.job);
        self.wake(now, io);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &ResponseHead, io: &mut Action) {
        if head.refused.is_none() {
            return;
        }
        let (_, refusals) = self.jobs.get(job);
        let at = now + full_jitter(*refusals, &mut self.rng);
        *refusals += 1;
        self.timers.add(at, job);
        io.wake_at(at);
    }

    fn wake(&mut self, now: u64, io: &mut Action) {
        while let Some(job) = self.timers.due(now) {
            self.queue.push_back(job);
        }
        if let Some(at) = self.timers.next() {
            io.wake_at(at);
        }
        while let Some(job) = self.queue.front().copied() {
            let (estimate, _) = *self.jobs.get(job);
            match self.levels.take(now, [1.0, estimate as f64, OUTPUT.0]) {
                Ok(()) => {
                    self.queue.pop_front();
                    io.send.push(job);
                }
                Err(at) => {
                    io.wake_at(at);
                    return;
                }
            }
        }
    }
}
