//! The breaker as a guard of a driver.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, response::Parts};
use tower_claude_core::{
    Call, Class, Kind, Outcome, Rejection, RequestBody, ScopeRef,
    breaker::{Generation, Permit, Verdicts},
    driver::{AttemptPolicy, Clock},
};
use tower_claude_wire::StreamState;

use crate::{
    call::{Tickets, claim},
    circuits::Circuit,
    layer::Config,
    ticket::Ticket,
};

/// The breaker as a guard of a driver.
pub struct BreakerPolicy(pub(crate) Arc<Config>);

/// What an attempt holds of its circuits.
#[derive(Default)]
pub struct BreakerAttempt {
    /// The ordinary call: it has passed a calm circuit.
    calm: Option<(Arc<Circuit>, Generation)>,
    /// Boxed: there are few others.
    full: Option<Box<Full>>,
    credential: u64,
}

#[derive(Default)]
struct Full {
    tickets: Tickets,
    /// A circuit waits to be told that the request has left.
    unsent: bool,
}

impl BreakerAttempt {
    /// As a ticket, where it matters what becomes of the call.
    fn full(&mut self, config: &Arc<Config>) -> Option<&mut Full> {
        if let Some((circuit, generation)) = self.calm.take() {
            let ticket = Ticket::calm(config, circuit, generation);
            self.full.get_or_insert_default().tickets.model = Some(ticket);
        }
        self.full.as_deref_mut()
    }

    /// Whether a success changes nothing.
    fn is_calm(&self) -> bool {
        let calm = |(circuit, generation): &(Arc<Circuit>, Generation)| {
            circuit.is_calm_for(&Permit::calm(*generation))
        };
        self.calm.as_ref().is_some_and(calm)
    }
}

impl BreakerPolicy {
    /// The ordinary call: no circuit of a credential, and a calm one of the model.
    fn pass(&self, request: &Request<RequestBody>) -> Option<(Arc<Circuit>, Generation)> {
        let circuits = &self.0.circuits;
        if circuits.has_credentials() {
            return None;
        }
        let circuit = match &self.0.scope_of {
            Some(scope_of) => circuits.get(&scope_of(request))?,
            None => circuits.get(&ScopeRef::of_model(request)?)?,
        };
        let generation = circuit.calm()?.generation();
        Some((circuit, generation))
    }
}

impl AttemptPolicy for BreakerPolicy {
    type Attempt = BreakerAttempt;

    fn poll_admit(
        &self,
        held: &mut BreakerAttempt,
        request: &mut Request<RequestBody>,
        context: &Arc<Call>,
        _: &mut Clock,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        held.credential = match &self.0.credential_of {
            Some(credential_of) => credential_of(request.headers()),
            None => context.credential_of(request.headers()),
        };
        // An attempt before may have been given up in a queue.
        context.set_held_back(false);
        held.calm = self.pass(request);
        if held.calm.is_none() {
            let mut tickets = claim(&self.0, request, held.credential)?;
            let unsent = tickets.are_timed();
            tickets.attach(context);
            held.full = Some(Box::new(Full { tickets, unsent }));
        }
        Poll::Ready(Ok(()))
    }

    fn recheck(&self, held: &mut BreakerAttempt) -> Option<Rejection> {
        let full = held.full.as_mut().filter(|full| full.unsent)?;
        full.tickets.lost()
    }

    fn on_sent(&self, held: &mut BreakerAttempt) {
        if let Some(full) = &mut held.full
            && full.unsent
        {
            full.unsent = false;
            full.tickets.sent();
        }
    }

    fn on_response(
        &self,
        held: &mut BreakerAttempt,
        class: &Class,
        _: Option<&mut Parts>,
        _: &mut Clock,
    ) {
        if class.kind == Kind::Success && !class.local && held.full.is_none() {
            return;
        }
        let credential = held.credential;
        let Some(full) = held.full(&self.0) else {
            return;
        };
        let verdicts = Verdicts::of(class);
        if (class.kind != Kind::Success || class.local)
            && let Some(mut ticket) = full.tickets.model.take()
        {
            ticket.settle(verdicts.availability, class.kind);
        }
        full.tickets
            .settle_credential_of(&self.0, credential, verdicts.credential, class);
    }

    fn on_opaque_body(&self, held: &mut BreakerAttempt) {
        // There is no telling where the content of this begins.
        if let Some(full) = held.full(&self.0)
            && let Some(ticket) = &mut full.tickets.model
        {
            ticket.begin();
        }
    }

    fn on_progress(&self, held: &mut BreakerAttempt, stream: &StreamState) {
        if (stream.has_content() || stream.is_complete() || stream.is_not_claude())
            && let Some(full) = held.full(&self.0)
            && let Some(ticket) = &mut full.tickets.model
        {
            ticket.begin();
        }
    }

    fn on_end(&self, held: &mut BreakerAttempt, outcome: &Outcome, _: &mut Clock) {
        if let Outcome::Complete { .. } = outcome
            && held.is_calm()
        {
            held.calm = None;
            return;
        }
        let Some(full) = held.full(&self.0) else {
            return;
        };
        let Some(ticket) = &mut full.tickets.model else {
            return;
        };
        match outcome {
            Outcome::Complete { .. } => ticket.complete(),
            Outcome::Failed { class, .. } => ticket.broke_off(*class),
            // The ticket says what a drop means.
            _ => {}
        }
    }

    fn on_timeout(&self, held: &mut BreakerAttempt) {
        if held.calm.is_some()
            && let Some(full) = held.full(&self.0)
            && let Some(mut ticket) = full.tickets.model.take()
        {
            ticket.broke_off(Class::new(Kind::Timeout));
        }
    }
}
