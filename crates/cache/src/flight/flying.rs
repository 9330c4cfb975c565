//! Waiting for the answer to a call that several share, or making it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, response::Parts};
use http_body::{Body as HttpBody, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_claude_core::{Kind, RequestBody, event::CacheDecision};
use tower_service::Service;

use crate::{
    Detach, Fill, Store,
    answer::head::calls_for_stale,
    call::{Answer, CacheCall, MISS, STALE, passing},
    flight::fill::{Outcome, Slot},
    flight::seat::Seat,
    flight::state::{Answer as Landed, News},
    lookup::Lookup,
};

pin_project! {
    /// One call in a flight.
    pub(crate) struct Flying<S, R, D, T>
    where
        S: Service<Request<RequestBody>>,
        T: Store,
    {
        // The call for all, while it is driven here. Before the seat, which is to be the last to go.
        #[pin]
        fill: Option<Fill<S, R>>,
        // Where the outcome of the call for all is left, if this call has made it.
        slot: Option<Slot<R, S::Error>>,
        // The head of its own, held until it is clear that no stale answer is better.
        own: Option<(Parts, SizeHint)>,
        #[pin]
        timer: Option<Sleep>,
        seat: Option<Seat>,
        // Until it is given to the call for all.
        service: Option<S>,
        call: CacheCall<T>,
        detach: D,
    }
}

/// What flying led to.
pub(crate) enum Landing<S, R, E>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
{
    Answer(Result<Answer<R>, E>),
    /// The answer is not for sharing: the call goes past the cache.
    Alone(S, Request<RequestBody>),
}

impl<S, R, D, T> Flying<S, R, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    pub(crate) fn new(seat: Seat, lookup: Lookup<S, D, T>) -> Self {
        Self {
            fill: None,
            slot: None,
            own: None,
            timer: lookup.call.deadline.map(sleep_until),
            seat: Some(seat),
            service: Some(lookup.service),
            call: lookup.call,
            detach: lookup.detach,
        }
    }
}

impl<S, R, D, T> Future for Flying<S, R, D, T>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
    D: Detach<Fill<S, R>>,
    T: Store,
{
    type Output = Landing<S, R, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let call = this.call;
        loop {
            if let Some(fill) = this.fill.as_mut().as_pin_mut()
                && fill.poll(cx).is_ready()
            {
                this.fill.set(None);
            }
            let seat = this.seat.as_ref().expect("polled after completion");
            let drives = this.fill.is_some() && !D::DETACHED;
            let mut outcome = this.slot.as_ref().and_then(Slot::take);
            let news = if drives || outcome.is_some() {
                Poll::Pending
            } else {
                seat.poll_answer(call.stale.is_some(), cx)
            };
            // Given back by its drop, where this call cannot use it.
            let lead = matches!(news, Poll::Ready(News::Lead { .. })).then(|| seat.lead());
            // Looked at once more: a call's own outcome is left here before the others hear of it.
            if outcome.is_none() {
                outcome = this.slot.as_ref().and_then(Slot::take);
            }
            if let Some(outcome) = outcome {
                if let Some(landing) = landed(outcome, call, this.own, this.seat) {
                    return Poll::Ready(landing);
                }
                continue;
            }
            match news {
                Poll::Ready(News::Lead { again }) => {
                    let (Some(lead), Some((request, ask)), Some(service)) =
                        (lead, call.launch(), this.service.take())
                    else {
                        return Poll::Ready(lost(call, Kind::Transport));
                    };
                    if again {
                        call.config.decided(CacheDecision::TakenOver, "");
                    }
                    call.config.decided(CacheDecision::Miss, "");
                    let slot = Slot::new();
                    let its_seat = D::DETACHED.then(|| seat.for_task());
                    let fill = Fill::new(service, request, ask, lead, slot.another(), its_seat);
                    *this.slot = Some(slot);
                    this.fill.set(this.detach.detach(fill));
                }
                Poll::Ready(News::Answer(answer)) => {
                    let landing = answered(answer, call, this.own, this.seat, this.service);
                    return Poll::Ready(landing);
                }
                Poll::Ready(News::Lost(kind)) => return Poll::Ready(lost(call, kind)),
                // Only too long to be held.
                Poll::Ready(News::Alone) if this.own.is_some() => {
                    let (parts, promised) = this.own.take().expect("as just now");
                    let answer = own(call, parts, promised, this.seat);
                    return Poll::Ready(Landing::Answer(Ok(answer)));
                }
                Poll::Ready(News::Alone) => {
                    // Or it is on its way already.
                    let landing =
                        alone(call, this.service).unwrap_or_else(|| lost(call, Kind::Transport));
                    return Poll::Ready(landing);
                }
                // Whoever asks is timed by the layers further in.
                Poll::Pending if drives => return Poll::Pending,
                Poll::Pending => {
                    let Some(timer) = this.timer.as_mut().as_pin_mut() else {
                        return Poll::Pending;
                    };
                    ready!(timer.poll(cx));
                    let answer = stale(call).unwrap_or_else(|| call.too_late());
                    return Poll::Ready(Landing::Answer(Ok(answer)));
                }
            }
        }
    }
}

/// What the one who asked makes of the outcome; its own head is held when what follows it must be seen first.
fn landed<S, R, E, T>(
    outcome: Outcome<R, E>,
    call: &mut CacheCall<T>,
    held: &mut Option<(Parts, SizeHint)>,
    seat: &mut Option<Seat>,
) -> Option<Landing<S, R, E>>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
    T: Store,
{
    let answer = match outcome {
        Outcome::Error(error) => stale(call).ok_or(error),
        Outcome::Own(response) => {
            let (parts, body) = response.into_parts();
            let better = calls_for_stale(&parts).then(|| stale(call)).flatten();
            Ok(better.unwrap_or_else(|| passing(Response::from_parts(parts, body), Some(MISS))))
        }
        Outcome::Shared(parts, promised) => {
            match calls_for_stale(&parts).then(|| stale(call)).flatten() {
                Some(stale) => Ok(stale),
                // It may still break off before it is of use.
                None if call.stale.is_some() && parts.status == StatusCode::OK => {
                    *held = Some((parts, promised));
                    return None;
                }
                None => Ok(own(call, parts, promised, seat)),
            }
        }
    };
    Some(Landing::Answer(answer))
}

/// What one who waited makes of the answer.
fn answered<S, R, E, T>(
    answer: Landed,
    call: &mut CacheCall<T>,
    held: &mut Option<(Parts, SizeHint)>,
    seat: &mut Option<Seat>,
    service: &mut Option<S>,
) -> Landing<S, R, E>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
    T: Store,
{
    let worse = call.stale.is_some() && (answer.failed || calls_for_stale(&answer.head.parts()));
    let answer = match (worse.then(|| stale(call)).flatten(), held.take()) {
        (Some(stale), _) => stale,
        (None, Some((parts, promised))) => own(call, parts, promised, seat),
        (None, None) => {
            if call.may_do_better(&answer)
                && let Some(landing) = alone(call, service)
            {
                return landing;
            }
            call.joined(answer, seat.take().expect("there until it lands"))
        }
    };
    Landing::Answer(Ok(answer))
}

fn own<R, T>(
    call: &CacheCall<T>,
    parts: Parts,
    promised: SizeHint,
    seat: &mut Option<Seat>,
) -> Answer<R>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
    T: Store,
{
    call.own(parts, promised, seat.take().expect("there until it lands"))
}

fn stale<R, T>(call: &mut CacheCall<T>) -> Option<Answer<R>>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
    T: Store,
{
    let entry = call.stale.take()?;
    Some(call.stored(entry, STALE))
}

/// Past the cache, if the request was not sent already.
fn alone<S, R, E, T>(call: &mut CacheCall<T>, service: &mut Option<S>) -> Option<Landing<S, R, E>>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
    T: Store,
{
    let (service, request) = (service.take()?, call.request()?);
    call.bypass("not_shared");
    Some(Landing::Alone(service, request))
}

fn lost<S, R, E, T>(call: &mut CacheCall<T>, kind: Kind) -> Landing<S, R, E>
where
    R: HttpBody<Data = Bytes>,
    R::Error: 'static,
    T: Store,
{
    let answer = stale(call).unwrap_or_else(|| call.lost(kind));
    Landing::Answer(Ok(answer))
}
