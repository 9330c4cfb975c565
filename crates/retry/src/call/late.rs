//! The timers of an attempt.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::Sleep;
use tower_claude_core::{RejectReason, Rejection};

use super::RetryCall;
use crate::{
    LAYER,
    handle::count,
    timeouts::{after, earlier, poll_timer},
};

impl<C> RetryCall<C> {
    /// Ready when a timer runs out. `received` is what has come of the answer, after its head.
    /// Only asked when there is nothing else to do, so that an instant answer costs no timer.
    pub(crate) fn poll_late(
        &mut self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        received: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Rejection> {
        if self.is_nested() {
            return Poll::Pending;
        }
        let timeouts = self.config.timeouts;
        let started = self.begun();
        let attempt_started = self.later.as_ref().and_then(|later| later.attempt_started);
        let head = after(attempt_started.unwrap_or(started), timeouts.head);
        let idle = received
            .filter(|_| timeouts.idle.is_some())
            .and_then(|seen| after(self.later().silence.since(seen), timeouts.idle));
        let Some(until) = earlier(earlier(head, idle), self.deadline) else {
            return Poll::Pending;
        };
        ready!(poll_timer(timer, until, cx));
        count(&self.config.counters.timed_out);
        // The deadline is the caller's word, not the server's fault.
        if Some(until) != self.deadline
            && let Some(context) = self.claim.get()
        {
            context.time_out_attempt();
        }
        let waited = if Some(until) == self.deadline {
            until.saturating_duration_since(started)
        } else if Some(until) == head {
            timeouts.head.unwrap_or_default()
        } else {
            timeouts.idle.unwrap_or_default()
        };
        Poll::Ready(Rejection::new(
            LAYER,
            RejectReason::TimedOut { after: waited },
        ))
    }
}
