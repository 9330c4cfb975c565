//! Body of a stream: one event per frame.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;

use super::answer::{Answer, FAR, Next, Timer, fault_at, flush_first};
use crate::error::FakeError;
use crate::fault::{BreakPoint, Fault};
use crate::line::LineEnd;
use crate::sse;
use crate::state::AttemptEnd;

pub(super) struct SseAnswer {
    answer: Answer,
    made: u64,
    stage: SseStage,
    timer: Timer,
}

#[derive(Clone, Copy)]
pub(super) enum SseStage {
    Start,
    EarlyPing,
    ErrorEvent,
    BlockStart,
    Ping,
    Deltas,
    Break,
    Silence(Instant),
    Cut(LineEnd),
    BlockStop,
    MessageDelta,
    MessageStop,
    Done,
}

impl SseAnswer {
    pub(super) fn new(answer: Answer) -> Self {
        Self {
            answer,
            made: 0,
            stage: SseStage::Start,
            timer: Timer(None),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, SseStage::Done)
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            let answer = &mut self.answer;
            let (event, next) = match self.stage {
                SseStage::Start => match answer.fault {
                    Some(Fault::ErrorBeforeContent) => {
                        (answer.message.start(), SseStage::EarlyPing)
                    }
                    Some(Fault::Break {
                        at: BreakPoint::AfterHead,
                        ..
                    }) => {
                        self.stage = SseStage::Break;
                        continue;
                    }
                    Some(Fault::TruncatedBeforeContent) => {
                        (answer.message.start(), SseStage::Break)
                    }
                    _ => (answer.message.start(), SseStage::BlockStart),
                },
                SseStage::EarlyPing => (sse::ping(), SseStage::ErrorEvent),
                SseStage::ErrorEvent => {
                    answer.attempt.error(None, "overloaded_error");
                    answer.attempt.end(AttemptEnd::Broken);
                    (sse::error("overloaded_error", "Overloaded"), SseStage::Done)
                }
                SseStage::BlockStart => {
                    ready!(self.timer.poll(answer.origin + answer.pace.first, cx));
                    answer.attempt.content();
                    (sse::block_start(), SseStage::Ping)
                }
                SseStage::Ping => (sse::ping(), SseStage::Deltas),
                SseStage::Deltas => {
                    let fault_at = fault_at(answer.fault.as_ref());
                    let until = fault_at.unwrap_or(u64::MAX).min(answer.tokens);
                    if self.made >= until {
                        self.stage = if fault_at.is_some() {
                            SseStage::Break
                        } else {
                            SseStage::BlockStop
                        };
                        continue;
                    }
                    (ready!(self.poll_delta(until, cx)), SseStage::Deltas)
                }
                SseStage::Break => match answer.fault.take() {
                    Some(Fault::Stall { duration, .. }) => {
                        let duration = duration.min(FAR);
                        answer.origin += duration;
                        self.stage = SseStage::Silence(Instant::now() + duration);
                        continue;
                    }
                    Some(Fault::ErrorMidStream { .. }) => {
                        self.stage = SseStage::ErrorEvent;
                        continue;
                    }
                    Some(fault @ (Fault::Cut { .. } | Fault::Break { .. })) => {
                        answer.attempt.end(AttemptEnd::Broken);
                        self.stage = SseStage::Cut(LineEnd::of(&fault));
                        return flush_first(cx);
                    }
                    _ => {
                        answer.attempt.end(AttemptEnd::Broken);
                        self.stage = SseStage::Done;
                        return Poll::Ready(None);
                    }
                },
                SseStage::Silence(until) => {
                    ready!(self.timer.poll(until, cx));
                    self.stage = SseStage::Deltas;
                    continue;
                }
                SseStage::Cut(end) => {
                    let error = ready!(end.poll_break(answer.line.as_ref(), FakeError::Cut));
                    self.stage = SseStage::Done;
                    return Poll::Ready(Some(Err(error)));
                }
                SseStage::BlockStop => (sse::block_stop(), SseStage::MessageDelta),
                SseStage::MessageDelta => (
                    answer.message.delta(answer.stop_reason, self.made),
                    SseStage::MessageStop,
                ),
                SseStage::MessageStop => {
                    answer.attempt.end(AttemptEnd::Complete);
                    (sse::message_stop(), SseStage::Done)
                }
                SseStage::Done => return Poll::Ready(None),
            };
            self.stage = next;
            return Poll::Ready(Some(Ok(event)));
        }
    }

    /// Returns the next delta when its tokens are produced. A late delta also has the tokens
    /// produced meanwhile, up to eight events, so that a slow reader does not get one event per
    /// token.
    fn poll_delta(&mut self, until: u64, cx: &mut Context<'_>) -> Poll<Bytes> {
        let answer = &self.answer;
        let wanted = self.made.saturating_add(answer.per_event).min(until);
        let mut target = wanted;
        if answer.pace.per_second.is_some() {
            ready!(
                self.timer
                    .poll(answer.origin + answer.pace.time_of(wanted), cx)
            );
            let made = answer.pace.made(answer.origin.elapsed(), until);
            target = made.clamp(
                wanted,
                self.made.saturating_add(answer.per_event.saturating_mul(8)),
            );
        }
        let count = target - self.made;
        answer.attempt.produce(count);
        let event = sse::text_delta(self.made, count);
        self.made = target;
        Poll::Ready(event)
    }
}
