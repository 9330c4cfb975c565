//! One call on its way from model to model.

mod next;

use std::{sync::Arc, time::Duration};

use http::{Method, Request, response};
use tokio::time::Instant;
use tower_claude_core::{
    CallContext, Class, Endpoint, Kind, Original, RequestBody,
    event::{Event, emit},
};

use crate::{
    LAYER, Loss, SERVED_MODEL, ServedBy,
    chains::{ChainId, Target},
    last,
    layer::Config,
    outage::Leave,
    policy::{Remedy, Trail},
    route::{Route, earlier},
    ticket::Ticket,
};

/// What one call keeps while another model may yet be asked. Models are numbered: 0 is the one asked for, then the
/// chain.
pub(crate) struct Journey {
    config: Arc<Config>,
    chain: ChainId,
    /// The request as it came. Every other is made from it, so that what is lost on one way is not lost on the next.
    original: Arc<Original>,
    context: Arc<CallContext>,
    /// Whether the context is ours: added to each copy, so that the one we keep stays cheap to clone.
    own_context: bool,
    trail: Trail,
    at: usize,
    hops: u32,
    /// Attempts counted when the request was last sent.
    attempts: u32,
    /// Boxed: the ordinary journey has none, and moves with every future around it.
    detour: Option<Box<Detour>>,
}

/// What is kept once something is amiss.
struct Detour {
    route: Route,
    ticket: Option<Ticket>,
    /// Of those that answered with 404. What is missing may be something the request names: only who serves it proves
    /// that it was the model.
    not_found: Vec<Ticket>,
    /// How the model asked for failed.
    why: Option<Class>,
    losses: Vec<Loss>,
    /// When the request left for a model, if that is another than the one asked for.
    sent: Option<Instant>,
    /// When the first of those that failed may be asked again.
    back: Option<Instant>,
}

impl Journey {
    /// The journey of this request, if another model could serve it; else the request.
    // The request comes back: it is not an error to be boxed.
    #[allow(clippy::result_large_err)]
    pub(crate) fn of(
        config: &Arc<Config>,
        request: Request<RequestBody>,
    ) -> Result<Self, Request<RequestBody>> {
        let messages = request.method() == Method::POST
            && Endpoint::of(request.uri().path()) == Endpoint::Messages;
        if !messages {
            return Err(request);
        }
        let model = request.body().model();
        let Some(chain) = model.and_then(|model| config.chains.of(model, config.catalog.get()))
        else {
            return Err(request);
        };
        let original = Original::keep(request)?;
        let extensions = original.get().extensions();
        let (context, own_context) = match extensions.get::<Arc<CallContext>>() {
            Some(context) => (context.clone(), false),
            None => {
                let context = CallContext::new(extensions, Instant::now());
                (Arc::new(context.with_original(&original)), true)
            }
        };
        Ok(Self {
            config: config.clone(),
            chain,
            original,
            context,
            own_context,
            trail: Trail::default(),
            at: 0,
            hops: 0,
            attempts: 0,
            detour: None,
        })
    }

    /// The first request to send.
    pub(crate) fn first(&mut self) -> Request<RequestBody> {
        // The ordinary case: nothing to look up, nothing to lock.
        if self.config.shared.outages.is_quiet() {
            return self.original();
        }
        self.pick(None).unwrap_or_else(|| self.original())
    }

    /// The request leaves now.
    pub(crate) fn launch(&mut self, request: &mut Request<RequestBody>) {
        self.trail.asks(self.at);
        self.hops += 1;
        self.attempts = self.context.attempts();
        if let Some(detour) = &mut self.detour {
            detour.sent = (self.at > 0).then(Instant::now);
        }
        if self.own_context {
            request.extensions_mut().insert(self.context.clone());
        }
    }

    /// Whether a layer further in has held the answer already, until it was worth handing on.
    pub(crate) fn is_committed(&self) -> bool {
        self.context.is_committed()
    }

    /// It failed: the next request to send, if another model may do better.
    pub(crate) fn after_failure(&mut self, class: &Class) -> Option<Request<RequestBody>> {
        let now = Instant::now();
        // It may have failed before it was sent: a client that cannot become ready.
        self.trail.asks(self.at);
        self.count_attempt();
        let mut ticket = self.take_ticket();
        let opened = if class.kind == Kind::NotFound {
            ticket.settle_limits(class);
            self.detour_mut().not_found.push(ticket);
            None
        } else {
            ticket.settle(class)
        };
        let asked_to = class.retry_after.and_then(|wait| now.checked_add(wait));
        let at = self.at;
        let detour = self.detour_mut();
        detour.back = earlier(detour.back, opened.max(asked_to));
        if at == 0 {
            detour.why = Some(*class);
        } else {
            self.config.shared.failed(&self.target(self.at).id);
        }
        let triggers = self.config.triggers;
        let remedy = if self.at == 0 {
            triggers.remedy(class)
        } else {
            triggers.remedy_of_stand_in(class)
        };
        let next = match remedy {
            Remedy::None => return None,
            Remedy::OtherGroup => {
                self.rule_out_pool();
                self.pick(Some(class))
            }
            Remedy::AnyOther => self.pick(Some(class)),
        };
        if next.is_none() {
            self.gave_up(class, now);
        } else {
            // Another model counts otherwise, and nobody has held its answer yet.
            self.context.set_counted_input(None);
            self.context.set_committed(false);
        }
        next
    }

    /// It was answered: says who did.
    pub(crate) fn after_success(&mut self, head: &mut response::Parts) {
        self.count_attempt();
        if let Some(detour) = &mut self.detour {
            if let Some(ticket) = detour.ticket.take() {
                ticket.settle(&Class::SUCCESS);
            }
            for ticket in detour.not_found.drain(..) {
                ticket.settle(&Class::new(Kind::NotFound));
            }
            if let Some(sent) = detour.sent {
                let id = &detour.route.target(&self.config, self.at).id;
                let took = sent.elapsed();
                self.config.shared.served(id, detour.route.streams, took);
            }
        }
        self.mark(head);
    }

    /// It failed for good: says who rejected it, where it was rejected.
    pub(crate) fn after_all(&mut self, class: &Class, head: &mut response::Parts) {
        if !last::is_due(class) {
            self.mark(head);
        }
    }

    /// The user's own words for this failure, and the wait that they may name.
    pub(crate) fn last_words(&self, class: &Class) -> Option<(Arc<str>, Option<Duration>)> {
        let message = self.config.last_message.clone()?;
        let now = Instant::now();
        let back = self.detour.as_ref().and_then(|detour| detour.back);
        let eta = back.map(|back| back.saturating_duration_since(now));
        last::is_due(class).then_some((message, eta))
    }

    fn mark(&mut self, head: &mut response::Parts) {
        if self.at == 0 {
            return;
        }
        let losses = std::mem::take(&mut self.detour_mut().losses);
        // A layer like this one further in, or behind the wire, may have asked yet another.
        let further = head.headers.get(SERVED_MODEL);
        let further = further.and_then(|model| model.to_str().ok());
        let served = ServedBy {
            model: further.map_or_else(|| self.target(self.at).model.clone(), Arc::from),
            asked: self.target(0).model.clone(),
            why: self.detour().why.unwrap_or(Class::SUCCESS),
            losses: losses.into(),
            hops: self.hops,
        };
        served.mark(head);
    }

    /// Where no layer inside counts attempts, this one does.
    fn count_attempt(&self) {
        if self.context.attempts() == self.attempts {
            self.context.begin_attempt();
        }
    }

    fn take_ticket(&mut self) -> Ticket {
        self.look_up();
        let held = self.detour_mut().ticket.take();
        held.unwrap_or_else(|| self.ticket_for(self.at, Leave::default()))
    }

    fn ticket_for(&self, number: usize, leave: Leave) -> Ticket {
        let pool = self.route().pool(&self.config, number);
        Ticket::new(&self.config, &self.target(number).id, pool, leave)
    }

    fn target(&self, number: usize) -> &Target {
        self.route().target(&self.config, number)
    }

    fn route(&self) -> &Route {
        &self.detour().route
    }

    fn detour(&self) -> &Detour {
        self.detour.as_ref().expect("looked up before")
    }

    fn detour_mut(&mut self) -> &mut Detour {
        self.detour.as_mut().expect("looked up before")
    }

    fn gave_up(&self, class: &Class, now: Instant) {
        self.config.shared.exhausted();
        // A refusal is the news of the layer that refused.
        if class.local && self.hops <= 1 {
            return;
        }
        self.say(&Event::GaveUp {
            layer: LAYER,
            model: self.original.get().body().model(),
            attempt: self.hops,
            class: *class,
            because: match self.context.deadline() {
                Some(deadline) if deadline <= now => "deadline",
                _ => "targets",
            },
        });
    }

    fn say(&self, event: &Event<'_>) {
        emit(&self.config.observers, event);
    }
}
