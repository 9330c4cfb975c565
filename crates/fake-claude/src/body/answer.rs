//! A response with content, and its pace.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::FakeError;
use crate::fault::{BreakPoint, Fault};
use crate::line::Line;
use crate::script::Reply;
use crate::sse::ReplyMessage;
use crate::state::InFlightAttempt;

/// A response with content.
pub(crate) struct Answer {
    pub(crate) attempt: InFlightAttempt,
    pub(crate) message: ReplyMessage,
    pub(crate) tokens: u64,
    pub(crate) stop_reason: Cow<'static, str>,
    /// The content. `None` for the fake's own text.
    pub(crate) script: Option<Reply>,
    pub(crate) fault: Option<Fault>,
    pub(crate) pace: Pace,
    pub(crate) per_event: u64,
    /// Time at which the pace starts.
    pub(crate) origin: Instant,
    /// Connection of the request. `None` in process.
    pub(crate) line: Option<Line>,
    /// True if the stream has frames of AWS in place of the events of SSE.
    pub(crate) framed: bool,
}

/// Times at which the tokens of a response are produced.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) first: Duration,
    /// `None` for all at once.
    pub(crate) per_second: Option<f64>,
}

impl Pace {
    /// Returns the time from admission until `tokens` are produced.
    pub(crate) fn time_of(&self, tokens: u64) -> Duration {
        let Some(rate) = self.per_second else {
            return self.first;
        };
        let seconds = tokens.saturating_sub(1) as f64 / rate;
        self.first
            .saturating_add(Duration::try_from_secs_f64(seconds).unwrap_or(FAR))
    }

    /// Returns how many of `total` tokens are produced after `elapsed`.
    pub(crate) fn made(&self, elapsed: Duration, total: u64) -> u64 {
        let Some(since) = elapsed.checked_sub(self.first) else {
            return 0;
        };
        let Some(rate) = self.per_second else {
            return total;
        };
        // Seconds in a float are slightly inexact. The small addition avoids one token too few.
        ((since.as_secs_f64() * rate + 1e-6) as u64)
            .saturating_add(1)
            .min(total)
    }
}

/// Longer than any wait in this crate.
pub(crate) const FAR: Duration = Duration::from_secs(365 * 86_400);

/// Timer of a body, created when it is first needed.
pub(super) struct Timer(pub(super) Option<Pin<Box<Sleep>>>);

impl Timer {
    pub(super) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}

pub(super) type Next = Option<Result<Bytes, FakeError>>;

/// Returns the number of tokens before a fault in the middle of the body.
pub(super) fn fault_at(fault: Option<&Fault>) -> Option<u64> {
    match fault? {
        Fault::ErrorMidStream { after_tokens }
        | Fault::Truncated { after_tokens }
        | Fault::Cut { after_tokens }
        | Fault::Stall { after_tokens, .. }
        | Fault::Frame { after_tokens, .. }
        | Fault::Break {
            at: BreakPoint::AfterTokens(after_tokens),
            ..
        } => Some(*after_tokens),
        _ => None,
    }
}

/// Returns `Pending` once. Hyper drops unwritten frames when a body fails, so it needs one turn to
/// write them.
pub(super) fn flush_first(cx: &mut Context<'_>) -> Poll<Next> {
    cx.waker().wake_by_ref();
    Poll::Pending
}
