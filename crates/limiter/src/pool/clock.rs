//! The server's clock, seen through `Date` headers.
//!
//! A `Date` is whole seconds and as old as the response's way here. Local time minus `Date` is
//! therefore never too small but for the server's own rounding, and its least value over a while is
//! right to a fraction of a second. Our own wall clock plays no part.

use std::time::{SystemTime, UNIX_EPOCH};

const SECOND: i128 = 1_000_000_000;

/// Half of the time over which the least is taken.
const HALF_WINDOW: u64 = 300_000_000_000;

/// What is further off is a clock that was set, not a slow response.
const JUMP: i128 = 2 * SECOND;

/// So many in a row make a later offset believed: a single one is a response that was under way long.
const BELIEVED: u32 = 3;

/// Server time as an offset to local time.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    /// The least offset of this half window and of the one before, and of both.
    least: Option<i128>,
    before: Option<i128>,
    offset: Option<i128>,
    since: u64,
    /// Later offsets in a row, and the least of them.
    late: u32,
    least_late: i128,
}

impl ServerClock {
    /// A response that said this `Date` arrived now.
    pub(crate) fn heard(&mut self, now: u64, date: SystemTime) {
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
            if self.late >= BELIEVED {
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

    /// The local time of a stamp of the server's; `None` before the first `Date`.
    pub(crate) fn local(&self, stamp: SystemTime) -> Option<i128> {
        let offset = self.offset?;
        Some(unix_nanos(stamp)? + offset)
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

/// Stamps before 1970 are nobody's.
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
        /// Nanoseconds from local time `now` to a stamp, negative when it has passed.
        fn until(&self, now: u64, stamp: SystemTime) -> Option<i128> {
            Some(self.local(stamp)? - i128::from(now))
        }
    }

    fn date(nanos: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_nanos(nanos)
    }

    /// Sent by the server at `sent`, with a whole-second `Date`.
    fn hear(clock: &mut ServerClock, sent: u64, delay: u64) {
        clock.heard(sent + delay, date(sent - sent % S));
    }

    #[test]
    fn the_least_of_many_is_right_to_a_fraction_of_a_second() {
        let mut clock = ServerClock::default();
        assert_eq!(clock.until(0, date(0)), None);
        for index in 0..100 {
            let sent = index * 1_370_000_000;
            hear(&mut clock, sent, 20_000_000 + index % 7 * 100_000_000);
        }
        let off = clock.until(200 * S, date(200 * S)).unwrap();
        assert!((0..100_000_000).contains(&off), "{off}");
    }

    #[test]
    fn one_slow_response_or_a_cached_one_changes_nothing() {
        let mut clock = ServerClock::default();
        hear(&mut clock, 10 * S, 0);
        hear(&mut clock, 11 * S, 30 * S);
        hear(&mut clock, 42 * S, 0);
        hear(&mut clock, 43 * S, 30 * S);
        hear(&mut clock, 74 * S, 30 * S);
        assert_eq!(clock.until(50 * S, date(50 * S)), Some(0));
    }

    #[test]
    fn a_clock_that_was_set_is_followed_either_way() {
        for jump in [-3_600_i64, -5, 5, 3_600] {
            let mut clock = ServerClock::default();
            hear(&mut clock, 10 * S, 0);
            let set = |at: u64| date(at.checked_add_signed(jump * S as i64).unwrap());
            for at in [5_000, 5_001, 5_002] {
                clock.heard(at * S, set(at * S));
            }
            assert_eq!(clock.until(9_000 * S, set(9_000 * S)), Some(0), "{jump}");
        }
    }

    #[test]
    fn old_offsets_fade_so_that_drift_is_followed() {
        let mut clock = ServerClock::default();
        hear(&mut clock, 0, 0);
        // Our clock runs 0.1 % fast.
        for sent in (0..1_800).step_by(10) {
            clock.heard(sent * S + sent * S / 1_000, date(sent * S));
        }
        let off = clock.until(1_800 * S + 1_800 * S / 1_000, date(1_800 * S));
        assert!(off.unwrap().abs() < i128::from(S), "{off:?}");
    }
}
