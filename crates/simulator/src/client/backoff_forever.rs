//! No pacing; after a refusal exponential backoff with full jitter, 1 s to 60 s, until it works.

use super::{
    Ask, Head, Io, JobId, Strategy,
    parts::{PerJob, Timers, full_jitter},
};

#[derive(Debug)]
pub(super) struct BackoffForever {
    refusals: PerJob<u32>,
    timers: Timers,
    rng: fastrand::Rng,
}

impl BackoffForever {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        Self {
            refusals: PerJob::default(),
            timers: Timers::default(),
            rng,
        }
    }
}

impl Strategy for BackoffForever {
    fn submit(&mut self, _now: u64, ask: Ask, io: &mut Io) {
        *self.refusals.get(ask.job) = 0;
        io.send.push(ask.job);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &Head, io: &mut Io) {
        if head.refused.is_none() {
            return;
        }
        let refusals = self.refusals.get(job);
        let at = now + full_jitter(*refusals, &mut self.rng);
        *refusals += 1;
        self.timers.add(at, job);
        io.wake_at(at);
    }

    fn wake(&mut self, now: u64, io: &mut Io) {
        while let Some(job) = self.timers.due(now) {
            io.send.push(job);
        }
        if let Some(at) = self.timers.next() {
            io.wake_at(at);
        }
    }
}
