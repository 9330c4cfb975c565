//! The three timers, and the one sleep that serves them.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// How long to wait for what. `None` waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// One attempt, from its start (the wait in queues of inner layers counts) until its answer
    /// is worth handing on: the first content of a stream, the whole of a JSON answer. 600 s by default,
    /// like the SDKs.
    pub head: Option<Duration>,
    /// Silence, once the response head is there. Any byte ends it, a `ping` too. 120 s by default. An error body that
    /// a layer further in reads is not there yet: only `head` bounds that.
    pub idle: Option<Duration>,
    /// The whole call, with all attempts and waits, to the last byte of a stream. None by default.
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Some(Duration::from_secs(600)),
            idle: Some(Duration::from_secs(120)),
            total: None,
        }
    }
}

impl Timeouts {
    /// No timeouts at all.
    pub const NONE: Self = Self {
        head: None,
        idle: None,
        total: None,
    };

    /// The recommended ones.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`head`](Self::head).
    #[must_use]
    pub const fn with_head(mut self, timeout: Option<Duration>) -> Self {
        self.head = timeout;
        self
    }

    /// Sets [`idle`](Self::idle).
    #[must_use]
    pub const fn with_idle(mut self, timeout: Option<Duration>) -> Self {
        self.idle = timeout;
        self
    }

    /// Sets [`total`](Self::total).
    #[must_use]
    pub const fn with_total(mut self, timeout: Option<Duration>) -> Self {
        self.total = timeout;
        self
    }
}

/// `timeout` after `since`; never, when that is too far to tell.
pub(crate) fn after(since: Instant, timeout: Option<Duration>) -> Option<Instant> {
    since.checked_add(timeout?)
}

/// The earlier of two instants of which either may be missing.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Makes a sleep ready at `until`. One that is due earlier is left alone until it fires, so that a
/// timeout which moves with every byte costs one reset per period and not one per byte.
pub(crate) fn poll_sleep(
    mut sleep: Pin<&mut Sleep>,
    until: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if sleep.deadline() > until {
        sleep.as_mut().reset(until);
    }
    loop {
        ready!(sleep.as_mut().poll(cx));
        if sleep.deadline() >= until {
            return Poll::Ready(());
        }
        sleep.as_mut().reset(until);
    }
}

/// The same for a sleep that may not have been needed yet.
pub(crate) fn poll_timer(
    timer: &mut Option<Pin<Box<Sleep>>>,
    until: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let sleep = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
    poll_sleep(sleep.as_mut(), until, cx)
}

/// Since when there has been silence. Looks at the clock only when something has come since.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    since: Option<Instant>,
    seen: usize,
}

impl Silence {
    /// The start of the silence, when `seen` bytes have come by now.
    pub(crate) fn since(&mut self, seen: usize) -> Instant {
        match self.since {
            Some(since) if self.seen == seen => since,
            _ => {
                let now = Instant::now();
                *self = Self {
                    since: Some(now),
                    seen,
                };
                now
            }
        }
    }
}
