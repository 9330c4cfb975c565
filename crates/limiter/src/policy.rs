//! Choices of a limiter's behaviour that are more than a number.

use std::time::Duration;

/// Who else draws on the limits that a limiter keeps.
///
/// A level that others draw on is held in the middle of its bucket instead of near empty: each process
/// paces itself by the level that the headers show, a little slower the lower it is, and so all of them
/// get the same share, nothing is lost to a full bucket and nothing to a 429. Price: a burst is
/// spread out, at four times the limit's rate at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// As [`Exclusive`](Self::Exclusive), until a 429 that the levels did not expect or a level that
    /// others must have drained; then as [`Shared`](Self::Shared) for ten minutes at least.
    #[default]
    Auto,
    /// Nobody: everything the levels allow is used at once.
    Exclusive,
    /// Other processes or users, without a common store.
    Shared,
}

/// The slow start after rest: nothing is sent faster than a quarter of the limit's rate at first, and
/// that doubles until it is all of it. For servers that refuse a sharp rise in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowStart {
    /// The time in which the pace doubles. Default 5 s: ten seconds in all.
    pub doubles_in: Duration,
    /// How long nothing must have been sent. Default 60 s. A pause after a 429 is rest of any length.
    pub after_idle: Duration,
}

impl SlowStart {
    /// The recommendation.
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
