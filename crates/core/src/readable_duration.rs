//! Durations in messages for people.

use std::{fmt, time::Duration};

/// Returns the duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration as people write it: `0 s`, `350 ms`, `1.5 s`, `2 min 5 s`, `1 h`.
///
/// It is rounded to what a reader needs. A time under a millisecond is `1 ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadableDuration(pub Duration);

impl fmt::Display for ReadableDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u128 = 60;
        const HOUR: u128 = 60 * MINUTE;
        const DAY: u128 = 24 * HOUR;
        let millis = self.0.as_nanos().div_ceil(1_000_000);
        let tenths = (millis + 50) / 100;
        if millis > 0 && millis < 1_000 {
            return write!(f, "{millis} ms");
        }
        if tenths < 10 * MINUTE {
            write!(f, "{}", tenths / 10)?;
            return match tenths % 10 {
                0 => f.write_str(" s"),
                tenth => write!(f, ".{tenth} s"),
            };
        }
        let seconds = (millis + 500) / 1_000;
        let (count, unit, rest, smaller) = if seconds < HOUR {
            (seconds / MINUTE, "min", seconds % MINUTE, "s")
        } else if seconds < DAY {
            (seconds / HOUR, "h", seconds % HOUR / MINUTE, "min")
        } else {
            (seconds / DAY, "d", seconds % DAY / HOUR, "h")
        };
        write!(f, "{count} {unit}")?;
        match rest {
            0 => Ok(()),
            rest => write!(f, " {rest} {smaller}"),
        }
    }
}
