//! A gate as a guard of a driver.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, response::Parts};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, EstimateCost, Outcome, Rejection, RequestBody,
    driver::{AttemptPolicy, Clock},
};
use tower_claude_wire::StreamState;

use super::{
    Gate,
    body::{DELTA_BYTES_PER_TOKEN, FIRST_REPORT},
    entry::Passage,
    head::Admission,
};
use crate::{Limiter, Settlement};

/// A gate as a guard of a driver.
#[derive(Debug)]
pub struct LimitPolicy<L, E, C> {
    gate: Arc<Gate<L, E, C>>,
    /// Who reads the headers, if that is another.
    reader: Option<Arc<Gate<L, E, C>>>,
}

impl<L, E, C: Clone> LimitPolicy<L, E, C> {
    /// Returns the classifier, and true if it leaves the class of an inner layer.
    #[must_use]
    pub fn classifier(&self) -> (C, bool) {
        (self.gate.classify.clone(), !self.gate.own_classifier)
    }
}

impl<L, E, C> LimitPolicy<L, E, C> {
    /// Of this gate.
    #[must_use]
    pub const fn new(gate: Arc<Gate<L, E, C>>) -> Self {
        Self { gate, reader: None }
    }

    /// The gate, and inside of it one over the same limiter that reads the headers.
    #[must_use]
    pub fn with_reader(mut self, reader: Self) -> Self {
        self.reader = Some(reader.gate);
        self
    }
}

/// What an attempt holds of a gate.
pub struct Held<A> {
    /// While it waits for the limiter. Boxed: few do.
    acquire: Option<Box<A>>,
    passage: Passage,
    input_known: bool,
    next_report: u32,
}

impl<A> Default for Held<A> {
    fn default() -> Self {
        Self {
            acquire: None,
            passage: Passage::default(),
            input_known: false,
            next_report: FIRST_REPORT,
        }
    }
}

impl<L: Limiter, E: EstimateCost, C> LimitPolicy<L, E, C> {
    fn poll_ask(
        &self,
        held: &mut Held<L::Acquire>,
        request: &mut Request<RequestBody>,
        context: &Arc<Call>,
        now: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        let gate = &*self.gate;
        let passage = &mut held.passage;
        let asked = if let Some(acquire) = &mut held.acquire {
            let acquire = &mut **acquire;
            gate.revise(request, context, Pin::new(acquire), &mut passage.feedback);
            ready!(Pin::new(acquire).poll(cx))
        } else {
            if let Some(joined) = gate.join(request, context, &mut passage.scope) {
                passage.admission = Some(joined);
                return Poll::Ready(Ok(()));
            }
            let cost = gate.cost(request, context, &mut passage.feedback);
            let now = now.now();
            match gate.try_acquire(request, context, &cost, now) {
                Some(reservation) => Ok(reservation),
                None => {
                    let mut acquire = gate.limiter.acquire(gate.ask(request, context, cost));
                    match Pin::new(&mut acquire).poll(cx) {
                        Poll::Ready(asked) => asked,
                        Poll::Pending => {
                            context.set_held_back(true);
                            gate.queued(&acquire, || gate.scope(request));
                            held.acquire = Some(Box::new(acquire));
                            return Poll::Pending;
                        }
                    }
                }
            }
        };
        // Also where another attempt of this call was dropped while it waited.
        context.set_held_back(false);
        let reservation = asked?;
        held.acquire = None;
        if reservation.scope().is_none() {
            passage.scope = Some(Box::new(gate.scope(request)));
        }
        passage.admission = Some(if self.reader.is_some() {
            // Who would join it is here.
            gate.admitted_alone(reservation, &passage.scope)
        } else {
            gate.admitted(reservation, context.clone(), &passage.scope)
        });
        Poll::Ready(Ok(()))
    }
}

impl<L: Limiter, E: EstimateCost, C> AttemptPolicy for LimitPolicy<L, E, C> {
    type Attempt = Held<L::Acquire>;

    const READS_USAGE: bool = true;

    fn poll_admit(
        &self,
        held: &mut Self::Attempt,
        request: &mut Request<RequestBody>,
        context: &Arc<Call>,
        now: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        match ready!(self.poll_ask(held, request, context, now, cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(refusal) => {
                held.acquire = None;
                let gate = &*self.gate;
                Poll::Ready(Err(gate.refuse(&gate.scope(request), refusal)))
            }
        }
    }

    fn on_sent(&self, held: &mut Self::Attempt) {
        if let Some(Admission::Own(reservation)) = &mut held.passage.admission {
            reservation.sent();
        }
    }

    fn on_response(
        &self,
        held: &mut Self::Attempt,
        class: &Class,
        head: Option<&mut Parts>,
        at: &mut Clock,
    ) {
        let gate = self.reader.as_deref().unwrap_or(&self.gate);
        let Some(admission) = &held.passage.admission else {
            return;
        };
        if let Some(head) = head {
            let reads_clock = gate.reads_headers || !head.status.is_success();
            gate.on_head(
                &head.headers,
                &mut head.extensions,
                *class,
                &held.passage.scope,
                admission,
                reads_clock.then(|| at.now()),
            );
        }
        if !class.is_success()
            && let Some(admission) = held.passage.admission.take()
        {
            admission.settle(class);
        }
    }

    fn on_progress(&self, held: &mut Self::Attempt, stream: &StreamState) {
        let Some(Admission::Own(reservation)) = &held.passage.admission else {
            return;
        };
        if !held.input_known
            && let Some(input) = stream.usage().limited_input()
        {
            held.input_known = true;
            let now = Instant::now();
            // First what others in the queue are reckoned by, then the room for them.
            if let Some(feedback) = held.passage.feedback.take() {
                feedback.give(stream.usage(), now);
            }
            reservation.true_up_input(input, now);
        }
        let told = stream.usage().limited_output().unwrap_or(0);
        let produced = told.max(stream.delta_bytes() / DELTA_BYTES_PER_TOKEN);
        if produced >= u64::from(held.next_report) {
            held.next_report = u32::try_from(produced + produced / 4).unwrap_or(u32::MAX);
            reservation.produced(produced, Instant::now());
        }
    }

    fn on_end(&self, held: &mut Self::Attempt, outcome: &Outcome, at: &mut Clock) {
        if let Some(feedback) = held.passage.feedback.take()
            && outcome.usage().limited_input().is_some()
        {
            feedback.give(outcome.usage(), at.now());
        }
        if let Some(Admission::Own(reservation)) = held.passage.admission.take() {
            let now = at.now();
            reservation.settle_at(Settlement::of(outcome), now);
        }
    }
}
