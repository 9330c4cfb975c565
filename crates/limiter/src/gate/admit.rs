//! Letting a request in: joining what is reserved, asking, or refusing.

use std::{pin::Pin, sync::Arc};

use http::Request;
use tokio::time::Instant;
use tower_claude_core::{
    Call, Cost, EstimateCost, PendingEstimate, Rejection, RequestBody, Scope, ScopeRef, Workload,
    event::{Event, emit},
};

use super::{Gate, head::Admission};
use crate::{Ask, Limiter, Reservation};

/// What a request is told when it comes.
pub(super) enum Arrival {
    /// The same limiter has admitted it further out.
    Joined(Admission),
    /// To ask, and who wants to know what came of it.
    Asks(Ask, Option<Box<PendingEstimate>>),
}

impl<L: Limiter, E: EstimateCost, C> Gate<L, E, C> {
    /// What the same limiter has reserved further out is not reserved again. Two scopes are two limits,
    /// but a gate that reads headers corrects whatever was reserved.
    pub(super) fn arrive(
        &self,
        request: &mut Request<RequestBody>,
        context: &Arc<Call>,
        scope: &mut Option<Box<Scope>>,
    ) -> Arrival {
        if let Some(joined) = self.join(request, context, scope) {
            return Arrival::Joined(joined);
        }
        let mut feedback = None;
        let cost = self.cost(request, context, &mut feedback);
        let ask = self.ask(request, context, cost);
        if Call::of(request).is_none() {
            context.attach(request);
        }
        Arrival::Asks(ask, feedback)
    }

    /// Whether the same limiter has admitted the request further out.
    pub(super) fn join(
        &self,
        request: &Request<RequestBody>,
        context: &Call,
        scope: &mut Option<Box<Scope>>,
    ) -> Option<Admission> {
        if !context.is_reserved() {
            return None;
        }
        let handle = context.reservation_of(self.limiter.id())?;
        let mut own = None;
        if !self.reads_headers || handle.scope().is_none() {
            own = Some(self.scope(request));
        }
        if !self.reads_headers && handle.scope() != own.as_ref() {
            return None;
        }
        if handle.scope().is_none() {
            *scope = own.map(Box::new);
        }
        Some(Admission::Joined(handle))
    }

    /// What the request will take.
    #[inline]
    pub(super) fn cost(
        &self,
        request: &Request<RequestBody>,
        context: &Call,
        feedback: &mut Option<Box<PendingEstimate>>,
    ) -> Cost {
        let estimate = self.estimate.estimate(request);
        *feedback = PendingEstimate::of(&self.estimate, &estimate).map(Box::new);
        let mut cost = counted(estimate, context);
        if cost.workload == Workload::NONE {
            cost.workload = context.workload();
        }
        if let Some(names) = &self.names {
            names.workload(request, &mut cost);
        }
        cost
    }

    /// What is asked of the limiter.
    pub(super) fn ask(&self, request: &Request<RequestBody>, context: &Call, cost: Cost) -> Ask {
        let mut ask = Ask {
            scope: self.scope_in(request, context),
            first_arrival: Some(context.first_arrival()),
            deadline: context.deadline(),
            max_wait: Some(self.max_wait),
            priority: context.priority(),
            tenant: context.tenant().cloned(),
            cost,
        };
        if let Some(names) = &self.names {
            names.apply(request, &mut ask);
        }
        ask
    }

    /// Asks for a request that nothing keeps.
    #[inline]
    pub(super) fn try_acquire(
        &self,
        request: &Request<RequestBody>,
        context: &Call,
        cost: &Cost,
        now: Instant,
    ) -> Option<Reservation> {
        let deadline = context.deadline();
        if let Some(scope_of) = &self.scope_of {
            let scope = scope_of(request);
            return self.limiter.try_acquire(&scope, cost, deadline, now);
        }
        let scope = ScopeRef::of_call(request, context)?;
        self.limiter.try_acquire(&scope, cost, deadline, now)
    }
}

impl<L: Limiter, E: EstimateCost, C> Gate<L, E, C> {
    /// What the request will cost, and who wants to know what it did.
    fn reckon(
        &self,
        request: &Request<RequestBody>,
        context: &Call,
    ) -> (Cost, Option<Box<PendingEstimate>>) {
        let cost = self.estimate.estimate(request);
        let feedback = PendingEstimate::of(&self.estimate, &cost).map(Box::new);
        (counted(cost, context), feedback)
    }

    /// A request that has waited is reckoned anew where its estimator goes on learning: of many that came
    /// at once with one long prefix, only the first writes it to the prompt cache.
    pub(super) fn revise(
        &self,
        request: &Request<RequestBody>,
        context: &Call,
        acquire: Pin<&mut L::Acquire>,
        feedback: &mut Option<Box<PendingEstimate>>,
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
fn counted(cost: Cost, context: &Call) -> Cost {
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
        context: Arc<Call>,
        scope: &Option<Box<Scope>>,
    ) -> Admission {
        reservation.leave_in(context);
        self.admitted_alone(reservation, scope)
    }

    pub(super) fn admitted_alone(
        &self,
        reservation: Reservation,
        scope: &Option<Box<Scope>>,
    ) -> Admission {
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

    pub(super) fn refuse(&self, scope: &Scope, refusal: Rejection) -> Rejection {
        let refusal = refusal.in_name_of(self.layer);
        emit(
            &self.observers,
            &Event::Rejected {
                layer: self.layer,
                scope: Some(scope),
                reason: refusal.reason,
                class: refusal.class(),
            },
        );
        refusal
    }
}
