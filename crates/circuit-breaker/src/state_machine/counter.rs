//! The counters of a closed circuit.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{config::BreakerConfig, window::Window};

/// The failures in a row, and the window of recent calls if a rate is configured.
#[derive(Clone, Debug)]
pub(super) struct OutcomeCounter {
    /// The instants of the last failures since the last success.
    failures: VecDeque<Instant>,
    /// Created with the first call that is counted for a rate.
    window: Option<Box<Window>>,
}

impl OutcomeCounter {
    pub(super) const fn new() -> Self {
        Self {
            failures: VecDeque::new(),
            window: None,
        }
    }

    /// Counts a success. Returns true if the circuit must open, which slow calls can cause.
    pub(super) fn success(&mut self, config: &BreakerConfig, now: Instant, slow: bool) -> bool {
        self.failures.clear();
        self.record_rate(config, now, false, slow)
    }

    /// Counts a failure. Returns true if the circuit must open.
    pub(super) fn failure(&mut self, config: &BreakerConfig, now: Instant) -> bool {
        let most = config.failures.get() as usize;
        if self.failures.len() >= most {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        let in_a_row = self.failures.len() >= most
            && self
                .failures
                .front()
                .is_some_and(|first| now.saturating_duration_since(*first) <= config.within);
        in_a_row || self.record_rate(config, now, true, false)
    }

    /// Returns the number of failures since the last success, up to the number that opens the
    /// circuit.
    pub(super) fn failures(&self) -> usize {
        self.failures.len()
    }

    /// Returns the age of each failure.
    #[cfg(test)]
    pub(super) fn ages(&self, now: Instant) -> Vec<std::time::Duration> {
        let ages = self.failures.iter();
        ages.map(|at| now.saturating_duration_since(*at)).collect()
    }

    /// Returns true if nothing that was counted can open the circuit any more.
    pub(super) fn is_stale(&self, config: &BreakerConfig, now: Instant) -> bool {
        let recent = self
            .failures
            .back()
            .is_some_and(|last| now.saturating_duration_since(*last) <= config.within);
        !recent
            && self
                .window
                .as_ref()
                .is_none_or(|window| window.is_over(now))
    }

    fn record_rate(
        &mut self,
        config: &BreakerConfig,
        now: Instant,
        failed: bool,
        slow: bool,
    ) -> bool {
        if config.failure_rate.is_none() && config.slow_calls.is_none() {
            return false;
        }
        let window = self
            .window
            .get_or_insert_with(|| Box::new(Window::new(now)));
        window.record(now, failed, slow);
        if !failed && !slow {
            return false;
        }
        let sum = window.sum();
        let (failure_rate, slow_rate) = (config.failure_rate, config.slow_calls);
        failure_rate.is_some_and(|rate| sum.reaches(sum.failed, rate.min_calls.get(), rate.share))
            || slow_rate.is_some_and(|rate| sum.reaches(sum.slow, rate.min_calls.get(), rate.share))
    }
}
