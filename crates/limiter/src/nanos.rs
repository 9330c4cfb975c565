//! Conversion of durations to whole nanoseconds.

use std::time::Duration;

/// Returns the duration in nanoseconds, at most `u64::MAX` (584 years).
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
