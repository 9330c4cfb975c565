//! Strategy without pacing. After a rejection it uses exponential backoff with full jitter, 1 s to
//! 60 s, without a limit of attempts.

use super::{
    Action, JobId, NewRequest, ResponseHead, Strategy,
    job_table::{JobTable, TimerQueue, full_jitter},
};

#[derive(Debug)]
pub(super) struct BackoffForever {
    refusals: JobTable<u32>,
    timers: TimerQueue,
    rng: fastrand::Rng,
}

impl BackoffForever {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        Self {
            refusals: JobTable::default(),
            timers: TimerQueue::default(),
            rng,
        }
    }
}

impl Strategy for BackoffForever {
    fn submit(&mut self, _now: u64, ask: NewRequest, io: &mut Action) {
        *self.refusals.get(ask.job) = 0;
        io.send.push(ask.job);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &ResponseHead, io: &mut Action) {
        if head.refused.is_none() {
            return;
        }
        let refusals = self.refusals.get(job);
        let at = now + full_jitter(*refusals, &mut self.rng);
        *refusals += 1;
        self.timers.add(at, job);
        io.wake_at(at);
    }

    fn wake(&mut self, now: u64, io: &mut Action) {
        while let Some(job) = self.timers.due(now) {
            io.send.push(job);
        }
        if let Some(at) = self.timers.next() {
            io.wake_at(at);
        }
    }
}
