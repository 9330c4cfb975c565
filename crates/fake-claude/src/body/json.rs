//! Body of a JSON message: one frame, unless a fault splits it.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::SizeHint;
use tokio::time::Instant;

use super::answer::{Answer, FAR, Next, Timer, fault_at, flush_first};
use crate::error::FakeError;
use crate::fault::{BreakPoint, Fault};
use crate::line::LineEnd;
use crate::state::AttemptEnd;

pub(super) struct JsonAnswer {
    answer: Answer,
    rest: Bytes,
    stage: JsonStage,
    timer: Timer,
}

#[derive(Clone, Copy)]
pub(super) enum JsonStage {
    Start,
    Break,
    Silence(Instant),
    Cut(LineEnd),
    Rest,
    Done,
}

impl JsonAnswer {
    pub(super) fn new(answer: Answer) -> Self {
        let script = answer.script.as_ref();
        let rest = answer
            .message
            .whole(script, &answer.stop_reason, answer.tokens);
        Self {
            answer,
            rest,
            stage: JsonStage::Start,
            timer: Timer(None),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, JsonStage::Done)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.stage {
            JsonStage::Start if self.answer.fault.is_none() => {
                SizeHint::with_exact(self.rest.len() as u64)
            }
            JsonStage::Done => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            let answer = &mut self.answer;
            match self.stage {
                JsonStage::Start => {
                    let Some(after) = fault_at(answer.fault.as_ref()) else {
                        self.stage = match answer.fault {
                            Some(
                                Fault::TruncatedBeforeContent
                                | Fault::Break {
                                    at: BreakPoint::AfterHead,
                                    ..
                                },
                            ) => JsonStage::Break,
                            _ => JsonStage::Rest,
                        };
                        continue;
                    };
                    answer.attempt.content();
                    self.stage = JsonStage::Break;
                    return Poll::Ready(Some(Ok(first_part(&mut self.rest, after, answer.tokens))));
                }
                JsonStage::Break => match answer.fault.take() {
                    Some(Fault::Stall { duration, .. }) => {
                        self.stage = JsonStage::Silence(Instant::now() + duration.min(FAR));
                    }
                    Some(fault @ (Fault::Cut { .. } | Fault::Break { .. })) => {
                        answer.attempt.end(AttemptEnd::Broken);
                        self.stage = JsonStage::Cut(LineEnd::of(&fault));
                        return flush_first(cx);
                    }
                    Some(Fault::Frame { how, .. }) if how.is_skipped() => {
                        self.stage = JsonStage::Rest;
                    }
                    _ => {
                        answer.attempt.end(AttemptEnd::Broken);
                        self.stage = JsonStage::Done;
                    }
                },
                JsonStage::Silence(until) => {
                    ready!(self.timer.poll(until, cx));
                    self.stage = JsonStage::Rest;
                }
                JsonStage::Cut(end) => {
                    let error = ready!(end.poll_break(answer.line.as_ref(), FakeError::Cut));
                    self.stage = JsonStage::Done;
                    return Poll::Ready(Some(Err(error)));
                }
                JsonStage::Rest => {
                    answer.attempt.end(AttemptEnd::Complete);
                    self.stage = JsonStage::Done;
                    return Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))));
                }
                JsonStage::Done => return Poll::Ready(None),
            }
        }
    }
}

/// Splits off the part of a JSON message for `after` of `total` tokens. It is neither empty nor the
/// complete message.
fn first_part(rest: &mut Bytes, after: u64, total: u64) -> Bytes {
    let length = rest.len() as u64;
    let share = u128::from(length) * u128::from(after.min(total)) / u128::from(total.max(1));
    let share = u64::try_from(share)
        .unwrap_or(length)
        .clamp(1, length.saturating_sub(1).max(1));
    rest.split_to(usize::try_from(share).unwrap_or(rest.len()).min(rest.len()))
}
