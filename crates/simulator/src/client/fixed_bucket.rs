//! A client-side bucket at a fixed limit, by estimated input and mean output, first in, first out. It
//! reads no headers; a refusal is backed off from as in "backoff for ever", then queues again.

use std::collections::VecDeque;

use super::{
    Ask, Head, Io, JobId, Strategy,
    bucket::Levels,
    parts::{PerJob, Timers, full_jitter},
};
use crate::workload::{OUTPUT, Quota};

#[derive(Debug)]
pub(super) struct FixedBucket {
    levels: Levels,
    queue: VecDeque<JobId>,
    jobs: PerJob<(u64, u32)>,
    timers: Timers,
    rng: fastrand::Rng,
}

impl FixedBucket {
    pub(super) fn new(quota: Quota, rng: fastrand::Rng) -> Self {
        Self {
            levels: Levels::full(quota),
            queue: VecDeque::new(),
            jobs: PerJob::default(),
            timers: Timers::default(),
            rng,
        }
    }
}

impl Strategy for FixedBucket {
    fn submit(&mut self, now: u64, ask: Ask, io: &mut Io) {
        *self.jobs.get(ask.job) = (ask.estimate, 0);
        self.queue.push_back(ask.job);
        self.wake(now, io);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &Head, io: &mut Io) {
        if head.refused.is_none() {
            return;
        }
        let (_, refusals) = self.jobs.get(job);
        let at = now + full_jitter(*refusals, &mut self.rng);
        *refusals += 1;
        self.timers.add(at, job);
        io.wake_at(at);
    }

    fn wake(&mut self, now: u64, io: &mut Io) {
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
