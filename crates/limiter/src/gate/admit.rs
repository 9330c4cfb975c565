//! Letting a request in: joining what is reserved, asking, or refusing.

use std::{pin::Pin, sync::Arc};

use http::Request;
use tokio::time::Instant;
use tower_claude_core::{
    CallContext, Cost, EstimateCost, Feedback, Refusal, RequestBody, Scope,
    event::{Event, emit},
};

use super::{Gate, head::Admission};
use crate::{Ask, Limiter, Reservation};

/// What a request is told when it comes.
pub(super) enum Arrival {
    /// The same limiter has admitted it further out.
    Joined(Admission),
    /// To ask, and who wants to know what came of it.
    Asks(Ask, Option<Box<Feedback>>),
}

impl<L: Limiter, E: EstimateCost, C> Gate<L, E, C> {
    /// What the same limiter has reserved further out is not reserved again. Two scopes are two limits,
    /// but a gate that reads headers corrects whatever was reserved.
    pub(super) fn arrive(
        &self,
        request: &mut Request<RequestBody>,
        context: &Arc<CallContext>,
        scope: &mut Option<Box<Scope>>,
    ) -> Arrival {
        let mut own = None;
        if let Some(handle) = context.reservation_of(self.limiter.id()) {
            if !self.reads_headers || handle.scope().is_none() {
                own = Some(self.scope(request));
            }
            if self.reads_headers || handle.scope() == own.as_ref() {
                if handle.scope().is_none() {
                    *scope = own.map(Box::new);
                }
                return Arrival::Joined(Admission::Joined(handle));
            }
        }
        let own = own.unwrap_or_else(|| self.scope(request));
        let (cost, feedback) = self.reckon(request, context);
        let mut ask = Ask::new(own, cost)
            .with_context(context)
            .with_max_wait(Some(self.max_wait));
        if let Some(names) = &self.names {
            names.apply(request, &mut ask);
        }
        if request.extensions().get::<Arc<CallContext>>().is_none() {
            request.extensions_mut().insert(context.clone());
        }
        Arrival::Asks(ask, feedback)
    }
}

impl<L: Limiter, E: EstimateCost, C> Gate<L, E, C> {
    /// What the request will cost, and who wants to know what it did.
    fn reckon(
        &self,
        request: &Request<RequestBody>,
        context: &CallContext,
    ) -> (Cost, Option<Box<Feedback>>) {
        let cost = self.estimate.estimate(request);
        let feedback = Feedback::of(&self.estimate, &cost).map(Box::new);
        (counted(cost, context), feedback)
    }

    /// A request that has waited is reckoned anew where its estimator goes on learning: of many that came
    /// at once with one long prefix, only the first writes it to the prompt cache.
    pub(super) fn revise(
        &self,
        request: &Request<RequestBody>,
        context: &CallContext,
        acquire: Pin<&mut L::Acquire>,
        feedback: &mut Option<Box<Feedback>>,
    ) {
        let Some(held) = feedback else { return };
        let before = *held.cost();
        let cost = match held.revise(Instant::now()) {
            Some(cost) if cost == before => return,
            Some(cost) => counted(cost, context),
            None => {
                // What is given up first makes room for what takes its place: at its bound an estimator
                // would push another out.
                *feedback = None;
                let (cost, anew) = self.reckon(request, context);
                *feedback = anew;
                cost
            }
        };
        self.limiter.revise(acquire, cost);
    }
}

/// The cost with the input that a layer further out had counted.
fn counted(cost: Cost, context: &CallContext) -> Cost {
    match context.counted_input() {
        Some(tokens) => cost.with_counted_input(tokens),
        None => cost,
    }
}

impl<L, E, C> Gate<L, E, C> {
    /// Leaves the reservation where inner layers find it.
    pub(super) fn admitted(
        &self,
        mut reservation: Reservation,
        context: Arc<CallContext>,
        scope: &Option<Box<Scope>>,
    ) -> Admission {
        reservation.leave_in(context);
        let wait = reservation.waited();
        let admission = Admission::Own(reservation);
        emit(
            &self.observers,
            &Event::Admitted {
                layer: self.layer,
                scope: admission.scope(scope),
                wait,
            },
        );
        admission
    }

    pub(super) fn refuse(&self, scope: &Scope, refusal: Refusal) -> Refusal {
        let refusal = refusal.in_name_of(self.layer);
        emit(
            &self.observers,
            &Event::Refused {
                layer: self.layer,
                scope: Some(scope),
                reason: refusal.reason,
                class: refusal.class(),
            },
        );
        refusal
    }
}
