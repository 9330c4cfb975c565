//! The loads and the server of the batch rows.

use crate::random::{exponential, lognormal};

pub(super) const MINUTE: f64 = 60.0;
pub(super) const HOUR: f64 = 3_600.0;
pub(super) const DAY: f64 = 86_400.0;

/// The longest time of an ordinary call. A caller that can wait for longer is never late by it.
pub(super) const LIVE: f64 = 110.0;

/// A call that can wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) at: f64,
    pub(super) tolerance: f64,
    /// The cost of an ordinary call, in any unit.
    pub(super) cost: f64,
}

impl Call {
    pub(super) fn deadline(&self) -> f64 {
        self.at + self.tolerance
    }
}

/// A load of calls, and the server that it meets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// Calls per minute.
    rate: f64,
    /// Shares of the tolerances, each between two times in hours.
    tolerances: &'static [(f64, f64, f64)],
    /// Calls that come all at once, every six hours.
    burst: usize,
    pub(super) server: Server,
}

/// The latencies of batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    /// The mean latency of most batches, in minutes.
    mean: f64,
    /// The deviation of the logarithm.
    sigma: f64,
    /// The share of batches that take hours.
    slow: f64,
    /// The share of calls that fail and can be sent again.
    pub(super) errors: f64,
}

const USUAL: Server = Server {
    mean: 8.0,
    sigma: 0.9,
    slow: 0.01,
    errors: 0.005,
};

pub(super) const LOADS: [Load; 5] = [
    Load {
        id: "B1",
        title: "mixed tolerances: 5 % 15-30 min, 15 % 1 h, 30 % 4 h, 50 % 24 h; 3 calls a minute",
        rate: 3.0,
        tolerances: &[
            (0.05, 0.25, 0.5),
            (0.15, 1.0, 1.0),
            (0.3, 4.0, 4.0),
            (0.5, 24.0, 24.0),
        ],
        burst: 0,
        server: USUAL,
    },
    Load {
        id: "B2",
        title: "few calls, 2-6 h: one every five minutes",
        rate: 0.2,
        tolerances: &[(1.0, 2.0, 6.0)],
        burst: 0,
        server: USUAL,
    },
    Load {
        id: "B3",
        title: "nightly jobs: 500 calls at once every six hours, 8-24 h, beside 1 call a minute",
        rate: 1.0,
        tolerances: &[(1.0, 8.0, 24.0)],
        burst: 500,
        server: USUAL,
    },
    Load {
        id: "B4",
        title: "short tolerances, 45-90 min: 2 calls a minute",
        rate: 2.0,
        tolerances: &[(1.0, 0.75, 1.5)],
        burst: 0,
        server: USUAL,
    },
    Load {
        id: "B5",
        title: "mixed tolerances of 4-24 h at a busy server: batches take an hour, 5 % take many",
        rate: 2.0,
        tolerances: &[(0.4, 4.0, 8.0), (0.6, 8.0, 24.0)],
        burst: 0,
        server: Server {
            mean: 60.0,
            sigma: 0.7,
            slow: 0.05,
            errors: 0.01,
        },
    },
];

impl Load {
    /// Returns the calls within this time, in order.
    pub(super) fn calls(&self, rng: &mut fastrand::Rng, end: f64) -> Vec<Call> {
        let mut calls = Vec::new();
        let mut at = 0.0;
        loop {
            at += exponential(rng, MINUTE / self.rate);
            if at > end {
                break;
            }
            calls.push(self.call(rng, at));
        }
        let mut at = HOUR;
        while self.burst > 0 && at < end {
            calls.extend((0..self.burst).map(|_| self.call(rng, at)));
            at += 6.0 * HOUR;
        }
        calls.sort_by(|a, b| a.at.total_cmp(&b.at));
        calls
    }

    fn call(&self, rng: &mut fastrand::Rng, at: f64) -> Call {
        let mut share = rng.f64();
        let mut range = (1.0, 1.0);
        for (part, from, to) in self.tolerances {
            range = (*from, *to);
            share -= part;
            if share <= 0.0 {
                break;
            }
        }
        let tolerance = HOUR * (range.0 + (range.1 - range.0) * rng.f64());
        let cost = lognormal(rng, 1.0, 1.0);
        Call {
            at,
            tolerance,
            cost,
        }
    }
}

impl Server {
    /// Returns the time that a batch takes.
    pub(super) fn latency(&self, rng: &mut fastrand::Rng) -> f64 {
        let time = if rng.f64() < self.slow {
            HOUR * (2.0 + 10.0 * rng.f64())
        } else {
            MINUTE * lognormal(rng, self.mean, self.sigma)
        };
        time.clamp(MINUTE, DAY)
    }
}

/// Returns the time of an ordinary call.
pub(super) fn live_time(rng: &mut fastrand::Rng) -> f64 {
    exponential(rng, 20.0).min(LIVE)
}

/// The results of one strategy under one load.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) calls: usize,
    /// Calls that a batch has answered in time.
    pub(super) batched: usize,
    /// Calls that were answered too late although an ordinary call would have been in time.
    pub(super) missed: usize,
    /// The cost if all calls were ordinary ones.
    pub(super) full: f64,
    pub(super) paid: f64,
    /// Batches that were created.
    pub(super) batches: usize,
    /// Calls that were billed twice.
    pub(super) twice: usize,
}

impl Tally {
    /// Counts an answer.
    pub(super) fn answer(&mut self, call: &Call, at: f64, by_batch: bool) {
        let is_late = at > call.deadline();
        self.missed += usize::from(is_late && call.tolerance >= LIVE);
        self.batched += usize::from(by_batch && !is_late);
    }
}
