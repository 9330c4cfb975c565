//! The official SDKs' default: no pacing, two retries, `retry-after` obeyed to the second up to a
//! minute, else 0.5 s doubling to 8 s with up to a quarter off.

use super::{
    Ask, Head, Io, JobId, Strategy,
    parts::{PerJob, Timers},
};
use crate::units::{SECOND, nanos};

const RETRIES: u32 = 2;

#[derive(Debug)]
pub(super) struct SdkDefault {
    retries: PerJob<u32>,
    timers: Timers,
    rng: fastrand::Rng,
}

impl SdkDefault {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        Self {
            retries: PerJob::default(),
            timers: Timers::default(),
            rng,
        }
    }
}

impl Strategy for SdkDefault {
    fn submit(&mut self, _now: u64, ask: Ask, io: &mut Io) {
        *self.retries.get(ask.job) = 0;
        io.send.push(ask.job);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &Head, io: &mut Io) {
        let Some(retry_after) = head.refused else {
            return;
        };
        let retries = self.retries.get(job);
        if *retries >= RETRIES {
            io.failed.push(job);
            return;
        }
        let wait = if (1..=60).contains(&retry_after) {
            retry_after * SECOND
        } else {
            let full = 0.5 * f64::from(1 << retries.min(&mut 4).to_owned());
            nanos(full.min(8.0) * (1.0 - 0.25 * self.rng.f64()))
        };
        *retries += 1;
        self.timers.add(now + wait, job);
        io.wake_at(now + wait);
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
