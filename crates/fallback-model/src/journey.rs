//! One call on its way from model to model.

use std::{sync::Arc, time::Duration};

use http::{Method, Request, request::Parts, response};
use tokio::time::Instant;
use tower_claude_core::{
    CallContext, Class, Endpoint, RequestBody,
    event::{Event, emit},
};

use crate::{
    LAYER, Loss, ServedBy, Unportable,
    chains::{ChainId, Target},
    last,
    layer::Config,
    outage::Leave,
    policy::{Choice, Remedy, Trail, choose},
    route::{Route, View, earlier},
    ticket::Ticket,
};

/// What one call keeps while another model may yet be asked. Models are numbered: 0 is the one asked for, then the
/// chain.
pub(crate) struct Journey {
    config: Arc<Config>,
    chain: ChainId,
    /// The request as it came. Every other is made from it, so that what is lost on one way is not lost on the next.
    head: Parts,
    body: RequestBody,
    context: Arc<CallContext>,
    /// Whether the context is ours: added to each copy, so that the one we keep stays cheap to clone.
    own_context: bool,
    /// Looked up when first something is amiss.
    route: Option<Route>,
    trail: Trail,
    at: usize,
    ticket: Option<Ticket>,
    /// How the model asked for failed.
    why: Option<Class>,
    losses: Vec<Loss>,
    hops: u32,
    sent: Option<Instant>,
    /// Attempts counted when the request was last sent.
    attempts: u32,
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
        let (head, body) = request.into_parts();
        let (context, own_context) = match head.extensions.get::<Arc<CallContext>>() {
            Some(context) => (context.clone(), false),
            None => {
                let context = CallContext::new(&head.extensions, Instant::now());
                (Arc::new(context), true)
            }
        };
        Ok(Self {
            config: config.clone(),
            chain,
            head,
            body,
            context,
            own_context,
            route: None,
            trail: Trail::default(),
            at: 0,
            ticket: None,
            why: None,
            losses: Vec::new(),
            hops: 0,
            sent: None,
            attempts: 0,
            back: None,
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
        if self.at > 0 {
            self.sent = Some(Instant::now());
        }
        if self.own_context {
            request.extensions_mut().insert(self.context.clone());
        }
    }

    /// It failed: the next request to send, if another model may do better.
    pub(crate) fn after_failure(&mut self, class: &Class) -> Option<Request<RequestBody>> {
        let now = Instant::now();
        // It may have failed before it was sent: a client that cannot become ready.
        self.trail.asks(self.at);
        self.count_attempt();
        let ticket = self.take_ticket();
        let opened = ticket.settle(class);
        let asked_to = class.retry_after.and_then(|wait| now.checked_add(wait));
        self.back = earlier(self.back, opened.max(asked_to));
        if self.at == 0 {
            self.why = Some(*class);
        } else {
            self.config.shared.failed(&self.target(self.at).id);
        }
        let remedy = self.config.triggers.remedy(class);
        let next = match remedy {
            Remedy::None => return None,
            Remedy::OtherGroup => {
                self.rule_out_pool();
                self.pick(Some(class))
            }
            Remedy::AnyOther => self.pick(Some(class)),
        };
        if next.is_none() {
            self.gave_up(class);
        } else {
            // Another model counts otherwise.
            self.context.set_counted_input(None);
        }
        next
    }

    /// It was answered: says who did.
    pub(crate) fn after_success(&mut self, head: &mut response::Parts) {
        self.count_attempt();
        if let Some(ticket) = self.ticket.take() {
            ticket.settle(&Class::SUCCESS);
        }
        if let (Some(sent), Some(route)) = (self.sent, &self.route) {
            let id = &route.target(&self.config, self.at).id;
            let took = sent.elapsed();
            self.config.shared.served(id, route.streams, took);
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
        let eta = self.back.map(|back| back.saturating_duration_since(now));
        last::is_due(class).then_some((message, eta))
    }

    fn mark(&mut self, head: &mut response::Parts) {
        if self.at == 0 {
            return;
        }
        let served = ServedBy {
            model: self.target(self.at).model.clone(),
            asked: self.target(0).model.clone(),
            why: self.why.unwrap_or(Class::SUCCESS),
            losses: std::mem::take(&mut self.losses).into(),
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

    /// Chooses and makes the next request. `failed` is how the last one failed.
    fn pick(&mut self, failed: Option<&Class>) -> Option<Request<RequestBody>> {
        self.look_up();
        let now = Instant::now();
        let remaining = self.context.deadline();
        let remaining = remaining.map(|deadline| deadline.saturating_duration_since(now));
        if failed.is_some() && remaining.is_some_and(|left| left.is_zero()) {
            return None;
        }
        loop {
            let mut view = View {
                config: &self.config,
                route: self.route.as_ref()?,
                now,
                back: self.back,
            };
            let choice = choose(&mut view, &self.trail, remaining);
            self.back = view.back;
            let (number, leave, shut) = match choice {
                Choice::Ask(number, leave, shut) => (number, leave, shut),
                Choice::Force(number, shut) => (number, Leave::default(), Some(shut)),
                Choice::Nobody => return None,
            };
            let ticket = self.ticket_for(number, leave);
            let request = if number == 0 {
                Ok((self.original(), Vec::new()))
            } else {
                self.rewritten(number)
            };
            let Ok((request, losses)) = request else {
                self.trail.rules_out(number);
                continue;
            };
            if number > 0 {
                let class = failed.copied().or(shut.map(|shut| shut.why));
                let class = class.unwrap_or(Class::SUCCESS);
                self.why.get_or_insert(class);
                self.say_fell_back(number, class, failed.is_some());
            }
            ticket.say_probe();
            self.losses = losses;
            self.ticket = Some(ticket);
            self.at = number;
            return Some(request);
        }
    }

    /// A copy of the request as it came.
    fn original(&self) -> Request<RequestBody> {
        let body = self.body.try_clone().unwrap_or_default();
        Request::from_parts(self.head.clone(), body)
    }

    /// The request for another model.
    fn rewritten(&self, number: usize) -> Result<(Request<RequestBody>, Vec<Loss>), Unportable> {
        let config = &self.config;
        let counted = self.context.counted_input();
        let options = config.rewrite.clone();
        let options = match counted {
            None => options,
            counted => options.with_input_tokens(counted),
        };
        let rewritten = options.rewrite(
            &self.head.headers,
            self.body.bytes().unwrap_or(&bytes::Bytes::new()),
            self.body.model().unwrap_or_default(),
            &self.target(number).model,
            config.catalog.get(),
        )?;
        let mut request = Request::new(RequestBody::from(rewritten.body));
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.uri.clone();
        *request.version_mut() = self.head.version;
        *request.headers_mut() = rewritten.headers;
        *request.extensions_mut() = self.head.extensions.clone();
        Ok((request, rewritten.losses))
    }

    /// No target that draws on the same limits is asked.
    fn rule_out_pool(&mut self) {
        let group = self.target(self.at).group.clone();
        self.rule_out(|target| target.group == group, 0);
    }

    fn take_ticket(&mut self) -> Ticket {
        self.look_up();
        let held = self.ticket.take();
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
        self.route.as_ref().expect("looked up before")
    }

    /// Finds out what only matters when something is amiss.
    fn look_up(&mut self) {
        if self.route.is_some() {
            return;
        }
        let route = Route::of(&self.config, self.chain, &self.head, &self.body);
        let asked = route.target(&self.config, 0).id.clone();
        self.route = Some(route);
        self.rule_out(|target| target.id == asked, 1);
    }

    fn rule_out(&mut self, out: impl Fn(&Target) -> bool, from: usize) {
        for number in from..self.route().count(&self.config) {
            if out(self.target(number)) {
                self.trail.rules_out(number);
            }
        }
    }

    fn say_fell_back(&self, number: usize, class: Class, asked: bool) {
        let from = if asked { self.at } else { 0 };
        self.say(&Event::FellBack {
            layer: LAYER,
            from: &self.target(from).model,
            to: &self.target(number).model,
            class,
            asked,
        });
    }

    fn gave_up(&self, class: &Class) {
        self.config.shared.exhausted();
        // A refusal is the news of the layer that refused.
        if class.local && self.hops <= 1 {
            return;
        }
        self.say(&Event::GaveUp {
            layer: LAYER,
            attempt: self.hops,
            class: *class,
            because: "targets",
        });
    }

    fn say(&self, event: &Event<'_>) {
        emit(&self.config.observers, event);
    }
}
