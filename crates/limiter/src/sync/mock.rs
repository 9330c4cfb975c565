//! Shuttle's locks, which explore thread schedules, and a clock that tests advance.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock};
use tokio::time::Instant;

/// The clock of one exploration. All its threads run on one system thread.
struct Clock {
    now: Instant,
    number: u64,
    /// Wakers by time and number.
    timers: BTreeMap<(Instant, u64), Waker>,
}

thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::new(Clock {
        now: Instant::now(),
        number: 0,
        timers: BTreeMap::new(),
    });
}

fn clock<T>(with: impl FnOnce(&mut Clock) -> T) -> T {
    // `with` takes no explored lock, so no other thread runs meanwhile.
    CLOCK.with_borrow_mut(with)
}

/// Returns the current time.
pub(crate) fn now() -> Instant {
    clock(|clock| clock.now)
}

/// Returns the time of the next timer.
pub(crate) fn next_timer() -> Option<Instant> {
    clock(|clock| clock.timers.keys().next().map(|(at, _)| *at))
}

/// Advances to the next timer and wakes all that are due. Returns false if there is none.
pub(crate) fn move_on() -> bool {
    let due = clock(|clock| {
        let at = clock.timers.keys().next()?.0;
        clock.now = clock.now.max(at);
        let later = clock.timers.split_off(&(at + Duration::from_nanos(1), 0));
        Some(std::mem::replace(&mut clock.timers, later))
    });
    let Some(due) = due else { return false };
    due.into_values().for_each(Waker::wake);
    true
}

/// Removes the timers of an aborted exploration.
pub(crate) fn start() {
    let left = clock(|clock| std::mem::take(&mut clock.timers));
    drop(left);
}

/// A timer like tokio's.
pub(crate) struct Sleep {
    deadline: Instant,
    number: u64,
}

/// Returns a timer like tokio's.
pub(crate) fn sleep_until(deadline: Instant) -> Sleep {
    let number = clock(|clock| {
        clock.number += 1;
        clock.number
    });
    Sleep { deadline, number }
}

impl Sleep {
    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn is_elapsed(&self) -> bool {
        now() >= self.deadline
    }

    pub(crate) fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.forget();
        self.deadline = deadline;
    }

    fn forget(&self) {
        let waker = clock(|clock| clock.timers.remove(&(self.deadline, self.number)));
        drop(waker);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_elapsed() {
            return Poll::Ready(());
        }
        let key = (self.deadline, self.number);
        let old = clock(|clock| clock.timers.insert(key, cx.waker().clone()));
        drop(old);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}
