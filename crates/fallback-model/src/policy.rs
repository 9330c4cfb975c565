//! The policy: fallback from model to model, for a driver.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, response::Parts};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, Endpoint, Kind, Reach, RequestBody,
    driver::{AttemptFailure, CallPolicy, CallStart},
    event::{Event, EventSink, emit},
    toolkit::{ApiPath, SavedRequest, requested_model},
};
use tower_claude_wire::{Lifecycle, is_event_stream};

use crate::{
    chains::{ChainId, HostModel, Target},
    config::{Config, LAYER},
    cooldown::Permit,
    message, path_model,
    rewrite::{Loss, Unportable},
    selection::{FallbackScope, Selection, TriedTargets, select},
    served::{SERVED_MODEL, ServedBy},
    targets::{CallTargets, TargetPermit, TargetView, earlier, settle},
};

/// The call policy of a [`FallbackModelLayer`](crate::FallbackModelLayer), for a driver that
/// combines several policies.
#[derive(Clone)]
pub struct FallbackPolicy(pub(crate) Arc<Config>);

/// The state of one call under a [`FallbackPolicy`].
pub struct FallbackState(Stage);

enum Stage {
    /// No other model can serve the request, or the call is answered.
    Inactive,
    /// The model asked for is tried, and no model has failed lately.
    // The stage of nearly all calls: it neither allocates nor locks.
    First(FirstAttempt),
    /// A model has failed, in this call or lately. Boxed: rare, and the state moves with the
    /// future.
    Fallback(Box<FallbackCall>),
}

/// The data that the first attempt keeps for a fallback.
struct FirstAttempt {
    chain: ChainId,
    original: Arc<SavedRequest>,
    /// The attempts that were counted when the request was sent.
    attempts: u32,
}

/// One call while another model may be tried. Targets are numbered: 0 is the model asked for, then
/// the chain.
struct FallbackCall {
    targets: CallTargets,
    /// The request as it came, which an inner retry policy shares.
    original: Arc<SavedRequest>,
    /// The same request with its URI and header map. Every rewrite starts from it, so that no loss
    /// is carried on.
    request: Request<RequestBody>,
    tried: TriedTargets,
    /// The target that the request was last made for.
    at: usize,
    /// The number of models that were sent the request.
    hops: u32,
    /// The attempts that were counted when the request was last sent.
    attempts: u32,
    permit: Option<TargetPermit>,
    /// The models that returned 404. The request may name something else that is missing, so a 404
    /// counts against a model only after another model has served the request.
    not_found: Vec<Permit<HostModel>>,
    /// The failure of the model asked for.
    why: Option<Class>,
    losses: Vec<Loss>,
    /// The time at which the request was sent to a stand-in.
    sent: Option<Instant>,
    /// The earliest time at which a failed target may be available again.
    back: Option<Instant>,
    next: Option<Request<RequestBody>>,
    /// The wait before it is sent.
    delay: Duration,
}

impl FallbackCall {
    /// Continues a call of which nothing has been sent.
    fn new(config: &Config, first: FirstAttempt) -> Self {
        let request = first.original.copy();
        let targets = CallTargets::of(config, first.chain, &request);
        let mut tried = TriedTargets::default();
        // A model is not its own stand-in.
        let id = |number| &targets.target(config, number).id;
        let own = (1..targets.count(config)).filter(|number| id(*number) == id(0));
        own.for_each(|number| tried.exclude(number));
        Self {
            targets,
            original: first.original,
            request,
            tried,
            at: 0,
            hops: 0,
            attempts: first.attempts,
            permit: None,
            not_found: Vec::new(),
            why: None,
            losses: Vec::new(),
            sent: None,
            back: None,
            next: None,
            delay: Duration::ZERO,
        }
    }

    /// Records that the request for the present target is sent.
    fn on_sent(&mut self, call: &Call) {
        self.tried.mark_tried(self.at);
        // A resumed target was counted before.
        self.hops += u32::from(self.delay.is_zero());
        self.attempts = call.attempts();
        self.sent = (self.at > 0).then(Instant::now);
    }

    /// Records a failure. Returns the next request, if another model may do better.
    fn after_failure(
        &mut self,
        config: &Config,
        call: &Arc<Call>,
        failure: &AttemptFailure<'_>,
    ) -> Option<Request<RequestBody>> {
        let (now, class) = (Instant::now(), &failure.class);
        self.count_attempt(call);
        if class.kind == Kind::NotFound && self.at == 0 && self.is_unheard_of(config) {
            return None;
        }
        let permit = self.permit.take();
        let permit = permit.unwrap_or_else(|| self.targets.permit(config, self.at));
        let back = if class.kind == Kind::NotFound {
            let signal = config.triggers.signals(class).group;
            settle(permit.group, config, signal, class, now);
            self.not_found.push(permit.model);
            None
        } else {
            permit.settle(config, class, now)
        };
        let retry_after = class.retry_after.and_then(|wait| now.checked_add(wait));
        self.back = earlier(self.back, back.max(retry_after));
        let scope = if self.at == 0 {
            self.why = Some(*class);
            config.triggers.scope(class)
        } else {
            let id = &self.targets.target(config, self.at).id;
            config.shared.count_failure(id);
            config.triggers.scope_of_stand_in(class)
        };
        match scope {
            FallbackScope::None => return self.resume(config, call),
            FallbackScope::OtherRateGroup => {
                self.exclude_like(config, |target, failed| target.group == failed.group);
            }
            FallbackScope::LargerWindow => {
                let is_no_larger =
                    |target: &Target, failed: &Target| target.facts.context <= failed.facts.context;
                self.exclude_like(config, is_no_larger);
            }
            FallbackScope::AnyOther => {}
        }
        let next = self.select(config, call, Some(failure));
        let next = next.or_else(|| self.resume(config, call));
        if next.is_none() {
            self.report_gave_up(config, call, failure, now);
        } else {
            // Another model counts its tokens differently.
            call.set_counted_input(None);
        }
        next
    }

    /// Returns true if the requested name is neither in the catalog nor has ever been served. A
    /// stand-in would hide a mistyped name.
    fn is_unheard_of(&self, config: &Config) -> bool {
        let facts = &self.targets.target(config, 0).facts;
        let model = self.original.model().unwrap_or_default();
        let is_misspelled = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_whitespace();
        let is_known = facts.known || facts.lifecycle == Lifecycle::Retired;
        // The catalog finds a model by more spellings than any server accepts.
        let is_listed = is_known && !model.bytes().any(is_misspelled)
            || config.catalog().get_named(model.as_bytes()).0.is_some();
        !is_listed && !config.shared.has_served(&model)
    }

    /// Returns the request for the present target again, if the retry layer left an attempt out in
    /// favour of a stand-in and there is none.
    fn resume(&mut self, config: &Config, call: &Arc<Call>) -> Option<Request<RequestBody>> {
        let wait = call.postponed()?;
        let left = call.deadline();
        let left = left.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left <= wait) {
            return None;
        }
        let request = if self.at == 0 {
            self.original.copy()
        } else {
            self.rewritten(config, call, self.at).ok()?.0
        };
        call.set_stand_in(false);
        self.delay = wait;
        self.permit = Some(self.targets.permit(config, self.at));
        Some(request)
    }

    /// Records a success, and marks the response if a stand-in served it.
    fn after_success(&mut self, config: &Config, call: &Call, head: &mut Parts) {
        self.count_attempt(call);
        let now = Instant::now();
        if let Some(permit) = self.permit.take() {
            permit.settle(config, &Class::SUCCESS, now);
        }
        let not_found = Class::new(Kind::NotFound).with_reach(Reach::Model);
        for permit in self.not_found.drain(..) {
            let signal = config.triggers.signals(&not_found).model;
            settle(permit, config, signal, &not_found, now);
        }
        if let Some(sent) = self.sent {
            let id = &self.targets.target(config, self.at).id;
            let took = now.saturating_duration_since(sent);
            config.shared.count_success(id, self.targets.streams, took);
        }
        if self.at == 0 {
            set_served(config, &self.original);
        }
        self.mark(config, head);
    }

    /// Selects the next target and makes the request for it. `failed` is the last failure.
    fn select(
        &mut self,
        config: &Config,
        call: &Arc<Call>,
        failed: Option<&AttemptFailure<'_>>,
    ) -> Option<Request<RequestBody>> {
        let now = Instant::now();
        let remaining = call.deadline();
        let remaining = remaining.map(|deadline| deadline.saturating_duration_since(now));
        loop {
            let mut view = TargetView {
                config,
                targets: &self.targets,
                now,
                back: self.back,
            };
            let selection = select(&mut view, &self.tried, remaining);
            self.back = view.back;
            let (number, permit, unavailable) = match selection {
                Selection::Use(number, permit, unavailable) => (number, permit, unavailable),
                Selection::UseSoonest(number, unavailable) => {
                    let permit = self.targets.permit(config, number);
                    (number, permit, Some(unavailable))
                }
                Selection::None => return None,
            };
            let request = if number == 0 {
                Ok((self.original.copy(), Vec::new()))
            } else {
                self.rewritten(config, call, number)
            };
            let Ok((request, losses)) = request else {
                self.tried.exclude(number);
                continue;
            };
            if number > 0 {
                let class = failed.map(|failure| failure.class);
                let class = class.or(unavailable.map(|reason| reason.why));
                let class = class.unwrap_or(Class::SUCCESS);
                call.record_fallback(self.why.get_or_insert(class).kind);
                let from = if failed.is_some() { self.at } else { 0 };
                let event = Event::FellBack {
                    layer: LAYER,
                    from: &self.targets.target(config, from).model,
                    to: &self.targets.target(config, number).model,
                    class,
                    asked: failed.is_some(),
                    details: failed.map(|failure| failure.details).unwrap_or_default(),
                };
                emit(&config.events, &event);
            }
            permit.report_probe(config);
            // The caller of a probe waits for one attempt, not for all that a retry layer may make.
            let has_others = permit.is_probe() && self.has_others(config, call, number);
            call.set_probe(has_others);
            let mut others = (0..self.targets.count(config)).filter(|other| *other != number);
            call.set_stand_in(others.any(|other| self.tried.is_open(other)));
            self.delay = Duration::ZERO;
            self.losses = losses;
            self.permit = Some(permit);
            self.at = number;
            return Some(request);
        }
    }

    /// Returns the request for a stand-in.
    fn rewritten(
        &self,
        config: &Config,
        call: &Arc<Call>,
        number: usize,
    ) -> Result<(Request<RequestBody>, Vec<Loss>), Unportable> {
        let options = config.rewrite.clone();
        let options = options
            .with_platform(self.targets.platform)
            .with_now(self.targets.date);
        let options = match call.counted_input() {
            None => options,
            counted => options.with_input_tokens(counted),
        };
        let original = &self.request;
        let (uri, to) = (original.uri(), &self.targets.target(config, number).model);
        let catalog = config.catalog();
        let (rewritten, uri) = if ApiPath::parse(uri.path()).form.is_some() {
            path_model::rewrite(&options, original, to, catalog)?
        } else {
            let body = original.body();
            let from = body.model().unwrap_or_default();
            let bytes = body.bytes().cloned().unwrap_or_default();
            let headers = original.headers();
            (
                options.rewrite(headers, &bytes, from, to, catalog)?,
                uri.clone(),
            )
        };
        let mut request = Request::new(RequestBody::from(rewritten.body));
        *request.method_mut() = original.method().clone();
        *request.uri_mut() = uri;
        *request.version_mut() = original.version();
        *request.headers_mut() = rewritten.headers;
        *request.extensions_mut() = original.extensions().clone();
        call.attach(&mut request);
        Ok((request, rewritten.losses))
    }

    /// Excludes all targets that would fail as the present one has.
    fn exclude_like(&mut self, config: &Config, fails: impl Fn(&Target, &Target) -> bool) {
        let failed = self.targets.target(config, self.at);
        for number in 0..self.targets.count(config) {
            if fails(self.targets.target(config, number), failed) {
                self.tried.exclude(number);
            }
        }
    }

    /// Returns true if another target could take over from this one.
    fn has_others(&self, config: &Config, call: &Arc<Call>, number: usize) -> bool {
        let takes = |other| other == 0 || self.rewritten(config, call, other).is_ok();
        (0..self.targets.count(config))
            .any(|other| other != number && self.tried.is_open(other) && takes(other))
    }

    /// Counts an attempt where no inner layer counts attempts.
    fn count_attempt(&self, call: &Call) {
        if call.attempts() == self.attempts {
            call.begin_attempt();
        }
    }

    /// Marks the response of a stand-in.
    fn mark(&mut self, config: &Config, head: &mut Parts) {
        if self.at == 0 {
            return;
        }
        // An inner fallback layer, or a server, may have used yet another model.
        let inner = head.headers.get(SERVED_MODEL);
        let inner = inner.and_then(|model| model.to_str().ok());
        let target = |number| &self.targets.target(config, number).model;
        let served = ServedBy {
            model: inner.map_or_else(|| target(self.at).clone(), Arc::from),
            asked: target(0).clone(),
            why: self.why.unwrap_or(Class::SUCCESS),
            losses: std::mem::take(&mut self.losses).into(),
            hops: self.hops,
        };
        served.mark(head);
    }

    fn report_gave_up(
        &self,
        config: &Config,
        call: &Call,
        failure: &AttemptFailure<'_>,
        now: Instant,
    ) {
        config.shared.count_exhausted();
        let class = failure.class;
        // The layer that rejected the request has reported it.
        if class.local && self.hops <= 1 {
            return;
        }
        let model = self.original.model();
        let event = Event::GaveUp {
            layer: LAYER,
            model: model.as_deref(),
            attempt: self.hops,
            class,
            details: failure.details,
            because: match call.deadline() {
                Some(deadline) if deadline <= now => "deadline",
                _ => "targets",
            },
        };
        emit(&config.events, &event);
    }
}

impl FallbackState {
    /// Returns the full state of a call. Makes it from the state of the first attempt.
    fn fallback(&mut self, config: &Config) -> Option<&mut FallbackCall> {
        if let Stage::First(_) = self.0
            && let Stage::First(first) = std::mem::replace(&mut self.0, Stage::Inactive)
        {
            let mut call = Box::new(FallbackCall::new(config, first));
            call.tried.mark_tried(0);
            call.hops = 1;
            self.0 = Stage::Fallback(call);
        }
        match &mut self.0 {
            Stage::Fallback(call) => Some(call),
            _ => None,
        }
    }
}

impl FallbackPolicy {
    /// Returns the chain of the stand-ins that could serve this request.
    #[inline]
    fn chain_of(&self, request: &Request<RequestBody>) -> Option<ChainId> {
        let endpoint = Endpoint::of(request.uri().path());
        let is_other = endpoint == Endpoint::Other;
        if request.method() != Method::POST || endpoint != Endpoint::Messages && !is_other {
            return None;
        }
        let is_blank = |model: &str| model.bytes().all(|byte| byte.is_ascii_whitespace());
        let model = requested_model(request).filter(|model| !is_blank(model))?;
        let chain = self.0.chains.of(&model, self.0.catalog())?;
        if is_other {
            self.report_inactive();
            return None;
        }
        Some(chain)
    }

    /// Reports once that requests to an unknown endpoint name a model and have no stand-ins.
    #[cold]
    fn report_inactive(&self) {
        let inactive = &self.0.shared.inactive;
        inactive.emit(&self.0.events, LAYER, "endpoint");
    }
}

/// Records the success of a model that is not in the catalog.
#[inline]
fn set_served(config: &Config, original: &SavedRequest) {
    if original.listed_model().is_some() {
        return;
    }
    let model = original.model().unwrap_or_default();
    if config.catalog().get(&model).is_none() {
        config.shared.set_served(&model);
    }
}

impl CallPolicy for FallbackPolicy {
    type State = FallbackState;
    type BodyState = ();

    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        visit(LAYER, &self.0.events);
    }

    #[inline]
    fn start(&self, start: &mut CallStart<'_>) -> FallbackState {
        let Some(chain) = self.chain_of(start.request) else {
            return FallbackState(Stage::Inactive);
        };
        let saved = start.saved.take();
        let Some(original) = saved.or_else(|| SavedRequest::of(start.request).map(Arc::new)) else {
            return FallbackState(Stage::Inactive);
        };
        let first = FirstAttempt {
            chain,
            original,
            attempts: start.call.attempts(),
        };
        if self.0.shared.is_quiet() {
            start.call.set_stand_in(true);
            start.saved = Some(first.original.clone());
            return FallbackState(Stage::First(first));
        }
        let mut call = Box::new(FallbackCall::new(&self.0, first));
        if let Some(request) = call.select(&self.0, start.call, None) {
            *start.request = request;
        }
        call.on_sent(start.call);
        start.saved = (call.at == 0).then(|| call.original.clone());
        FallbackState(Stage::Fallback(call))
    }

    fn reads_error_body(&self, class: &Class) -> bool {
        self.0.error_message.is_some() && message::applies_to(class)
    }

    fn detects_refusal(&self) -> bool {
        self.0.triggers.refusals
    }

    #[inline]
    fn on_success(
        &self,
        state: &mut FallbackState,
        call: &Arc<Call>,
        head: &mut Parts,
        refused: bool,
    ) -> Option<Class> {
        if matches!(state.0, Stage::Inactive) {
            return None;
        }
        if refused && self.0.triggers.refusals {
            return Some(Class::new(Kind::ModelRefusal));
        }
        match &mut state.0 {
            // Where no inner layer counts attempts, this layer does.
            Stage::First(first) => {
                if call.attempts() == first.attempts {
                    call.begin_attempt();
                }
                set_served(&self.0, &first.original);
            }
            Stage::Fallback(fallback) => fallback.after_success(&self.0, call, head),
            Stage::Inactive => {}
        }
        None
    }

    fn on_failure(
        &self,
        state: &mut FallbackState,
        call: &Arc<Call>,
        failure: &AttemptFailure<'_>,
    ) -> Option<Duration> {
        let fallback = state.fallback(&self.0)?;
        fallback.next = fallback.after_failure(&self.0, call, failure);
        fallback.next.as_ref().map(|_| fallback.delay)
    }

    fn next_request(&self, state: &mut FallbackState, call: &Arc<Call>) -> Request<RequestBody> {
        let Stage::Fallback(fallback) = &mut state.0 else {
            return Request::default();
        };
        fallback.on_sent(call);
        fallback.next.take().unwrap_or_default()
    }

    fn on_give_up(
        &self,
        state: &mut FallbackState,
        class: &Class,
        head: &mut Parts,
        body: &[u8],
    ) -> Option<Bytes> {
        let Stage::Fallback(fallback) = &mut state.0 else {
            return None;
        };
        if !message::applies_to(class) {
            fallback.mark(&self.0, head);
            return None;
        }
        // A response that was cut short has no error whose message could be replaced.
        let has_error = !head.status.is_success() || is_event_stream(&head.headers);
        let text = self.0.error_message.as_ref().filter(|_| has_error)?;
        let now = Instant::now();
        let eta = fallback.back.map(|at| at.saturating_duration_since(now));
        Some(message::replace(head, body, class, text, eta))
    }

    #[inline]
    fn finish(&self, state: &mut FallbackState, call: &Arc<Call>) {
        call.set_stand_in(false);
        state.0 = Stage::Inactive;
    }
}
