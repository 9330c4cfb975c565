//! Locks, clock and timer of [`LocalLimiter`](crate::LocalLimiter). Unit tests replace them with
//! shuttle's locks and a mock clock, to explore schedules.

#[cfg(test)]
pub(crate) mod mock;

#[cfg(test)]
pub(crate) use mock::{Mutex, MutexGuard, RwLock, Sleep, now, sleep_until};

#[cfg(not(test))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock};
#[cfg(not(test))]
pub(crate) use tokio::time::{Sleep, sleep_until};

/// Returns the current time.
#[cfg(not(test))]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
