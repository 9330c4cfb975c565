//! The input of requests: how far estimates are from the truth, by workload.

use tower_claude_core::Workload;

use super::{
    kinds::Kinds,
    predict::{Error, Ratio},
};

/// Until so many answers were seen the input error is taken to be at least [`PRIOR_ERROR`].
const FEW: u32 = 32;
const PRIOR_ERROR: f64 = 0.1;

/// Running ratios of actual to estimated input tokens, and the relative error that remains.
#[derive(Debug, Default)]
pub(crate) struct Input {
    all: Ratio,
    workloads: Kinds<Ratio>,
    error: Error,
}

impl Input {
    /// The ratio of the whole scope.
    pub(crate) fn ratio(&self) -> f64 {
        self.all.ratio()
    }

    /// The ratio of one workload.
    pub(crate) fn ratio_of(&self, workload: Workload) -> f64 {
        match self.workloads.get(workload.to_bits()) {
            Some(ratio) => ratio.ratio_within(&self.all),
            None => self.all.ratio(),
        }
    }

    /// Whether the ratios rest on few answers.
    pub(crate) const fn is_young(&self) -> bool {
        self.error.samples() < FEW
    }

    /// The standard error of one estimate after correction, relative to its size.
    pub(crate) fn error(&self) -> f64 {
        let Some(error) = self.error.error() else {
            return if self.error.samples() == 0 {
                0.0
            } else {
                PRIOR_ERROR
            };
        };
        if self.is_young() {
            error.max(PRIOR_ERROR)
        } else {
            error
        }
    }

    pub(crate) fn learn(&mut self, workload: Workload, estimate: u64, actual: u64) {
        if estimate == 0 {
            return;
        }
        let (estimate, actual) = (estimate as f64, actual as f64);
        self.all.learn(estimate, actual);
        let place = self.workloads.claim(workload.to_bits(), |_| true);
        if let Some(own) = place.and_then(|place| self.workloads.at(place)) {
            own.learn(estimate, actual);
        }
        self.error.learn(estimate * self.ratio_of(workload), actual);
    }

    /// An estimate that stands by itself: only its error is learned. One that was wrong altogether, like
    /// an expected cache read that did not come, counts as an error of its own size, lest it drown all
    /// others.
    pub(crate) fn stray(&mut self, expected: u64, actual: u64) {
        if expected > 0 {
            let actual = actual.min(expected.saturating_mul(2));
            self.error.learn(expected as f64, actual as f64);
        }
    }
}
