//! What the driver of pools takes from outside: locks, the clock, the timer. In unit tests an explorer of
//! schedules puts its own in their place.

#[cfg(test)]
pub(crate) mod by_hand;

#[cfg(test)]
pub(crate) use by_hand::{Mutex, MutexGuard, RwLock, Sleep, now, sleep_until};

#[cfg(not(test))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock};
#[cfg(not(test))]
pub(crate) use tokio::time::{Sleep, sleep_until};

/// What time it is.
#[cfg(not(test))]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
