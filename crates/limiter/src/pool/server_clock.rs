//! The server's clock, as an offset to local time learned from `Date` headers.
//!
//! A `Date` is rounded to whole seconds and delayed by the response's way. Local time minus `Date`
//! is therefore too small only by the rounding, and its minimum over some minutes is right to a
//! fraction of a second. The local wall clock plays no part.

use std::time::{SystemTime, UNIX_EPOCH};

const SECOND: i128 = 1_000_000_000;

/// Half of the time over which the minimum is taken.
const HALF_WINDOW: u64 = 300_000_000_000;

/// A larger difference is a clock that was set, not a slow response.
const JUMP: i128 = 2 * SECOND;

/// The number of later offsets in a row that make a restart. A single one is a delayed response.
const RESTART_AFTER: u32 = 3;

/// Server time as an offset to local time, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    /// The minimum of this half window, of the one before, and of both.
    least: Option<i128>,
    before: Option<i128>,
    offset: Option<i128>,
    since: u64,
    /// Later offsets in a row, and their minimum.
    late: u32,
    least_late: i128,
}

impl ServerClock {
    /// Records the `Date` of a response that arrived now.
    pub(crate) fn observe(&mut self, now: u64, date: SystemTime) {
        let Some(date) = unix_nanos(date) else { return };
        let offset = i128::from(now) - date;
        let Some(known) = self.offset else {
            self.restart(now, offset);
            return;
        };
        if offset < known - JUMP {
            self.restart(now, offset);
            return;
        }
        if offset > known + JUMP {
            self.least_late = if self.late == 0 {
                offset
            } else {
                self.least_late.min(offset)
            };
            self.late += 1;
            if self.late >= RESTART_AFTER {
                let least = self.least_late;
                self.restart(now, least);
            }
            return;
        }
        self.late = 0;
        if now.saturating_sub(self.since) >= HALF_WINDOW {
            self.before = self.least;
            self.least = Some(offset);
            self.since = now;
        } else if self.least.is_none_or(|least| offset < least) {
            self.least = Some(offset);
        } else {
            return;
        }
        self.offset = match (self.least, self.before) {
            (Some(least), Some(before)) => Some(least.min(before)),
            (least, before) => least.or(before),
        };
    }

    /// Returns the local time of a timestamp of the server, or `None` before the first `Date`.
    pub(crate) fn local(&self, timestamp: SystemTime) -> Option<i128> {
        let offset = self.offset?;
        Some(unix_nanos(timestamp)? + offset)
    }

    fn restart(&mut self, now: u64, offset: i128) {
        *self = Self {
            least: Some(offset),
            offset: Some(offset),
            since: now,
            ..Self::default()
        };
    }
}

fn unix_nanos(time: SystemTime) -> Option<i128> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i128::try_from(since.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const S: u64 = 1_000_000_000;

    impl ServerClock {
        /// Returns the nanoseconds from local time `now` to a timestamp, negative if it has passed.
        fn until(&self, now: u64, timestamp: SystemTime) -> Option<i128> {
            Some(self.local(timestamp)? - i128::from(now))
        }
    }

    fn date(nanos: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_nanos(nanos)
    }

    /// Records a response that the server sent at `sent`, with a whole-second `Date`.
    fn receive(clock: &mut ServerClock, sent: u64, delay: u64) {
        clock.observe(sent + delay, date(sent - sent % S));
    }

    #[test]
    fn minimum_of_many_offsets_is_right_to_a_fraction_of_a_second() {
        let mut clock = ServerClock::default();
        assert_eq!(clock.until(0, date(0)), None);
        for index in 0..100 {
            let sent = index * 1_370_000_000;
            receive(&mut clock, sent, 20_000_000 + index % 7 * 100_000_000);
        }
        let off = clock.until(200 * S, date(200 * S)).unwrap();
        assert!((0..100_000_000).contains(&off), "{off}");
    }

    #[test]
    fn single_slow_or_cached_response_does_not_change_the_offset() {
        let mut clock = ServerClock::default();
        receive(&mut clock, 10 * S, 0);
        receive(&mut clock, 11 * S, 30 * S);
        receive(&mut clock, 42 * S, 0);
        receive(&mut clock, 43 * S, 30 * S);
        receive(&mut clock, 74 * S, 30 * S);
        assert_eq!(clock.until(50 * S, date(50 * S)), Some(0));
    }

    #[test]
    fn clock_that_was_set_is_followed_in_both_directions() {
        for jump in [-3_600_i64, -5, 5, 3_600] {
            let mut clock = ServerClock::default();
            receive(&mut clock, 10 * S, 0);
            let set = |at: u64| date(at.checked_add_signed(jump * S as i64).unwrap());
            for at in [5_000, 5_001, 5_002] {
                clock.observe(at * S, set(at * S));
            }
            assert_eq!(clock.until(9_000 * S, set(9_000 * S)), Some(0), "{jump}");
        }
    }

    #[test]
    fn clock_drift_is_followed() {
        let mut clock = ServerClock::default();
        receive(&mut clock, 0, 0);
        // Our clock runs 0.1 % fast.
        for sent in (0..1_800).step_by(10) {
            clock.observe(sent * S + sent * S / 1_000, date(sent * S));
        }
        let off = clock.until(1_800 * S + 1_800 * S / 1_000, date(1_800 * S));
        assert!(off.unwrap().abs() < i128::from(S), "{off:?}");
    }
}
