//! The body of an answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::FakeError;
use crate::fault::Fault;
use crate::sse::{self, Message};
use crate::state::{Ending, Ticket};

/// When the tokens of an answer come.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) first: Duration,
    /// `None` is all at once.
    pub(crate) per_second: Option<f64>,
}

impl Pace {
    /// When `tokens` are there, counted from admission.
    pub(crate) fn time_of(&self, tokens: u64) -> Duration {
        let Some(rate) = self.per_second else {
            return self.first;
        };
        let seconds = tokens.saturating_sub(1) as f64 / rate;
        self.first
            .saturating_add(Duration::try_from_secs_f64(seconds).unwrap_or(FAR))
    }

    /// How many of `total` tokens are there after `elapsed`.
    pub(crate) fn made(&self, elapsed: Duration, total: u64) -> u64 {
        let Some(since) = elapsed.checked_sub(self.first) else {
            return 0;
        };
        let Some(rate) = self.per_second else {
            return total;
        };
        // A timer fires up to a millisecond late, and seconds in a float are a hair off: never one token short.
        ((since.as_secs_f64() * rate + 1e-6) as u64)
            .saturating_add(1)
            .min(total)
    }
}

const FAR: Duration = Duration::from_secs(365 * 86_400);

/// An answer to be given.
pub(crate) struct Answer {
    pub(crate) ticket: Ticket,
    pub(crate) message: Message,
    pub(crate) tokens: u64,
    pub(crate) stop_reason: &'static str,
    pub(crate) fault: Option<Fault>,
    pub(crate) pace: Pace,
    pub(crate) per_event: u64,
    /// When token time began.
    pub(crate) origin: Instant,
}

/// Body of an answer of the fake. One frame is one event.
#[derive(Default)]
pub struct FakeBody {
    kind: Kind,
}

#[derive(Default)]
enum Kind {
    #[default]
    Done,
    Full(Bytes),
    Json(Box<JsonAnswer>),
    Sse(Box<SseAnswer>),
}

impl FakeBody {
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            kind: if bytes.is_empty() {
                Kind::Done
            } else {
                Kind::Full(bytes)
            },
        }
    }

    /// A JSON message whose output is charged already.
    pub(crate) fn json(answer: Answer) -> Self {
        let rest = answer.message.whole(answer.stop_reason, answer.tokens);
        let stage = JsonStage::Start;
        Self {
            kind: Kind::Json(Box::new(JsonAnswer {
                answer,
                rest,
                stage,
                timer: Timer(None),
            })),
        }
    }

    pub(crate) fn sse(answer: Answer) -> Self {
        let stage = SseStage::Start;
        Self {
            kind: Kind::Sse(Box::new(SseAnswer {
                answer,
                made: 0,
                stage,
                timer: Timer(None),
            })),
        }
    }
}

impl Body for FakeBody {
    type Data = Bytes;
    type Error = FakeError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FakeError>>> {
        let this = self.get_mut();
        let next = match &mut this.kind {
            Kind::Done => None,
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Done;
                Some(Ok(bytes))
            }
            Kind::Json(answer) => ready!(answer.poll(cx)),
            Kind::Sse(answer) => ready!(answer.poll(cx)),
        };
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Done => true,
            Kind::Full(_) => false,
            Kind::Json(answer) => matches!(answer.stage, JsonStage::Done),
            Kind::Sse(answer) => matches!(answer.stage, SseStage::Done),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Done => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Json(answer) => match answer.stage {
                JsonStage::Start if answer.answer.fault.is_none() => {
                    SizeHint::with_exact(answer.rest.len() as u64)
                }
                JsonStage::Done => SizeHint::with_exact(0),
                _ => SizeHint::default(),
            },
            Kind::Sse(_) => SizeHint::default(),
        }
    }
}

/// One timer a body, made when first needed.
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
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

type Next = Option<Result<Bytes, FakeError>>;

struct SseAnswer {
    answer: Answer,
    made: u64,
    stage: SseStage,
    timer: Timer,
}

#[derive(Clone, Copy)]
enum SseStage {
    Start,
    EarlyPing,
    ErrorEvent,
    BlockStart,
    Ping,
    Deltas,
    Break,
    Silence(Instant),
    Cut,
    BlockStop,
    MessageDelta,
    MessageStop,
    Done,
}

impl SseAnswer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            let answer = &mut self.answer;
            let (event, next) = match self.stage {
                SseStage::Start => match answer.fault {
                    Some(Fault::ErrorBeforeContent) => {
                        (answer.message.start(), SseStage::EarlyPing)
                    }
                    Some(Fault::TruncatedBeforeContent) => {
                        (answer.message.start(), SseStage::Break)
                    }
                    _ => (answer.message.start(), SseStage::BlockStart),
                },
                SseStage::EarlyPing => (sse::ping(), SseStage::ErrorEvent),
                SseStage::ErrorEvent => {
                    answer.ticket.error(None, "overloaded_error");
                    answer.ticket.end(Ending::Broken);
                    (sse::error("overloaded_error", "Overloaded"), SseStage::Done)
                }
                SseStage::BlockStart => {
                    ready!(self.timer.poll(answer.origin + answer.pace.first, cx));
                    answer.ticket.content();
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
                    Some(Fault::Cut { .. }) => {
                        answer.ticket.end(Ending::Broken);
                        self.stage = SseStage::Cut;
                        return flush_first(cx);
                    }
                    _ => {
                        answer.ticket.end(Ending::Broken);
                        self.stage = SseStage::Done;
                        return Poll::Ready(None);
                    }
                },
                SseStage::Silence(until) => {
                    ready!(self.timer.poll(until, cx));
                    self.stage = SseStage::Deltas;
                    continue;
                }
                SseStage::Cut => {
                    self.stage = SseStage::Done;
                    return Poll::Ready(Some(Err(FakeError::Cut)));
                }
                SseStage::BlockStop => (sse::block_stop(), SseStage::MessageDelta),
                SseStage::MessageDelta => (
                    answer.message.delta(answer.stop_reason, self.made),
                    SseStage::MessageStop,
                ),
                SseStage::MessageStop => {
                    answer.ticket.end(Ending::Complete);
                    (sse::message_stop(), SseStage::Done)
                }
                SseStage::Done => return Poll::Ready(None),
            };
            self.stage = next;
            return Poll::Ready(Some(Ok(event)));
        }
    }

    /// The next delta, once its tokens are made. One that comes late brings what was made meanwhile, up to a few events'
    /// worth, so that a slow reader does not cost an event a token.
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
        answer.ticket.produce(count);
        let event = sse::text_delta(self.made, count);
        self.made = target;
        Poll::Ready(event)
    }
}

struct JsonAnswer {
    answer: Answer,
    rest: Bytes,
    stage: JsonStage,
    timer: Timer,
}

#[derive(Clone, Copy)]
enum JsonStage {
    Start,
    Break,
    Silence(Instant),
    Cut,
    Rest,
    Done,
}

impl JsonAnswer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            let answer = &mut self.answer;
            match self.stage {
                JsonStage::Start => {
                    let Some(after) = fault_at(answer.fault.as_ref()) else {
                        self.stage = match answer.fault {
                            Some(Fault::TruncatedBeforeContent) => JsonStage::Break,
                            _ => JsonStage::Rest,
                        };
                        continue;
                    };
                    answer.ticket.content();
                    self.stage = JsonStage::Break;
                    return Poll::Ready(Some(Ok(first_part(&mut self.rest, after, answer.tokens))));
                }
                JsonStage::Break => match answer.fault.take() {
                    Some(Fault::Stall { duration, .. }) => {
                        self.stage = JsonStage::Silence(Instant::now() + duration.min(FAR));
                    }
                    Some(Fault::Cut { .. }) => {
                        answer.ticket.end(Ending::Broken);
                        self.stage = JsonStage::Cut;
                        return flush_first(cx);
                    }
                    _ => {
                        answer.ticket.end(Ending::Broken);
                        self.stage = JsonStage::Done;
                    }
                },
                JsonStage::Silence(until) => {
                    ready!(self.timer.poll(until, cx));
                    self.stage = JsonStage::Rest;
                }
                JsonStage::Cut => {
                    self.stage = JsonStage::Done;
                    return Poll::Ready(Some(Err(FakeError::Cut)));
                }
                JsonStage::Rest => {
                    answer.ticket.end(Ending::Complete);
                    self.stage = JsonStage::Done;
                    return Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))));
                }
                JsonStage::Done => return Poll::Ready(None),
            }
        }
    }
}

/// After how many tokens a fault of the body's middle strikes.
fn fault_at(fault: Option<&Fault>) -> Option<u64> {
    match fault? {
        Fault::ErrorMidStream { after_tokens }
        | Fault::Truncated { after_tokens }
        | Fault::Cut { after_tokens }
        | Fault::Stall { after_tokens, .. } => Some(*after_tokens),
        _ => None,
    }
}

/// Splits off the share of a JSON message that `after` of `total` tokens are: some of it, not all.
fn first_part(rest: &mut Bytes, after: u64, total: u64) -> Bytes {
    let length = rest.len() as u64;
    let share = u128::from(length) * u128::from(after.min(total)) / u128::from(total.max(1));
    let share = u64::try_from(share)
        .unwrap_or(length)
        .clamp(1, length.saturating_sub(1).max(1));
    rest.split_to(usize::try_from(share).unwrap_or(rest.len()).min(rest.len()))
}

/// A server drops what it has not written when a body fails: give it one turn to write the frames before.
fn flush_first(cx: &mut Context<'_>) -> Poll<Next> {
    cx.waker().wake_by_ref();
    Poll::Pending
}
