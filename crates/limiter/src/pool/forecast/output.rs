//! The estimator of output tokens: a running mean by workload and size of `max_tokens`.

use tower_claude_core::Cost;

use crate::pool::{
    float::rounded_up,
    forecast::{lru_table::LruTable, mean::Mean},
};

/// The upper bound of one response's variance, so that no sum overflows.
const MAX_VARIANCE: f64 = (1_u64 << 40) as f64;

/// The key of requests with a mean of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputKey(u64);

impl OutputKey {
    /// Returns the key of the workload and of `max_tokens` by powers of four, since callers choose
    /// among few values.
    pub(crate) const fn of(cost: &Cost) -> Self {
        let band = match cost.max_output_tokens {
            None => 0,
            Some(0) => 1,
            Some(max) => 2 + max.ilog2() as u64 / 2,
        };
        Self(cost.workload.to_bits() << 6 | band)
    }
}

/// The slot that counts a request in flight. `None` is the shared slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputSlot(Option<u8>);

/// The mean of one key, and its requests in flight.
#[derive(Debug, Default)]
struct OutputStats {
    mean: Mean,
    in_flight: u64,
    /// The variance of one request, in whole square tokens, so that the sum stays exact.
    variance: u64,
}

impl OutputStats {
    fn update_variance(&mut self, all: &Mean) {
        let variance = self.mean.variance_within(all);
        self.variance = rounded_up(variance.min(MAX_VARIANCE));
    }
}

/// Means by key, and the variance of all requests in flight.
#[derive(Debug, Default)]
pub(crate) struct OutputEstimator {
    all: Mean,
    keys: LruTable<OutputStats>,
    /// Requests in flight that found no slot of their own.
    others: OutputStats,
    /// The sum of the variances of the requests in flight, in square tokens.
    variance: u64,
}

impl OutputEstimator {
    /// Returns the mean of the whole scope.
    pub(crate) fn mean(&self) -> Option<f64> {
        self.all.mean()
    }

    /// Returns the mean of one key.
    pub(crate) fn mean_of(&self, key: OutputKey) -> Option<f64> {
        match self.keys.get(key.0) {
            Some(stats) => stats.mean.mean_within(&self.all),
            None => self.all.mean(),
        }
    }

    /// Returns the variance of the sum that the requests in flight will use.
    pub(crate) const fn variance(&self) -> f64 {
        self.variance as f64
    }

    /// Records that a request is in flight.
    pub(crate) fn on_sent(&mut self, key: OutputKey) -> OutputSlot {
        let slot = self.keys.claim(key.0, |stats| stats.in_flight == 0);
        let slot = OutputSlot(slot.and_then(|slot| u8::try_from(slot).ok()));
        self.count(slot, |in_flight| in_flight + 1);
        slot
    }

    /// Records that a request is no longer in flight.
    pub(crate) fn on_ended(&mut self, slot: OutputSlot) {
        self.count(slot, |in_flight| in_flight.saturating_sub(1));
    }

    /// Learns from the output of a response.
    pub(crate) fn learn(&mut self, slot: OutputSlot, tokens: u64) {
        self.all.learn(tokens);
        self.change(slot, |stats, all| {
            stats.mean.learn(tokens);
            stats.update_variance(all);
        });
    }

    fn count(&mut self, slot: OutputSlot, change: impl FnOnce(u64) -> u64) {
        self.change(slot, |stats, all| {
            stats.in_flight = change(stats.in_flight);
            // A key with few samples is blended with the scope's mean, which has learned since.
            if !stats.mean.has_enough_samples() {
                stats.update_variance(all);
            }
        });
    }

    /// Changes the statistics of a slot and keeps the sum of variances up to date.
    fn change(&mut self, slot: OutputSlot, change: impl FnOnce(&mut OutputStats, &Mean)) {
        let own = slot.0.and_then(|slot| self.keys.at(slot.into()));
        let stats = own.unwrap_or(&mut self.others);
        self.variance -= stats.in_flight * stats.variance;
        change(stats, &self.all);
        self.variance += stats.in_flight * stats.variance;
    }
}
