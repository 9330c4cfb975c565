//! The estimator of input tokens: the ratio of actual to estimated tokens, by workload.

use tower_claude_core::Workload;

use crate::pool::forecast::{
    lru_table::LruTable,
    mean::{Ratio, RelativeError},
};

/// Below this many responses the error is taken to be at least [`PRIOR_ERROR`].
const FEW: u32 = 32;
const PRIOR_ERROR: f64 = 0.1;

/// Running ratios of actual to estimated input tokens, and the relative error that remains.
#[derive(Debug, Default)]
pub(crate) struct InputEstimator {
    all: Ratio,
    workloads: LruTable<Ratio>,
    error: RelativeError,
    /// Input in flight that the server's count of is not known yet.
    uncounted: u64,
}

impl InputEstimator {
    /// Returns the ratio of the whole scope.
    pub(crate) fn ratio(&self) -> f64 {
        self.all.ratio()
    }

    /// Returns the ratio of one workload.
    pub(crate) fn ratio_of(&self, workload: Workload) -> f64 {
        match self.workloads.get(workload.to_bits()) {
            Some(ratio) => ratio.ratio_within(&self.all),
            None => self.all.ratio(),
        }
    }

    pub(crate) const fn uncounted(&self) -> u64 {
        self.uncounted
    }

    pub(crate) const fn add_uncounted(&mut self, tokens: u64) {
        self.uncounted += tokens;
    }

    pub(crate) const fn remove_uncounted(&mut self, tokens: u64) {
        self.uncounted -= tokens;
    }

    pub(crate) const fn has_few_samples(&self) -> bool {
        self.error.samples() < FEW
    }

    /// Returns the standard error of one corrected estimate, relative to its size.
    pub(crate) fn error(&self) -> f64 {
        match self.error.error() {
            Some(error) if self.has_few_samples() => error.max(PRIOR_ERROR),
            Some(error) => error,
            None if self.error.samples() == 0 => 0.0,
            None => PRIOR_ERROR,
        }
    }

    pub(crate) fn learn(&mut self, workload: Workload, estimate: u64, actual: u64) {
        if estimate == 0 {
            return;
        }
        let (estimate, actual) = (estimate as f64, actual as f64);
        self.all.learn(estimate, actual);
        let slot = self.workloads.claim(workload.to_bits(), |_| true);
        if let Some(own) = slot.and_then(|slot| self.workloads.at(slot)) {
            own.learn(estimate, actual);
        }
        self.error.learn(estimate * self.ratio_of(workload), actual);
    }

    /// Learns only the error of an estimate that no ratio corrects, or that was wrong altogether.
    /// It counts as at most twice its size, so that it does not hide all other errors.
    pub(crate) fn learn_outlier(&mut self, expected: u64, actual: u64) {
        if expected > 0 {
            let actual = actual.min(expected.saturating_mul(2));
            self.error.learn(expected as f64, actual as f64);
        }
    }
}
