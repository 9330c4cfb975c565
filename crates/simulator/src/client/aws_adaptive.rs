//! The AWS SDKs' adaptive retry mode: a client rate that grows by a cubic curve and is reduced by
//! every rejection, three attempts, and a retry quota of 500 of which a retry costs 5. Constants as
//! in the public Rust and Python clients.

use std::collections::VecDeque;

use super::{
    Action, ActualUse, JobId, NewRequest, ResponseHead, Strategy,
    job_table::{JobTable, TimerQueue},
};
use crate::units::{nanos, seconds};

const BETA: f64 = 0.7;
const SCALE: f64 = 0.4;
const SMOOTH: f64 = 0.8;
const LEAST: f64 = 0.5;
const ATTEMPTS: u32 = 3;
const QUOTA: u32 = 500;
const RETRY_COST: u32 = 5;
const MOST_BACKOFF: f64 = 20.0;

#[derive(Debug)]
pub(super) struct AwsAdaptive {
    enabled: bool,
    /// Requests per second.
    rate: f64,
    capacity: f64,
    level: f64,
    at: u64,
    measured: f64,
    half_second: f64,
    sent: f64,
    last_max: f64,
    throttled_at: f64,
    quota: u32,
    attempts: JobTable<u32>,
    queue: VecDeque<JobId>,
    timers: TimerQueue,
    rng: fastrand::Rng,
}

impl AwsAdaptive {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        Self {
            enabled: false,
            rate: 0.0,
            capacity: 0.0,
            level: 0.0,
            at: 0,
            measured: 0.0,
            half_second: 0.0,
            sent: 0.0,
            last_max: 0.0,
            throttled_at: 0.0,
            quota: QUOTA,
            attempts: JobTable::default(),
            queue: VecDeque::new(),
            timers: TimerQueue::default(),
            rng,
        }
    }

    fn refill(&mut self, now: u64) {
        let elapsed = seconds(now.saturating_sub(self.at));
        self.at = self.at.max(now);
        self.level = (self.level + elapsed * self.rate).min(self.capacity);
    }

    fn learn(&mut self, now: u64, refused: bool) {
        let time = seconds(now);
        self.measure(time);
        let window = |last_max: f64| (last_max * (1.0 - BETA) / SCALE).cbrt();
        let wanted = if refused {
            let used = if self.enabled {
                self.measured.min(self.rate)
            } else {
                self.measured
            };
            self.last_max = used;
            self.throttled_at = time;
            self.enabled = true;
            used * BETA
        } else {
            let since = time - self.throttled_at - window(self.last_max);
            SCALE * since.powi(3) + self.last_max
        };
        self.refill(now);
        let rate = wanted.min(2.0 * self.measured);
        self.rate = rate.max(LEAST);
        self.capacity = rate.max(1.0);
        self.level = self.level.min(self.capacity);
    }

    /// Measures the rate of responses in intervals of half a second.
    fn measure(&mut self, time: f64) {
        let half = (time * 2.0).floor() / 2.0;
        self.sent += 1.0;
        if half > self.half_second {
            let current = self.sent / (half - self.half_second);
            self.measured = current * SMOOTH + self.measured * (1.0 - SMOOTH);
            self.sent = 0.0;
            self.half_second = half;
        }
    }
}

impl Strategy for AwsAdaptive {
    fn submit(&mut self, now: u64, ask: NewRequest, io: &mut Action) {
        *self.attempts.get(ask.job) = 1;
        self.queue.push_back(ask.job);
        self.wake(now, io);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &ResponseHead, io: &mut Action) {
        self.learn(now, head.refused.is_some());
        if head.refused.is_some() {
            let attempts = self.attempts.get(job);
            if *attempts >= ATTEMPTS || self.quota < RETRY_COST {
                io.failed.push(job);
            } else {
                self.quota -= RETRY_COST;
                let most = f64::from(1 << (*attempts - 1)).min(MOST_BACKOFF);
                *attempts += 1;
                self.timers.add(now + nanos(most * self.rng.f64()), job);
            }
        }
        self.wake(now, io);
    }

    fn on_end(&mut self, _now: u64, job: JobId, _used: ActualUse, _io: &mut Action) {
        let gain = if *self.attempts.get(job) > 1 {
            RETRY_COST
        } else {
            1
        };
        self.quota = (self.quota + gain).min(QUOTA);
    }

    fn wake(&mut self, now: u64, io: &mut Action) {
        while let Some(job) = self.timers.due(now) {
            self.queue.push_back(job);
        }
        if let Some(at) = self.timers.next() {
            io.wake_at(at);
        }
        self.refill(now);
        while let Some(job) = self.queue.front().copied() {
            if self.enabled && self.level < 1.0 {
                io.wake_at(now + nanos((1.0 - self.level) / self.rate) + 1_000);
                return;
            }
            if self.enabled {
                self.level -= 1.0;
            }
            self.queue.pop_front();
            io.send.push(job);
        }
    }
}
