//! The acceleration limit: a maximum growth of the traffic.

use std::time::Duration;

/// An acceleration limit. A window admits at most `growth_percent` of the requests of the previous
/// window, but at least `floor`.
///
/// The API has such a limit but does not publish its threshold. This one is simple enough for
/// tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// Length of a window. The windows are consecutive from the server's start. Zero counts as one
    /// nanosecond.
    pub window: Duration,
    /// Maximum number of requests in a window, in per cent of the previous window. 200 allows the
    /// traffic to double.
    pub growth_percent: u32,
    /// Number of requests that every window admits, so that traffic can start.
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

    /// Returns the nanoseconds until one more request can be admitted. 0 is now.
    pub(crate) fn wait(&mut self, now: u64) -> u64 {
        self.advance(now);
        let grown = u128::from(self.previous) * u128::from(self.ramp.growth_percent) / 100;
        if u128::from(self.current) < grown.max(u128::from(self.ramp.floor)) {
            return 0;
        }
        // At least 1, because 0 means that the request can be admitted now.
        self.index
            .saturating_add(1)
            .saturating_mul(self.window)
            .saturating_sub(now)
            .max(1)
    }

    /// Counts one admission in the window that `wait` has selected.
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
