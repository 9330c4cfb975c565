//! The counters of a closed circuit.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

#[cfg(doc)]
use super::outcome::CircuitOutcome;
use super::{config::BreakerConfig, window::Window};

/// The time after a counted failure in which the failures of calls that were sent before it count
/// as the same failure. Later ones are news: calls that hang fail one by one.
const MOMENT: Duration = Duration::from_secs(1);

/// The failures in a row, and the window of recent calls if a rate is configured.
///
/// A row is the failures since the last success. It is counted in the order in which the calls were
/// sent, not in that in which they ended: a failure is counted if its call was sent after the last
/// counted failure was known. So the calls that fail together, as on one lost connection, count
/// once, and a few quick failures among many calls that take longer are no row.
///
/// A burst of calls is not sent in one instant, and the first may fail before the last is sent. So
/// among calls that overlap, [incidents](CircuitOutcome::is_incident) count once in a second.
#[derive(Clone, Debug)]
pub(super) struct OutcomeCounter {
    /// The instants of the last counted failures of the row.
    failures: VecDeque<Instant>,
    /// The number of counted failures and of ends of rows so far. A call remembers it when it is
    /// sent.
    position: u64,
    row: Row,
    /// Created with the first call that is counted for a rate.
    window: Option<Box<Window>>,
}

/// The calls of a row.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    /// The instant and the position of the first failure. Absent while there is none.
    start: Option<(Instant, u64)>,
    /// The number of failures, counted or not.
    failed: u32,
    /// The number of calls that were sent since the first failure and have no outcome yet.
    pending: u32,
    /// True if calls have failed together.
    overlaps: bool,
}

impl OutcomeCounter {
    pub(super) const fn new() -> Self {
        Self {
            failures: VecDeque::new(),
            position: 1,
            row: Row {
                start: None,
                failed: 0,
                pending: 0,
                overlaps: false,
            },
            window: None,
        }
    }

    /// Records that a call is sent, and returns its position.
    pub(super) fn enter(&mut self) -> u64 {
        if self.row.start.is_some() {
            self.row.pending += 1;
        }
        self.position
    }

    /// Records that a call has an outcome or was given up.
    pub(super) fn leave(&mut self, position: u64) {
        if self.row.start.is_some_and(|(_, start)| start <= position) {
            self.row.pending = self.row.pending.saturating_sub(1);
        }
    }

    /// Counts a success. Returns true if the circuit must open, which slow calls can cause.
    pub(super) fn success(&mut self, config: &BreakerConfig, now: Instant, slow: bool) -> bool {
        if self.row.start.is_some() {
            self.failures.clear();
            self.position += 1;
            self.row = Row::default();
        }
        self.record_rate(config, now, false, slow)
    }

    /// Counts the failure of a call that was sent at this position. The circuit must open at `most`
    /// failures in a row `within` a time.
    ///
    /// While more calls of the row are pending than have failed, their outcome is waited for, but
    /// not longer than half of [`within`](BreakerConfig::with_failures).
    pub(super) fn failure(
        &mut self,
        config: &BreakerConfig,
        now: Instant,
        position: u64,
        is_incident: bool,
        (most, within): (u32, Duration),
    ) -> FailureCount {
        let since = |at: Instant| now.saturating_duration_since(at);
        let is_recent = |last: &Instant| since(*last) < MOMENT;
        let overlaps =
            position < self.position || is_incident && (self.row.overlaps || self.row.pending > 0);
        let is_same = overlaps && self.failures.back().is_some_and(is_recent);
        self.row.overlaps |= is_same;
        if !is_same {
            if self.failures.len() >= most as usize {
                self.failures.pop_front();
            }
            self.failures.push_back(now);
            self.position += 1;
        }
        let (start, _) = *self.row.start.get_or_insert((now, self.position));
        self.row.failed = self.row.failed.saturating_add(1);
        let first = self.failures.front();
        let in_a_row = self.failures.len() >= most as usize
            && first.is_some_and(|first| since(*first) <= within)
            && (self.row.pending <= self.row.failed || since(start) >= config.within / 2);
        FailureCount { is_same, in_a_row }
    }

    /// Counts a failure for the rates. Returns true if the circuit must open.
    pub(super) fn failure_rate(&mut self, config: &BreakerConfig, now: Instant) -> bool {
        self.record_rate(config, now, true, false)
    }

    /// Returns the number of failures since the last success, up to the number that opens the
    /// circuit.
    pub(super) fn failures(&self) -> usize {
        self.failures.len()
    }

    /// Returns the age of each failure and of the row, how many calls have failed and are pending,
    /// and true if calls have failed together.
    #[cfg(test)]
    pub(super) fn look(&self, now: Instant) -> (Vec<Duration>, Option<Duration>, u32, u32, bool) {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        let ages = self.failures.iter().map(age).collect();
        let row = self.row.start.map(|(start, _)| age(&start));
        (
            ages,
            row,
            self.row.failed,
            self.row.pending,
            self.row.overlaps,
        )
    }

    /// Returns true if a call at this position was sent before the row, and true if it was sent
    /// after the last counted failure.
    #[cfg(test)]
    pub(super) fn place(&self, position: u64) -> (bool, bool) {
        let before = self.row.start.is_none_or(|(_, start)| position < start);
        (before, position >= self.position)
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

/// The effect of a failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailureCount {
    /// True if it failed together with a failure that was counted before.
    pub(super) is_same: bool,
    /// True if the failures in a row open the circuit.
    pub(super) in_a_row: bool,
}
