//! The counters of a closed circuit.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

#[cfg(doc)]
use super::outcome::CircuitOutcome;
use super::{config::BreakerConfig, window::Window};

/// The time after a counted failure in which the failures of calls that were sent before it count
/// as the same failure. Later ones are news: calls that hang fail one by one.
const MOMENT: Duration = Duration::from_secs(1);

/// The points of a moment with a single failure. Each further failure in it adds one.
const POINTS: u32 = 2;

/// The failures in a row, and the window of recent calls if a rate is configured.
///
/// A row is the failures since the last success. It is counted in the order in which the calls were
/// sent, not in that in which they ended: a failure begins a new moment if its call was sent after
/// the last moment was known. So the calls that fail together, as on one lost connection, count
/// once, and a few quick failures among many calls that take longer are no row.
///
/// A burst of calls is not sent in one instant, and the first may fail before the last is sent. So
/// among calls that overlap, [incidents](CircuitOutcome::is_incident) count once in a second. Other
/// failures of a moment add to it, but a single moment never opens the circuit, unless a single
/// failure does.
#[derive(Clone, Debug)]
pub(super) struct OutcomeCounter {
    /// The last moments of the row.
    moments: VecDeque<Moment>,
    /// The number of moments and of ends of rows so far. A call remembers it when it is sent.
    position: u64,
    row: Row,
    /// Created with the first call that is counted for a rate.
    window: Option<Box<Window>>,
}

/// Failures that count together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) start: Instant,
    pub(super) points: u32,
    /// True if its first call was sent after the first failure of the row was known.
    pub(super) is_late: bool,
}

/// The calls of a row. Early calls were sent before the first failure was known, and late calls
/// after it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    /// The instant and the position of the first failure. Absent while there is none.
    start: Option<(Instant, u64)>,
    pub(super) early_failed: u32,
    pub(super) late_failed: u32,
    /// The number of late calls that have no outcome yet.
    pub(super) late_pending: u32,
    /// True if calls have failed together.
    pub(super) overlaps: bool,
}

impl Row {
    const NONE: Self = Self {
        start: None,
        early_failed: 0,
        late_failed: 0,
        late_pending: 0,
        overlaps: false,
    };

    fn is_late(&self, position: u64) -> bool {
        self.start.is_some_and(|(_, start)| start <= position)
    }
}

impl OutcomeCounter {
    pub(super) const fn new() -> Self {
        Self {
            moments: VecDeque::new(),
            position: 1,
            row: Row::NONE,
            window: None,
        }
    }

    /// Returns the position of a call that is not sent yet.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// Records that a call is sent, and returns its position.
    pub(super) fn enter(&mut self) -> u64 {
        if self.row.start.is_some() {
            self.row.late_pending += 1;
        }
        self.position
    }

    /// Records that a call that was sent has an outcome or was given up.
    pub(super) fn leave(&mut self, position: u64) {
        if self.row.is_late(position) {
            self.row.late_pending = self.row.late_pending.saturating_sub(1);
        }
    }

    /// Counts a success. Returns true if the circuit must open, which slow calls can cause.
    pub(super) fn success(&mut self, config: &BreakerConfig, now: Instant, slow: bool) -> bool {
        if self.row.start.is_some() {
            self.moments.clear();
            self.position += 1;
            self.row = Row::NONE;
        }
        self.record_rate(config, now, false, slow)
    }

    /// Counts the failure of a call that was sent at this position. `in_flight` other calls have
    /// been sent and have no outcome. The circuit must open at `most` failures in a row `within` a
    /// time.
    ///
    /// The failures of the early calls count once, and those of the late calls do not count, while
    /// more of these calls are pending than [such a row](is_credible) can have.
    pub(super) fn failure(
        &mut self,
        config: &BreakerConfig,
        now: Instant,
        (position, in_flight): (u64, u32),
        is_incident: bool,
        (most, within): (u32, Duration),
    ) -> FailureCount {
        let since = |at: Instant| now.saturating_duration_since(at);
        let row = &mut self.row;
        let is_late = row.is_late(position);
        let overlaps =
            position < self.position || is_incident && (row.overlaps || row.late_pending > 0);
        let last = self.moments.back_mut();
        let last = last.filter(|last| overlaps && since(last.start) < MOMENT);
        let is_same = last.is_some();
        row.overlaps |= is_same;
        if let Some(last) = last {
            let points = last.points + u32::from(!is_incident);
            last.points = points.min(POINTS * (most - 1).max(1));
        } else {
            if self.moments.len() >= most as usize {
                self.moments.pop_front();
            }
            self.moments.push_back(Moment {
                start: now,
                points: POINTS,
                is_late,
            });
            self.position += 1;
        }
        let (start, _) = *row.start.get_or_insert((now, self.position));
        let failed = if is_late {
            &mut row.late_failed
        } else {
            &mut row.early_failed
        };
        *failed = failed.saturating_add(1);
        let is_credible = |failed, pending| is_credible(failed, pending, since(start), config);
        let early_pending = in_flight.saturating_sub(row.late_pending);
        let points = |is_late| -> u32 {
            let moments = self.moments.iter();
            let recent = moments.filter(|moment| since(moment.start) <= within);
            let of_side = recent.filter(|moment| moment.is_late == is_late);
            of_side.map(|moment| moment.points).sum()
        };
        let mut sum = points(false);
        if !is_credible(row.early_failed, early_pending) {
            sum = sum.min(POINTS);
        }
        if is_credible(row.late_failed, row.late_pending) {
            sum += points(true);
        }
        let in_a_row = sum >= POINTS * most;
        FailureCount { is_same, in_a_row }
    }

    /// Counts a failure for the rates. Returns true if the circuit must open.
    pub(super) fn failure_rate(&mut self, config: &BreakerConfig, now: Instant) -> bool {
        self.record_rate(config, now, true, false)
    }

    /// Returns the number of moments since the last success, up to the number that opens the
    /// circuit.
    pub(super) fn failures(&self) -> usize {
        self.moments.len()
    }

    /// Returns the moments, the age of the row, and the row.
    #[cfg(test)]
    pub(super) fn look(&self, now: Instant) -> (Vec<Moment>, Option<Duration>, Row) {
        let age = |(start, _): (Instant, u64)| now.saturating_duration_since(start);
        let moments = self.moments.iter().copied().collect();
        (moments, self.row.start.map(age), self.row)
    }

    /// Returns true if a call at this position was sent before the row, and true if it was sent
    /// after the last counted failure.
    #[cfg(test)]
    pub(super) fn place(&self, position: u64) -> (bool, bool) {
        (!self.row.is_late(position), position >= self.position)
    }

    /// Returns true if nothing that was counted can open the circuit any more.
    pub(super) fn is_stale(&self, config: &BreakerConfig, now: Instant) -> bool {
        let recent = self
            .moments
            .back()
            .is_some_and(|last| now.saturating_duration_since(last.start) <= config.within);
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

/// Returns true if the pending calls of a row do not contradict it: two thirds of its calls have
/// failed. If no call succeeds for longer than a sixth of
/// [`within`](BreakerConfig::with_failures), a share that falls with the time suffices. So calls
/// that hang delay the opening, but do not prevent it.
fn is_credible(failed: u32, pending: u32, age: Duration, config: &BreakerConfig) -> bool {
    let within = config.within.as_nanos();
    let patience = within.max(age.as_nanos().saturating_mul(6));
    let of = |calls: u32, time: u128| time.saturating_mul(u128::from(calls));
    of(pending, 2 * within) <= of(failed, patience)
}

/// The effect of a failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailureCount {
    /// True if it failed together with a failure that was counted before.
    pub(super) is_same: bool,
    /// True if the failures in a row open the circuit.
    pub(super) in_a_row: bool,
}
