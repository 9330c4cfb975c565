//! What most gateways do: the level is what the last header said. Work in flight is invisible to it.
//! A refusal is retried at once when its `retry-after` has passed.

use std::collections::VecDeque;

use super::{
    Ask, Head, Io, JobId, Strategy,
    bucket::Levels,
    parts::{PerJob, Timers},
};
use crate::{
    units::SECOND,
    workload::{OUTPUT, Quota},
};

#[derive(Debug)]
pub(super) struct HeaderNaive {
    levels: Levels,
    queue: VecDeque<JobId>,
    estimates: PerJob<u64>,
    timers: Timers,
}

impl HeaderNaive {
    pub(super) fn new(told: Quota) -> Self {
        Self {
            levels: Levels::full(told),
            queue: VecDeque::new(),
            estimates: PerJob::default(),
            timers: Timers::default(),
        }
    }
}

impl Strategy for HeaderNaive {
    fn submit(&mut self, now: u64, ask: Ask, io: &mut Io) {
        *self.estimates.get(ask.job) = ask.estimate;
        self.queue.push_back(ask.job);
        self.wake(now, io);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &Head, io: &mut Io) {
        self.levels
            .set(now, head.shown.map(|shown| shown.remaining as f64));
        if let Some(seconds) = head.refused {
            self.timers.add(now + seconds * SECOND, job);
        }
        self.wake(now, io);
    }

    fn wake(&mut self, now: u64, io: &mut Io) {
        while let Some(job) = self.timers.due(now) {
            self.queue.push_front(job);
        }
        if let Some(at) = self.timers.next() {
            io.wake_at(at);
        }
        while let Some(job) = self.queue.front().copied() {
            let estimate = *self.estimates.get(job);
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
