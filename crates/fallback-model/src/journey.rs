//! One call on its way from model to model.

mod next;

use std::{sync::Arc, time::Duration};

use http::{Method, Request, response};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, Endpoint, Kind, RequestBody, SavedRequest,
    event::{Event, emit},
};

use crate::{
    LAYER, Loss, SERVED_MODEL, ServedBy,
    chains::{ChainId, Target},
    last,
    layer::Config,
    outage::Leave,
    policy::{Remedy, Trail},
    route::{CallTargets, earlier},
    ticket::Ticket,
};

/// What one call keeps while another model may yet be asked. Models are numbered: 0 is the one asked for, then the
/// chain.
pub(crate) struct Journey {
    config: Arc<Config>,
    chain: ChainId,
    /// The request as it came. Every other is made from it, so that what is lost on one way is not lost on the next.
    original: Arc<SavedRequest>,
    context: Arc<Call>,
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
    route: CallTargets,
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
    /// The journey of this request, if another model could serve it.
    pub(crate) fn of(
        config: &Arc<Config>,
        request: &Request<RequestBody>,
        kept: Option<Arc<SavedRequest>>,
    ) -> Option<Self> {
        let messages = request.method() == Method::POST
            && Endpoint::of(request.uri().path()) == Endpoint::Messages;
        if !messages {
            return None;
        }
        let model = request.body().model()?;
        let chain = config.chains.of(model, config.catalog.get())?;
        let original = kept.or_else(|| SavedRequest::of(request))?;
        let (context, own_context) = match Call::of(request) {
            Some(context) => (context.clone(), false),
            None => {
                let context = Call::new(request.extensions(), Instant::now());
                (Arc::new(context), true)
            }
        };
        Some(Self {
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

    /// The chain of the models that could serve this request instead.
    pub(crate) fn chain_of(config: &Config, request: &Request<RequestBody>) -> Option<ChainId> {
        let messages = request.method() == Method::POST
            && Endpoint::of(request.uri().path()) == Endpoint::Messages;
        if !messages {
            return None;
        }
        let model = request.body().model()?;
        config.chains.of(model, config.catalog.get())
    }

    /// The journey of a request that was sent in passing.
    pub(crate) fn resume(
        config: &Arc<Config>,
        context: &Arc<Call>,
        light: crate::stage::Light,
    ) -> Self {
        let mut trail = Trail::default();
        trail.asks(0);
        Self {
            config: config.clone(),
            chain: light.chain,
            original: light.original,
            context: context.clone(),
            own_context: false,
            trail,
            at: 0,
            hops: 1,
            attempts: light.attempts,
            detour: None,
        }
    }

    /// As if nothing had been sent yet.
    pub(crate) fn begin_anew(&mut self) {
        self.trail = Trail::default();
        self.hops = 0;
    }

    /// The request leaves now. Of the first, it is chosen here whom to ask.
    pub(crate) fn launch(&mut self, request: &mut Request<RequestBody>) {
        // Ordinarily there is nothing to look up, nothing to lock.
        if self.hops == 0
            && !self.config.shared.outages.is_quiet()
            && let Some(chosen) = self.pick(None)
        {
            *request = chosen;
        }
        self.trail.asks(self.at);
        self.hops += 1;
        self.attempts = self.context.attempts();
        if let Some(detour) = &mut self.detour {
            detour.sent = (self.at > 0).then(Instant::now);
        }
        if self.own_context {
            self.context.attach(request);
        }
    }

    /// The request as it came, while it is this that is asked.
    pub(crate) fn original_now(&self) -> Option<Arc<SavedRequest>> {
        (self.at == 0).then(|| self.original.clone())
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

    fn route(&self) -> &CallTargets {
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
            model: self.original.body().model(),
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
