//! The timeouts of a call, and the timers that they need.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_core::{
    Call,
    toolkit::{BodyTracker, ReadableDuration},
};
use tower_claude_wire::ApiError;

/// The timeouts of a call. `None` sets no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// The limit of one attempt, from its start until its response is ready for the caller. That is
    /// the first content of a stream, or the whole of a JSON response. Waits in queues of inner
    /// layers count. 600 s by default, as in the SDKs.
    pub head: Option<Duration>,
    /// The longest silence after the response head. Each byte restarts it, also that of a `ping`.
    /// 120 s by default. It does not act on an error body that an inner layer reads.
    pub idle: Option<Duration>,
    /// The longest time without an event other than `ping` in a stream whose content has begun. It
    /// ends a stream that only keeps the connection alive. 600 s by default. A model may think for
    /// minutes between two events, so shorter limits than the default break healthy streams.
    pub content: Option<Duration>,
    /// The limit of all attempts and waits, to the last byte of a stream. Inner layers see it as
    /// the deadline of the call. None by default. Under a model fallback each target has its own.
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Some(Duration::from_secs(600)),
            idle: Some(Duration::from_secs(120)),
            content: Some(Duration::from_secs(600)),
            total: None,
        }
    }
}

impl Timeouts {
    /// No timeouts.
    pub const NONE: Self = Self {
        head: None,
        idle: None,
        content: None,
        total: None,
    };

    /// Returns the recommended timeouts.
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

    /// Sets [`content`](Self::content).
    #[must_use]
    pub const fn with_content(mut self, timeout: Option<Duration>) -> Self {
        self.content = timeout;
        self
    }

    /// Sets [`total`](Self::total).
    #[must_use]
    pub const fn with_total(mut self, timeout: Option<Duration>) -> Self {
        self.total = timeout;
        self
    }
}

/// Returns the instant `timeout` after `since`, and `None` if there is no timeout or the instant
/// overflows.
pub(crate) fn after(since: Instant, timeout: Option<Duration>) -> Option<Instant> {
    since.checked_add(timeout?)
}

/// Returns the earlier of two instants, either of which may be missing.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Polls a timer that is ready at `until`, and creates it if there is none.
///
/// A sleep that is due earlier is reset only when it fires. So a timeout that moves with every byte
/// costs one reset per period and not one per byte.
pub(crate) fn poll_timer(
    timer: &mut Option<Pin<Box<Sleep>>>,
    until: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let sleep = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
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

/// The start of the present silence. Reads the clock only after more data.
#[derive(Debug, Default)]
pub(crate) struct IdleTimer {
    since: Option<Instant>,
    received: usize,
}

impl IdleTimer {
    /// Returns the start of the silence. `received` counts the data so far.
    pub(crate) fn since(&mut self, received: usize) -> Instant {
        match self.since {
            Some(since) if self.received == received => since,
            _ => {
                self.received = received;
                *self.since.insert(Instant::now())
            }
        }
    }
}

/// The timers of an event stream that the caller reads.
///
/// A Claude stream that is silent for longer than the idle timeout, or goes on past the total one,
/// ends with an `error` event in Claude's own form. Other bodies have no form for an error, so they
/// are not timed.
pub(crate) struct StreamTimers {
    call: Arc<Call>,
    started_at: Instant,
    deadline: Option<Instant>,
    idle: IdleTimer,
    /// The silence of everything but `ping`.
    content: IdleTimer,
    frames: usize,
    // Created when the stream first keeps the caller waiting.
    timer: Option<Pin<Box<Sleep>>>,
}

impl StreamTimers {
    /// Creates the timers of a stream. `started_at` is the start of the call.
    pub(crate) fn new(call: Arc<Call>, started_at: Instant) -> Self {
        Self {
            deadline: call.deadline(),
            call,
            started_at,
            idle: IdleTimer::default(),
            content: IdleTimer::default(),
            frames: 0,
            timer: None,
        }
    }

    /// Records another frame, which ends the silence.
    pub(crate) const fn on_frame(&mut self) {
        self.frames = self.frames.wrapping_add(1);
    }

    /// Returns the error message when the stream has been silent, or has gone on, for too long.
    ///
    /// `events` counts the events other than `ping` so far.
    pub(crate) fn poll_timeout(
        &mut self,
        timeouts: &Timeouts,
        events: usize,
        cx: &mut Context<'_>,
    ) -> Poll<String> {
        let (idle, content) = (timeouts.idle, timeouts.content);
        let silent = idle.and_then(|_| after(self.idle.since(self.frames), idle));
        let empty = content.and_then(|_| after(self.content.since(events), content));
        let Some(until) = earlier(earlier(silent, empty), self.deadline) else {
            return Poll::Pending;
        };
        ready!(poll_timer(&mut self.timer, until, cx));
        let until = Some(until);
        if until == self.deadline {
            let waited = self.deadline.map_or(Duration::ZERO, |deadline| {
                deadline.saturating_duration_since(self.started_at)
            });
            let waited = ReadableDuration(waited);
            return Poll::Ready(format!("the stream did not end within {waited}"));
        }
        // Set before the stream is dropped, so that it counts as a failure of the server and not as
        // a caller that has lost interest.
        self.call.time_out_attempt();
        Poll::Ready(if until == silent {
            let waited = ReadableDuration(idle.unwrap_or_default());
            format!("the stream was silent for {waited}")
        } else {
            let waited = ReadableDuration(content.unwrap_or_default());
            format!("the stream had no content for {waited}")
        })
    }

    /// Returns an `error` event, or `None` if the stream has reported its end already.
    pub(crate) fn error_event(tracker: &BodyTracker, message: &str) -> Option<Bytes> {
        let stream = tracker.stream()?;
        if stream.is_complete() || stream.error().is_some() {
            return None;
        }
        // A blank line closes the event that was cut in half.
        let close = if stream.at_boundary() { "" } else { "\n\n" };
        let data = ApiError::body("timeout_error", message, None);
        Some(format!("{close}event: error\ndata: {data}\n\n").into())
    }
}
