//! Which circuits a call belongs to, and what it holds of them.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::time::Instant;
use tower_claude_core::{
    CallContext, Class, ClassifyResponse, Refusal, RequestBody, Scope, breaker::Verdict,
};
use tower_service::Service;

use crate::{
    circuits::Circuit,
    layer::Config,
    ticket::{Ticket, trip},
};

/// What one call needs to know.
pub(crate) struct Call<C> {
    config: Arc<Config>,
    pub(crate) classifier: C,
    /// Whose circuit a 401 would open; 0 for nobody's.
    credential: u64,
}

/// Why a request is not sent.
pub(crate) enum Unsent<E> {
    /// A circuit is open.
    Refused(Box<Refusal>),
    /// The inner service cannot become ready.
    Unready(E),
}

impl<E> Unsent<E> {
    fn refused(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// What an admitted call holds.
#[derive(Default)]
pub(crate) struct Tickets {
    pub(crate) model: Option<Ticket>,
    /// Boxed: few credentials ever have a circuit.
    credential: Option<Box<Ticket>>,
}

impl<C> Call<C> {
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
    fn claim(&mut self, request: &mut Request<RequestBody>) -> Result<Tickets, Refusal> {
        let of_credential = self.circuit_of_credential(request);
        let credential = of_credential
            .map(|circuit| Ticket::claim(&self.config, circuit))
            .transpose()?;
        let model = self
            .circuit_of_model(request)
            .map(|circuit| Ticket::claim(&self.config, circuit))
            .transpose()?;
        let mut tickets = Tickets {
            model,
            credential: credential.map(Box::new),
        };
        if let Some(context) = request.extensions().get::<Arc<CallContext>>() {
            context.set_held_back(false);
            tickets.attach(context);
        } else if tickets.are_timed() {
            let context = CallContext::get_or_insert(request.extensions_mut(), Instant::now());
            tickets.attach(&context);
        }
        Ok(tickets)
    }

    /// The refusal of a call that waits for the inner service and would be refused by now.
    fn refusal(&mut self, request: &Request<RequestBody>) -> Option<Refusal> {
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
        self.credential = match &self.config.credential_of {
            Some(credential_of) => credential_of(request.headers()),
            None => Scope::credential_of(request.headers()),
        };
        self.config.circuits.of_credential(self.credential)
    }

    fn circuit_of_model(&self, request: &Request<RequestBody>) -> Option<Arc<Circuit>> {
        let config = &*self.config;
        let scope = match &config.scope_of {
            Some(scope_of) => scope_of(request),
            None => Scope::of_model(request),
        };
        config
            .circuits
            .get_or_insert(scope, &config.breaker, config.most_circuits, Instant::now)
    }
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

    /// Whether the request waits in a queue further in.
    pub(crate) fn are_held_back(&self) -> bool {
        let ticket = self.model.as_ref().or(self.credential.as_deref());
        let context = ticket.and_then(|ticket| ticket.context.as_ref());
        context.is_some_and(|context| context.is_held_back())
    }

    /// The refusal of a probe that has lost its place while it waited.
    pub(crate) fn lost(&self) -> Option<Refusal> {
        let credential = self.credential.as_ref();
        let model = self.model.as_ref().and_then(Ticket::lost);
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

    pub(crate) fn settle_credential<C>(&mut self, call: &Call<C>, verdict: Verdict, class: &Class) {
        if let Some(mut ticket) = self.credential.take() {
            ticket.settle(verdict, class.kind);
        } else if call.credential != 0 && matches!(verdict, Verdict::Fatal { .. }) {
            let config = &call.config;
            let circuit = config.circuits.get_or_insert(
                Scope::of_credential(call.credential),
                &config.credentials,
                config.most_circuits,
                Instant::now,
            );
            if let Some(circuit) = circuit {
                trip(config, &circuit, class);
            }
        }
    }

    fn attach(&mut self, context: &Arc<CallContext>) {
        if let Some(ticket) = &mut self.model {
            ticket.context = Some(context.clone());
        }
        if let Some(ticket) = &mut self.credential {
            ticket.context = Some(context.clone());
        }
    }
}
