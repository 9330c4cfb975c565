//! Strategy of most gateways: the level is the value of the last header, without the requests in
//! flight. A rejected request is retried after its `retry-after`.

use std::collections::VecDeque;

use super::{
    Action, JobId, NewRequest, ResponseHead, Strategy,
    bucket::LevelSet,
    job_table::{JobTable, TimerQueue},
};
use crate::{
    units::SECOND,
    workload::{OUTPUT, Quota},
};

#[derive(Debug)]
pub(super) struct HeaderNaive {
    levels: LevelSet,
    queue: VecDeque<JobId>,
    estimates: JobTable<u64>,
    timers: TimerQueue,
}

impl HeaderNaive {
    pub(super) fn new(told: Quota) -> Self {
        Self {
            levels: LevelSet::full(told),
            queue: VecDeque::new(),
            estimates: JobTable::default(),
            timers: TimerQueue::default(),
        }
    }
}

impl Strategy for HeaderNaive {
    fn submit(&mut self, now: u64, ask: NewRequest, io: &mut Action) {
        *self.estimates.get(ask.job) = ask.estimate;
        self.queue.push_back(ask.job);
        self.wake(now, io);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &ResponseHead, io: &mut Action) {
        self.levels
            .set(now, head.shown.map(|shown| shown.remaining as f64));
        if let Some(seconds) = head.refused {
            self.timers.add(now + seconds * SECOND, job);
        }
        self.wake(now, io);
    }

    fn wake(&mut self, now: u64, io: &mut Action) {
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
