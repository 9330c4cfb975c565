//! A request at the gate: from its arrival until it is on its way.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Request;
use tower_claude_core::{Call, EstimateCost, PendingEstimate, Rejection, RequestBody, Scope};
use tower_service::Service;

use super::{Gate, admit::Arrival, head::Admission};
use crate::Limiter;

/// What is known of a request that is not on its way yet.
pub(super) struct Entry<A> {
    pub(super) context: Option<Arc<Call>>,
    /// While it waits for the limiter.
    acquire: Option<A>,
    pub(super) passage: Passage,
}

/// What an admitted request takes along.
#[derive(Default)]
pub(super) struct Passage {
    /// Kept only where the ledger of the reservation does not tell.
    pub(super) scope: Option<Box<Scope>>,
    /// Of the few whose estimate somebody learns from.
    pub(super) feedback: Option<Box<PendingEstimate>>,
    pub(super) admission: Option<Admission>,
}

/// Why a request is not sent.
pub(super) enum Unsent<E> {
    /// The limiter refused it.
    Rejected(Box<Rejection>),
    /// The inner service cannot become ready.
    Unready(E),
}

impl<A> Entry<A> {
    pub(super) fn new(context: Arc<Call>) -> Self {
        Self {
            context: Some(context),
            acquire: None,
            passage: Passage::default(),
        }
    }
}

impl<L: Limiter, E: EstimateCost, C> Gate<L, E, C> {
    /// Lets the request in, once the limiter admits it and then the inner service is ready: it is to be sent at once.
    pub(super) fn enter<S>(
        &self,
        entry: &mut Entry<L::Acquire>,
        service: &mut S,
        request: &mut Request<RequestBody>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent<S::Error>>>
    where
        S: Service<Request<RequestBody>>,
    {
        if entry.passage.admission.is_none()
            && let Err(refusal) = ready!(self.poll_admission(entry, request, cx))
        {
            let refusal = self.refuse(&self.scope(request), refusal);
            return Poll::Ready(Err(Unsent::Rejected(Box::new(refusal))));
        }
        if let Err(error) = ready!(service.poll_ready(cx)) {
            // Dropped unsent, the reservation gives everything back.
            entry.passage.admission = None;
            return Poll::Ready(Err(Unsent::Unready(error)));
        }
        if let Some(Admission::Own(reservation)) = &mut entry.passage.admission {
            reservation.sent();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_admission(
        &self,
        entry: &mut Entry<L::Acquire>,
        request: &mut Request<RequestBody>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        let context = entry.context.as_ref().expect("polled after completion");
        let passage = &mut entry.passage;
        let asked = if let Some(acquire) = &mut entry.acquire {
            self.revise(request, context, Pin::new(acquire), &mut passage.feedback);
            ready!(Pin::new(acquire).poll(cx))
        } else {
            match self.arrive(request, context, &mut passage.scope) {
                Arrival::Joined(joined) => {
                    passage.admission = Some(joined);
                    return Poll::Ready(Ok(()));
                }
                Arrival::Asks(ask, told) => {
                    passage.feedback = told;
                    let mut acquire = self.limiter.acquire(ask);
                    match Pin::new(&mut acquire).poll(cx) {
                        Poll::Ready(asked) => asked,
                        Poll::Pending => {
                            context.set_held_back(true);
                            self.queued(&acquire, || self.scope(request));
                            entry.acquire = Some(acquire);
                            return Poll::Pending;
                        }
                    }
                }
            }
        };
        // Also where another attempt of this call was dropped while it waited.
        context.set_held_back(false);
        let reservation = asked?;
        entry.acquire = None;
        if reservation.scope().is_none() {
            passage.scope = Some(Box::new(self.scope(request)));
        }
        let context = entry.context.take().expect("looked at above");
        passage.admission = Some(self.admitted(reservation, context, &passage.scope));
        Poll::Ready(Ok(()))
    }
}
