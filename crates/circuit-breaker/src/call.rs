//! Which circuits a call belongs to, and what it holds of them.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, ClassifyResponse, Rejection, RequestBody, Scope, breaker::Verdict,
};
use tower_service::Service;

use crate::{
    circuits::Circuit,
    layer::Config,
    ticket::{Ticket, trip},
};

/// What one call needs to know.
pub(crate) struct BreakerCall<C> {
    config: Arc<Config>,
    pub(crate) classifier: C,
    /// Whose circuit a 401 would open; 0 for nobody's.
    credential: u64,
}

/// Why a request is not sent.
pub(crate) enum Unsent<E> {
    /// A circuit is open.
    Rejected(Box<Rejection>),
    /// The inner service cannot become ready.
    Unready(E),
}

impl<E> Unsent<E> {
    fn refused(refusal: Rejection) -> Self {
        Self::Rejected(Box::new(refusal))
    }
}

/// What an admitted call holds.
#[derive(Default)]
pub(crate) struct Tickets {
    pub(crate) model: Option<Ticket>,
    /// Boxed: few credentials ever have a circuit.
    credential: Option<Box<Ticket>>,
}

impl<C> BreakerCall<C> {
    pub(crate) const fn new(config: Arc<Config>, classifier: C) -> Self {
        Self {
            config,
            classifier,
            credential: 0,
        }
    }

    /// Admits the request, once the inner service is ready and the circuits let it through: it is to be sent at once.
    pub(crate) fn admit<S>(
        &mut self,
        service: &mut S,
        request: &mut Request<RequestBody>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Tickets, Unsent<S::Error>>>
    where
        S: Service<Request<RequestBody>>,
    {
        match service.poll_ready(cx) {
            // A probe is claimed only when nothing but the request's own way is before it.
            Poll::Ready(Ok(())) => Poll::Ready(self.claim(request).map_err(Unsent::refused)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Unsent::Unready(error))),
            Poll::Pending => match self.refusal(request) {
                Some(refusal) => Poll::Ready(Err(Unsent::refused(refusal))),
                None => Poll::Pending,
            },
        }
    }

    /// Asks both circuits. Where there is no room for another circuit, the call passes unwatched.
    fn claim(&mut self, request: &mut Request<RequestBody>) -> Result<Tickets, Rejection> {
        let whose = credential_of(&self.config, request);
        let mut tickets = claim(&self.config, request, whose)?;
        let credential = whose;
        self.credential = credential;
        if let Some(context) = Call::of(request) {
            // An attempt before may have been given up in a queue.
            context.set_held_back(false);
            tickets.attach(context);
        } else if tickets.are_timed() {
            let context = Call::get_or_attach(request, Instant::now());
            tickets.attach(&context);
        }
        Ok(tickets)
    }

    /// The refusal of a call that waits for the inner service and would be refused by now.
    fn refusal(&mut self, request: &Request<RequestBody>) -> Option<Rejection> {
        let of_credential = self.circuit_of_credential(request);
        of_credential
            .and_then(|circuit| Ticket::refusal(&self.config, &circuit))
            .or_else(|| Ticket::refusal(&self.config, &*self.circuit_of_model(request)?))
    }

    /// What the head means, if the body need not tell.
    pub(crate) fn class_of<R>(&self, response: &Response<R>) -> Option<Class>
    where
        C: ClassifyResponse,
    {
        Class::by_head(&self.classifier, self.config.reuse_class, response)
    }

    fn circuit_of_credential(&mut self, request: &Request<RequestBody>) -> Option<Arc<Circuit>> {
        self.credential = credential_of(&self.config, request);
        self.config.circuits.of_credential(self.credential)
    }

    fn circuit_of_model(&self, request: &Request<RequestBody>) -> Option<Arc<Circuit>> {
        circuit_of_model(&self.config, request)
    }
}

fn credential_of(config: &Config, request: &Request<RequestBody>) -> u64 {
    match &config.credential_of {
        Some(credential_of) => credential_of(request.headers()),
        None => Scope::credential_of(request.headers()),
    }
}

fn circuit_of_model(config: &Config, request: &Request<RequestBody>) -> Option<Arc<Circuit>> {
    let scope = match &config.scope_of {
        Some(scope_of) => scope_of(request),
        None => Scope::of_model(request),
    };
    config
        .circuits
        .get_or_insert(scope, &config.breaker, config.most_circuits, Instant::now)
}

/// Asks both circuits. Where there is no room for another circuit, the call passes
/// unwatched.
pub(crate) fn claim(
    config: &Arc<Config>,
    request: &Request<RequestBody>,
    whose: u64,
) -> Result<Tickets, Rejection> {
    let credential = config
        .circuits
        .of_credential(whose)
        .map(|circuit| Ticket::claim(config, circuit))
        .transpose()?;
    let model = circuit_of_model(config, request)
        .map(|circuit| Ticket::claim(config, circuit))
        .transpose()?;
    let tickets = Tickets {
        model,
        credential: credential.map(Box::new),
    };
    // Not before both let it through.
    tickets.say_probes();
    Ok(tickets)
}

impl Tickets {
    /// Whether a circuit wants to know when the request is sent.
    pub(crate) fn are_timed(&self) -> bool {
        self.model.as_ref().is_some_and(Ticket::is_timed)
            || self
                .credential
                .as_ref()
                .is_some_and(|ticket| ticket.is_probe())
    }

    fn say_probes(&self) {
        if let Some(ticket) = &self.model {
            ticket.say_probe();
        }
        if let Some(ticket) = &self.credential {
            ticket.say_probe();
        }
    }

    /// Whether the request waits in a queue further in.
    pub(crate) fn are_held_back(&self) -> bool {
        let ticket = self.model.as_ref().or(self.credential.as_deref());
        let context = ticket.and_then(|ticket| ticket.context.as_ref());
        context.is_some_and(|context| context.is_held_back())
    }

    /// The refusal of a probe that has lost its place while it waited, and gets no other.
    pub(crate) fn lost(&mut self) -> Option<Rejection> {
        let credential = self.credential.as_mut();
        let model = self.model.as_mut().and_then(Ticket::lost);
        model.or_else(|| credential.and_then(|ticket| ticket.lost()))
    }

    /// The request leaves now.
    pub(crate) fn sent(&mut self) {
        if let Some(ticket) = &mut self.model {
            ticket.sent();
        }
        if let Some(ticket) = &mut self.credential {
            ticket.sent();
        }
    }

    pub(crate) fn settle_credential<C>(
        &mut self,
        call: &BreakerCall<C>,
        verdict: Verdict,
        class: &Class,
    ) {
        self.settle_credential_of(&call.config, call.credential, verdict, class);
    }

    pub(crate) fn settle_credential_of(
        &mut self,
        config: &Arc<Config>,
        credential: u64,
        verdict: Verdict,
        class: &Class,
    ) {
        if let Some(mut ticket) = self.credential.take() {
            ticket.settle(verdict, class.kind);
        } else if credential != 0 && matches!(verdict, Verdict::Fatal { .. }) {
            let circuit = config.circuits.get_or_insert(
                Scope::of_credential(credential),
                &config.credentials,
                config.most_circuits,
                Instant::now,
            );
            if let Some(circuit) = circuit {
                trip(config, &circuit, class);
            }
        }
    }

    pub(crate) fn attach(&mut self, context: &Arc<Call>) {
        if let Some(ticket) = &mut self.model {
            ticket.context = Some(context.clone());
        }
        if let Some(ticket) = &mut self.credential {
            ticket.context = Some(context.clone());
        }
    }
}
