//! The acceleration limit: traffic may grow only so fast.

use std::time::Duration;

/// An acceleration limit: the requests admitted in one window may be at most `growth_percent` of those of the window
/// before, and never have to be fewer than `floor`.
///
/// The API has such a limit and does not publish its threshold; this one is simple enough to reason about in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// Length of a window; windows lie end to end from the server's start. Zero counts as one nanosecond.
    pub window: Duration,
    /// Allowed size of a window in per cent of the one before: 200 lets traffic double.
    pub growth_percent: u32,
    /// Requests a window may always admit, so that traffic can start at all.
    pub floor: u64,
}

/// Counts admissions against a [`Ramp`].
#[derive(Clone, Debug)]
pub(crate) struct RampMeter {
    ramp: Ramp,
    window: u64,
    index: u64,
    previous: u64,
    current: u64,
}

impl RampMeter {
    pub(crate) fn new(ramp: Ramp) -> Self {
        let window = u64::try_from(ramp.window.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        Self {
            ramp,
            window,
            index: 0,
            previous: 0,
            current: 0,
        }
    }

    /// Nanoseconds until one more request may come; 0 is now.
    pub(crate) fn wait(&mut self, now: u64) -> u64 {
        self.advance(now);
        let grown = u128::from(self.previous) * u128::from(self.ramp.growth_percent) / 100;
        if u128::from(self.current) < grown.max(u128::from(self.ramp.floor)) {
            return 0;
        }
        // At least 1: a limit that never lets anything through must not read as "now".
        self.index
            .saturating_add(1)
            .saturating_mul(self.window)
            .saturating_sub(now)
            .max(1)
    }

    /// Counts one admission in the window that `wait` brought up to date.
    pub(crate) fn count(&mut self) {
        self.current += 1;
    }

    fn advance(&mut self, now: u64) {
        let index = now / self.window;
        if index <= self.index {
            return;
        }
        self.previous = if index == self.index + 1 {
            self.current
        } else {
            0
        };
        self.current = 0;
        self.index = index;
    }
}
