//! The call to the inner service that all wait for.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tower_claude_core::{Kind, RequestBody};
use tower_service::Service;

use crate::{
    answer::head::{Head, is_out_of_time},
    flight::seat::{Lead, Seat},
    flight::state::{Ask, Ending},
};

/// What the caller that asked gets: its own, while all others get what is shared.
pub(crate) enum Outcome<R, E> {
    /// The head; the body is to be read from the flight.
    Shared(Parts, SizeHint),
    /// An answer that is nobody else's.
    Own(Response<R>),
    Error(E),
}

/// Where the outcome is left for the caller, which may be gone.
pub(crate) struct Slot<R, E>(Arc<Mutex<Option<Outcome<R, E>>>>);

impl<R, E> Slot<R, E> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    pub(crate) fn another(&self) -> Self {
        Self(self.0.clone())
    }

    pub(crate) fn take(&self) -> Option<Outcome<R, E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, outcome: Outcome<R, E>) {
        // Nobody would come for it.
        if Arc::strong_count(&self.0) > 1 {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        }
    }
}

pin_project! {
    /// The call that fills the cache, as [`Detach`](crate::Detach) gets it.
    #[must_use = "futures do nothing unless polled"]
    pub struct Fill<S, R>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        call: Option<S::Future>,
        service: S,
        request: Option<Request<RequestBody>>,
        ask: Option<Ask>,
        // Before the seat: the right is given back while there is still a seat.
        lead: Option<Lead>,
        slot: Slot<R, S::Error>,
        // Where it reads on to the end by itself.
        seat: Option<Seat>,
    }
}

impl<S, R> Fill<S, R>
where
    S: Service<Request<RequestBody>>,
{
    pub(crate) const fn new(
        service: S,
        request: Request<RequestBody>,
        ask: Ask,
        lead: Lead,
        slot: Slot<R, S::Error>,
        seat: Option<Seat>,
    ) -> Self {
        Self {
            call: None,
            service,
            request: Some(request),
            ask: Some(ask),
            lead: Some(lead),
            slot,
            seat,
        }
    }
}

impl<S, R> Future for Fill<S, R>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        while this.lead.is_some() {
            if let Some(call) = this.call.as_mut().as_pin_mut() {
                let result = ready!(call.poll(cx));
                this.call.set(None);
                let (Some(lead), Some(ask)) = (this.lead.take(), this.ask.take()) else {
                    break;
                };
                landed(result, lead, ask, this.slot);
            } else {
                let result = ready!(this.service.poll_ready(cx));
                match (result, this.request.take()) {
                    (Ok(()), Some(request)) => this.call.set(Some(this.service.call(request))),
                    (Err(error), _) => {
                        if let (Some(lead), Some(ask)) = (this.lead.take(), this.ask.take()) {
                            landed(Err(error), lead, ask, this.slot);
                        }
                    }
                    (Ok(()), None) => break,
                }
            }
        }
        if let Some(seat) = this.seat {
            ready!(seat.poll_drain(cx));
        }
        *this.seat = None;
        Poll::Ready(())
    }
}

/// Tells the caller first, and the others then.
fn landed<R, E>(result: Result<Response<R>, E>, lead: Lead, ask: Ask, slot: &Slot<R, E>)
where
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
{
    let response = match result {
        Ok(response) => response,
        Err(error) => {
            slot.put(Outcome::Error(error));
            return lead.fail(Ending::Lost(Kind::Transport));
        }
    };
    let (parts, body) = response.into_parts();
    if is_out_of_time(&parts) {
        // Those who wait may have more time: dropping the right makes one of them ask.
        slot.put(Outcome::Own(Response::from_parts(parts, body)));
        return drop(lead);
    }
    match Head::shared(&parts) {
        Some(head) => {
            slot.put(Outcome::Shared(parts, body.size_hint()));
            lead.open(head, ask, Box::new(body));
        }
        None => {
            slot.put(Outcome::Own(Response::from_parts(parts, body)));
            lead.fail(Ending::Alone);
        }
    }
}

impl<S, R> fmt::Debug for Fill<S, R>
where
    S: Service<Request<RequestBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fill").finish_non_exhaustive()
    }
}
