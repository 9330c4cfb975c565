//! Strategy of the official SDKs: no pacing, and two retries. They wait for `retry-after` up to a
//! minute, else 0.5 s, doubling to 8 s, less up to a quarter.

use super::{
    Action, JobId, NewRequest, ResponseHead, Strategy,
    job_table::{JobTable, TimerQueue},
};
use crate::units::{SECOND, nanos};

const RETRIES: u32 = 2;

#[derive(Debug)]
pub(super) struct SdkDefault {
    retries: JobTable<u32>,
    timers: TimerQueue,
    rng: fastrand::Rng,
}

impl SdkDefault {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        Self {
            retries: JobTable::default(),
            timers: TimerQueue::default(),
            rng,
        }
    }
}

impl Strategy for SdkDefault {
    fn submit(&mut self, _now: u64, ask: NewRequest, io: &mut Action) {
        *self.retries.get(ask.job) = 0;
        io.send.push(ask.job);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &ResponseHead, io: &mut Action) {
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

    fn wake(&mut self, now: u64, io: &mut Action) {
        while let Some(job) = self.timers.due(now) {
            io.send.push(job);
        }
        if let Some(at) = self.timers.next() {
            io.wake_at(at);
        }
    }
}
