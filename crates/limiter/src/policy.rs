//! Policies of the limiter: sharing and slow start.

use std::time::Duration;

/// The use of the same limits by other processes.
///
/// A shared level is held in the middle of its bucket instead of near empty. Each process paces
/// itself by the level that the headers show, and sends more slowly at a lower level. So all
/// processes get the same share, and neither full buckets nor 429s waste capacity. The price is
/// that a burst is spread out, to at most four times the limit's rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// Like [`Exclusive`](Self::Exclusive), until an unexpected 429 or a decrease of a level that
    /// own use does not explain. Then like [`Shared`](Self::Shared) for at least ten minutes.
    #[default]
    Auto,
    /// No other use. All that the levels allow is used at once.
    Exclusive,
    /// Use by other processes or users, without a common store.
    Shared,
}

/// A slow start after idling: the pace begins at a quarter of the limit's rate and doubles until it
/// reaches the limit's rate. For servers that reject a sharp rise in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowStart {
    /// The time in which the pace doubles. Default 5 s, so a slow start takes 10 s.
    pub doubles_in: Duration,
    /// The idle time before a slow start. Default 60 s. A pause after a 429 always counts as
    /// idling.
    pub after_idle: Duration,
}

impl SlowStart {
    /// Returns the recommendation.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            doubles_in: Duration::from_secs(5),
            after_idle: Duration::from_secs(60),
        }
    }

    /// Sets [`doubles_in`](Self::doubles_in).
    #[must_use]
    pub const fn with_doubles_in(mut self, time: Duration) -> Self {
        self.doubles_in = time;
        self
    }

    /// Sets [`after_idle`](Self::after_idle).
    #[must_use]
    pub const fn with_after_idle(mut self, time: Duration) -> Self {
        self.after_idle = time;
        self
    }
}

impl Default for SlowStart {
    fn default() -> Self {
        Self::new()
    }
}
