//! Body of a stream: one event per frame.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;

use super::answer::{Answer, FAR, Next, Timer, fault_at, flush_first};
use crate::error::FakeError;
use crate::fault::{BreakPoint, Fault, FrameFault};
use crate::line::LineEnd;
use crate::script::ScriptEvent;
use crate::sse;
use crate::state::AttemptEnd;

pub(super) struct SseAnswer {
    answer: Answer,
    /// The events of a scripted reply that are not sent yet.
    script: Option<VecDeque<ScriptEvent>>,
    made: u64,
    stage: SseStage,
    timer: Timer,
    /// The failure of the frame of the next event.
    frame_fault: Option<FrameFault>,
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
        let per_event = answer.per_event;
        let script = answer.script.as_ref();
        Self {
            script: script.map(|reply| reply.events(per_event).into()),
            answer,
            made: 0,
            stage: SseStage::Start,
            timer: Timer(None),
            frame_fault: None,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, SseStage::Done)
    }

    /// Returns the failure of the frame of the last event.
    pub(super) fn take_frame_fault(&mut self) -> Option<FrameFault> {
        self.frame_fault.take()
    }

    /// Returns the answer and the output so far.
    pub(super) fn made(&self) -> (&Answer, u64) {
        (&self.answer, self.made)
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
                    let frame = match &mut self.script {
                        None => sse::block_start(),
                        Some(events) => match events.pop_front() {
                            Some(event) => {
                                answer.attempt.produce(event.tokens);
                                self.made += event.tokens;
                                event.frame
                            }
                            None => {
                                self.stage = SseStage::MessageDelta;
                                continue;
                            }
                        },
                    };
                    answer.attempt.content();
                    (frame, SseStage::Ping)
                }
                SseStage::Ping => (sse::ping(), SseStage::Deltas),
                SseStage::Deltas => {
                    let fault_at = fault_at(answer.fault.as_ref());
                    let until = fault_at.unwrap_or(u64::MAX).min(answer.tokens);
                    let is_over = match &self.script {
                        // The stop of the last block charges nothing.
                        Some(events) => {
                            events.is_empty() || fault_at.is_some() && self.made >= until
                        }
                        None => self.made >= until,
                    };
                    if is_over {
                        self.stage = match (fault_at, &self.script) {
                            (Some(_), _) => SseStage::Break,
                            (None, Some(_)) => SseStage::MessageDelta,
                            (None, None) => SseStage::BlockStop,
                        };
                        continue;
                    }
                    let event = match self.script.is_some() {
                        true => self.poll_scripted(cx),
                        false => self.poll_delta(until, cx),
                    };
                    (ready!(event), SseStage::Deltas)
                }
                SseStage::Break => match answer.fault.take() {
                    Some(Fault::Stall { duration, .. }) => {
                        let duration = duration.min(FAR);
                        answer.origin += duration;
                        self.stage = SseStage::Silence(Instant::now() + duration);
                        continue;
                    }
                    Some(Fault::Frame { how, .. }) => {
                        if how.continues() && (answer.framed || how.is_skipped()) {
                            self.frame_fault = answer.framed.then_some(how);
                            self.stage = SseStage::Deltas;
                            continue;
                        }
                        if let Some(kind) = how.error_type() {
                            answer.attempt.error(None, kind);
                        }
                        answer.attempt.end(AttemptEnd::Broken);
                        self.stage = SseStage::Done;
                        let event = match &how {
                            FrameFault::Exception { name, message }
                            | FrameFault::Error {
                                code: name,
                                message,
                            } => sse::error(name, message),
                            FrameFault::Cut if answer.framed => sse::ping(),
                            _ => return Poll::Ready(None),
                        };
                        self.frame_fault = Some(how);
                        return Poll::Ready(Some(Ok(event)));
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
                    answer.message.delta(&answer.stop_reason, self.made),
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

    /// Returns the next event of a scripted reply when its tokens are produced.
    fn poll_scripted(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let events = self.script.iter().flatten();
        let tokens = events.map(|event| event.tokens).next().unwrap_or_default();
        let answer = &self.answer;
        if answer.pace.per_second.is_some() {
            let at = answer.origin + answer.pace.time_of(self.made + tokens);
            ready!(self.timer.poll(at, cx));
        }
        answer.attempt.produce(tokens);
        self.made += tokens;
        let event = self.script.as_mut().and_then(VecDeque::pop_front);
        Poll::Ready(event.map(|event| event.frame).unwrap_or_default())
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
