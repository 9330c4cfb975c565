//! A plain client-side bucket of three limits, like in a common limiter library.

use crate::{
    units::{nanos, seconds},
    workload::Quota,
};

/// The levels of requests, input tokens and output tokens, each up to a minute's limit.
#[derive(Debug)]
pub(super) struct LevelSet {
    quota: Quota,
    levels: [f64; 3],
    at: u64,
}

impl LevelSet {
    pub(super) fn full(quota: Quota) -> Self {
        Self {
            levels: quota.0.map(|limit| limit as f64),
            quota,
            at: 0,
        }
    }

    /// Takes `cost`, or returns the time at which that is possible.
    pub(super) fn take(&mut self, now: u64, cost: [f64; 3]) -> Result<(), u64> {
        self.refill(now);
        let mut wait = 0.0_f64;
        for ((level, limit), cost) in self.levels.iter().zip(self.quota.0).zip(cost) {
            let need = cost.min(limit as f64);
            wait = wait.max((need - level) * 60.0 / limit as f64);
        }
        if wait > 0.0 {
            return Err(now + nanos(wait) + 1);
        }
        for (level, cost) in self.levels.iter_mut().zip(cost) {
            *level -= cost;
        }
        Ok(())
    }

    /// Sets the levels.
    pub(super) fn set(&mut self, now: u64, levels: [f64; 3]) {
        self.refill(now);
        self.levels = levels;
    }

    fn refill(&mut self, now: u64) {
        let elapsed = seconds(now.saturating_sub(self.at));
        self.at = self.at.max(now);
        for (level, limit) in self.levels.iter_mut().zip(self.quota.0) {
            let limit = limit as f64;
            *level = (*level + elapsed * limit / 60.0).min(limit);
        }
    }
}
