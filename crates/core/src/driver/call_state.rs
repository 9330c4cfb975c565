//! What one call carries.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Request;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    attempt_policy::AttemptPolicy,
    call_policy::{CallPolicy, CallStart},
    service::Policies,
};
use crate::{Call, Rejection, RequestBody};

pub(super) struct CallState<Re: CallPolicy, G: AttemptPolicy> {
    pub(super) context: Arc<Call>,
    pub(super) trip: Re::Trip,
    pub(super) held: G::Held,
    /// All guards have let the attempt through.
    admitted: bool,
}

/// Why a request is not sent.
pub(super) enum Unsent<E> {
    Rejected(Box<Rejection>),
    Unready(E),
}

impl<Re: CallPolicy, G: AttemptPolicy> CallState<Re, G> {
    #[inline]
    pub(super) fn begin<C>(
        stages: &Policies<Re, G, C>,
        request: &mut Request<RequestBody>,
        now: Instant,
    ) -> Self {
        request.body_mut().look();
        let context = Call::get_or_attach(request, now);
        let mut launch = CallStart {
            request,
            context: &context,
            kept: None,
        };
        let trip = stages.resends.begin(&mut launch);
        Self {
            context,
            trip,
            held: G::Held::default(),
            admitted: false,
        }
    }

    /// Ready when the request is to be sent at once.
    pub(super) fn poll_send<S, C>(
        &mut self,
        stages: &Policies<Re, G, C>,
        service: &mut S,
        request: &mut Request<RequestBody>,
        now: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent<S::Error>>>
    where
        S: Service<Request<RequestBody>>,
    {
        let refused = |refusal| Poll::Ready(Err(Unsent::Rejected(Box::new(refusal))));
        if !self.admitted {
            let asked = stages
                .guards
                .poll_admit(&mut self.held, request, &self.context, now, cx);
            if let Err(refusal) = ready!(asked) {
                return refused(refusal);
            }
            self.admitted = true;
        } else if let Some(refusal) = stages.guards.recheck(&mut self.held) {
            return refused(refusal);
        }
        if let Err(error) = ready!(service.poll_ready(cx)) {
            return Poll::Ready(Err(Unsent::Unready(error)));
        }
        stages.guards.sent(&mut self.held);
        Poll::Ready(Ok(()))
    }

    /// Tells the guards if a timer ended the attempt.
    #[inline]
    pub(super) fn tell_timed_out<C>(&mut self, stages: &Policies<Re, G, C>) {
        if self.context.is_timed_out() && !self.context.is_held_back() {
            stages.guards.timed_out(&mut self.held);
        }
    }

    /// Another attempt: nothing of the last is held.
    pub(super) fn anew(&mut self) {
        self.held = G::Held::default();
        self.admitted = false;
    }
}
