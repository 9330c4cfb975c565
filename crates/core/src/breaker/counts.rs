//! What is counted while a circuit is closed.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{BreakerConfig, window::Window};

#[derive(Clone, Debug)]
pub(super) struct Counts {
    /// Instants of the last failures since the last success.
    failures: VecDeque<Instant>,
    /// Made when a rate is first asked for.
    window: Option<Box<Window>>,
}

impl Counts {
    pub(super) const fn new() -> Self {
        Self {
            failures: VecDeque::new(),
            window: None,
        }
    }

    /// Counts a success. Whether the circuit is to open, which slow ones may demand.
    pub(super) fn success(&mut self, config: &BreakerConfig, now: Instant, slow: bool) -> bool {
        self.failures.clear();
        self.rate(config, now, false, slow)
    }

    /// Counts a failure. Whether the circuit is to open.
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
        in_a_row || self.rate(config, now, true, false)
    }

    /// Failures since the last success, as far as they are kept.
    pub(super) fn failures(&self) -> usize {
        self.failures.len()
    }

    /// How long ago each of them was.
    #[cfg(test)]
    pub(super) fn ages(&self, now: Instant) -> Vec<std::time::Duration> {
        let ages = self.failures.iter();
        ages.map(|at| now.saturating_duration_since(*at)).collect()
    }

    /// Whether nothing that was counted can still matter.
    pub(super) fn are_over(&self, config: &BreakerConfig, now: Instant) -> bool {
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

    fn rate(&mut self, config: &BreakerConfig, now: Instant, failed: bool, slow: bool) -> bool {
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
        let failures = config.failure_rate;
        let slows = config.slow_calls;
        failures.is_some_and(|rate| sum.reach(sum.failed, rate.min_calls.get(), rate.share))
            || slows.is_some_and(|rate| sum.reach(sum.slow, rate.min_calls.get(), rate.share))
    }
}
