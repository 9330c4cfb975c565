//! The spread as a policy of the driver.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request, header::CONTENT_TYPE, response::Parts};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_core::{
    Call, Class, Endpoint, Kind, Outcome, RejectReason, Rejection, RequestBody,
    driver::{AttemptPolicy, Clock, Reroute},
    event::{Event, EventSink, SkippedTarget, emit, is_debug_enabled},
    toolkit::{ApiPath, OtherHost, requested_model},
};
use tower_claude_wire::{
    ModelCatalog, Peek, RateCard, RateLimits, StreamState,
    cloud::{Dialect, Target, Unportable},
};

use crate::{
    conversation::Conversation,
    handle::SpreadHandle,
    options::SpreadTarget,
    request::{Residency, Route, Skipped, ThinkingAccount, assign},
    shared::{LAYER, Shared, WaitPlace},
    skip::Skip,
    spreader::{Choice, Lease, SpreadRequest, Tried},
};

/// The prices that are assumed for a model without known ones. They only order targets.
const USUAL_RATES: RateCard = RateCard::new(3_000, 15_000);

/// The limits of token counting, which are separate.
const COUNT_GROUP: &str = "count_tokens";

/// The attempt policy of a spread layer. See [`SpreadLayer::policy`].
///
/// All clones share their state.
///
/// [`SpreadLayer::policy`]: crate::SpreadLayer::policy
#[derive(Clone)]
pub struct SpreadPolicy {
    shared: Arc<Shared>,
}

/// The state of one attempt.
#[derive(Default)]
pub struct SpreadAttempt {
    /// True if the policy has read the request of the attempt.
    is_started: bool,
    /// `None` for a request that is not spread. Boxed, because all attempts have the place.
    state: Option<Box<AttemptState>>,
}

/// The states of all spread layers of one call. They are kept in the record of the call.
#[derive(Default)]
struct SpreadCalls(Mutex<Vec<Arc<Mutex<CallState>>>>);

impl SpreadCalls {
    /// Returns the state of this layer. Another one is there if two such layers are nested.
    fn of(&self, shared: &Arc<Shared>) -> Arc<Mutex<CallState>> {
        let id = Arc::as_ptr(shared).addr();
        let mut states = lock(&self.0);
        if let Some(found) = states.iter().find(|state| lock(state).layer == id) {
            return found.clone();
        }
        let state = CallState {
            layer: id,
            ..CallState::default()
        };
        let state = Arc::new(Mutex::new(state));
        states.push(state.clone());
        state
    }
}

/// The attempts of one call with one model.
#[derive(Default)]
struct CallState {
    /// Identifies the layer.
    layer: usize,
    /// The facts about the request. Another model makes other facts.
    request: Option<Arc<SpreadRequest>>,
    tried: Vec<Tried>,
    /// The targets that do not have the model, or do not allow it.
    missing: Vec<(usize, Class)>,
    attempts: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct AttemptState {
    shared: Arc<Shared>,
    call: Arc<Mutex<CallState>>,
    request: Arc<SpreadRequest>,
    /// Present while the request is in flight.
    lease: Option<Lease>,
    target: Option<usize>,
    attempts: usize,
    skipped: Vec<(Target, Skip)>,
    hold: Option<Hold>,
    /// The policy has rejected the attempt itself.
    is_rejected: bool,
    /// The failure concerns the target, and another one may do better.
    is_failed: bool,
    has_content: bool,
}

/// The wait until a target is available again.
struct Hold {
    latest: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
    _place: WaitPlace,
}

impl Drop for AttemptState {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.shared.spreader().release(lease, Instant::now());
        }
    }
}

impl AttemptState {
    /// Records a failure of the target.
    fn fail(&mut self, class: &Class, has_limits: bool, now: Instant) {
        let (Some(lease), Some(target)) = (self.lease.take(), self.target) else {
            return;
        };
        let chance = self.shared.chance();
        let mut spreader = self.shared.spreader();
        if class.is_not_taken() {
            spreader.release(lease, now);
            return;
        }
        spreader.on_failure(lease, class, has_limits, now, chance);
        drop(spreader);
        self.mark(target, class);
    }

    /// Records in the call that the target has failed.
    fn mark(&mut self, target: usize, class: &Class) {
        let skip = Skip::Failed(class.kind);
        let tried = match class.kind {
            Kind::RateLimited
            | Kind::RampLimited
            | Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Conflict
            | Kind::Truncated => Tried::Failed(skip),
            // The credential or the model. Another target may have both.
            Kind::Unauthorized | Kind::SpendLimit | Kind::Forbidden | Kind::NotFound => {
                Tried::Excluded(skip)
            }
            // The request is at fault.
            _ => return,
        };
        self.is_failed = true;
        let mut call = lock(&self.call);
        call.set(target, tried);
        if matches!(class.kind, Kind::Forbidden | Kind::NotFound) {
            call.missing.push((target, *class));
        }
    }

    /// Records that an inner layer has rejected the request for the target.
    fn reject(&mut self, class: &Class, rejection: Option<&Rejection>, now: Instant) {
        let (Some(lease), Some(target)) = (self.lease.take(), self.target) else {
            return;
        };
        self.shared.spreader().release(lease, now);
        let skip = match rejection.map(|rejection| rejection.reason) {
            Some(RejectReason::Unportable { reason }) => Skip::Unportable(reason),
            // The same wherever it is sent.
            Some(
                RejectReason::Body { .. }
                | RejectReason::InvalidHeader { .. }
                | RejectReason::LimiterUnavailable,
            ) => return,
            // The client cannot send it.
            None if class.kind == Kind::BadRequest => return,
            _ => Skip::Rejected(class.kind),
        };
        self.is_failed = true;
        lock(&self.call).set(target, Tried::Excluded(skip));
    }

    fn route(&self, target: usize) -> Option<Route> {
        let lease = self.lease.as_ref()?;
        Some(Route {
            target: self.shared.targets.get(target)?.target().clone(),
            binding: lease.binding().clone(),
            attempts: self.attempts,
            skipped: self.skipped.as_slice().into(),
        })
    }
}

impl CallState {
    fn set(&mut self, target: usize, tried: Tried) {
        if let Some(place) = self.tried.get_mut(target) {
            *place = tried;
        }
    }
}

impl SpreadPolicy {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns a handle to read the state of the targets.
    #[must_use]
    pub fn handle(&self) -> SpreadHandle {
        SpreadHandle::new(self.shared.clone())
    }

    /// Returns the state of an attempt, or `None` for a request that is not spread.
    fn start(&self, request: &Request<RequestBody>, call: &Arc<Call>) -> Option<Box<AttemptState>> {
        let path = ApiPath::parse(request.uri().path());
        let is_spread = matches!(path.endpoint, Endpoint::Messages | Endpoint::CountTokens);
        if !is_spread || path.form.is_some() || request.method() != Method::POST {
            return None;
        }
        let state = call.state::<SpreadCalls>().of(&self.shared);
        let mut known = lock(&state);
        let model = requested_model(request).unwrap_or_default();
        let is_same = |known: &Arc<SpreadRequest>| *known.name == *model;
        let facts = match known.request.clone().filter(is_same) {
            Some(facts) => facts,
            None => {
                let facts = Arc::new(self.facts(request, call, path.endpoint));
                known.request = Some(facts.clone());
                known.tried = self.allowed(request);
                known.missing.clear();
                facts
            }
        };
        known.attempts += 1;
        let attempts = known.attempts;
        drop(known);
        Some(Box::new(AttemptState {
            shared: self.shared.clone(),
            call: state,
            request: facts,
            lease: None,
            target: None,
            attempts,
            skipped: Vec::new(),
            hold: None,
            is_rejected: false,
            is_failed: false,
            has_content: false,
        }))
    }

    /// Reads the facts about a request.
    fn facts(
        &self,
        request: &Request<RequestBody>,
        call: &Call,
        endpoint: Endpoint,
    ) -> SpreadRequest {
        let body = request.body();
        let name = requested_model(request).unwrap_or_default();
        let catalog = ModelCatalog::builtin();
        let unlisted;
        let model = match catalog.get(&name) {
            Some(listed) => listed,
            None => {
                unlisted = catalog.lookup(&name);
                &unlisted
            }
        };
        let (bytes, peek) = (body.bytes(), body.peek());
        let tokens = |peek: &Peek| peek.estimate_tokens(peek.text_bytes(), model.tokenizer);
        let input_tokens = peek.map_or(0, tokens);
        let fast = peek.is_some_and(Peek::fast);
        let counts = endpoint == Endpoint::CountTokens;
        let rates = match &model.about.prices {
            // Counting is free.
            _ if counts => RateCard::default(),
            Some(prices) => *prices.card(input_tokens, fast),
            None => USUAL_RATES,
        };
        let salt = if self.shared.has_callers {
            call.credential_of(request)
        } else {
            0
        };
        let conversation = bytes.and_then(|bytes| Conversation::of(bytes, model, salt));
        // A request of which nothing is known goes anywhere.
        let conversation = conversation
            .unwrap_or_else(|| Conversation::new(self.shared.draw(), Vec::new(), Vec::new()));
        let mut facts = SpreadRequest::new(&name, rates, input_tokens, conversation);
        facts.model = model.id.clone();
        if counts {
            facts.group = COUNT_GROUP.into();
        } else {
            facts.group = model.rate_group.clone();
            let group = |target: &SpreadTarget| target.target().quota_group(model).into();
            facts.groups = self.shared.targets.iter().map(group).collect();
        }
        facts.max_tokens = peek.and_then(Peek::max_tokens);
        facts.fast = fast;
        facts.caller = salt;
        // Of a model that is not listed nothing is known.
        let binds = model.capabilities.binds_thinking_to_account;
        facts.binds_account = !counts && (binds == Some(true) || !model.known);
        let account = request.extensions().get::<ThinkingAccount>();
        facts.account = account.map(|account| account.0.clone());
        facts
    }

    /// Returns the state of each target before the first attempt: excluded if it cannot serve the
    /// request, or may not.
    fn allowed(&self, request: &Request<RequestBody>) -> Vec<Tried> {
        let config = &self.shared.config;
        let of_call = request.extensions().get::<Residency>();
        let is_read = request.body().peek().is_some();
        let allowed = |target: &SpreadTarget| {
            let lists = [config.residency.as_ref(), of_call];
            if lists.into_iter().flatten().any(|list| !list.allows(target)) {
                return Tried::Excluded(Skip::Residency);
            }
            if !is_read && target.target().dialect() != Dialect::Messages {
                let reason = Unportable::new("body", "it is too long, or not a JSON object");
                return Tried::Excluded(Skip::Unportable(reason));
            }
            match config.check.as_ref().map(|it| it(request, target.target())) {
                Some(Err(reason)) => Tried::Excluded(Skip::Unportable(reason)),
                _ => Tried::No,
            }
        };
        self.shared.targets.iter().map(allowed).collect()
    }

    /// Chooses a target and sends the request there, or returns the time until which it must wait.
    fn choose(
        &self,
        state: &mut AttemptState,
        request: &mut Request<RequestBody>,
        call: &Arc<Call>,
        now: Instant,
    ) -> Result<Option<Instant>, Rejection> {
        let latest = match &state.hold {
            Some(hold) => hold.latest,
            None => self.latest(call, now),
        };
        let mut skipped = Vec::new();
        let tried = lock(&state.call).tried.clone();
        let (facts, shared) = (&state.request, &self.shared);
        let choice = shared
            .spreader()
            .choose(facts, &tried, &mut skipped, latest, now);
        let name = |(index, skip): (usize, Skip)| {
            let target = shared.targets.get(index)?;
            Some((target.target().clone(), skip))
        };
        state.skipped = skipped.into_iter().filter_map(name).collect();
        match choice {
            Choice::Send(lease) => {
                let index = lease.target();
                (state.target, state.is_failed) = (Some(index), false);
                let target = shared.targets[index].target();
                self.report(state, Some(target), lease.reason().as_str(), &lease);
                state.lease = Some(lease);
                assign(request, target, shared.credentials[index].as_ref());
                call.forget_credential();
                Ok(None)
            }
            Choice::Wait { until } => Ok(Some(until)),
            Choice::None { retry_after } => Err(self.reject(state, retry_after)),
        }
    }

    /// Returns the time until which a request may wait.
    fn latest(&self, call: &Call, now: Instant) -> Instant {
        let longest = now.checked_add(self.shared.config.options.max_wait);
        let latest = longest.unwrap_or(now);
        call.deadline()
            .map_or(latest, |deadline| latest.min(deadline))
    }

    fn reject(&self, state: &mut AttemptState, retry_after: Option<Duration>) -> Rejection {
        state.is_rejected = true;
        let kinds = || {
            state.skipped.iter().filter_map(|(_, skip)| match skip {
                Skip::CoolDown { because: kind, .. }
                | Skip::Failed(kind)
                | Skip::Rejected(kind) => Some(*kind),
                _ => None,
            })
        };
        let because = if kinds().any(|kind| matches!(kind, Kind::RateLimited | Kind::RampLimited)) {
            Kind::RateLimited
        } else {
            // Without a failure, no target can ever serve the request.
            kinds().next().unwrap_or(Kind::BadRequest)
        };
        let rejection =
            Rejection::new(LAYER, RejectReason::NoTarget { because }).with_retry_after(retry_after);
        let event = Event::Rejected {
            layer: LAYER,
            scope: None,
            reason: rejection.reason,
            class: rejection.class(),
        };
        emit(&self.shared.config.events, &event);
        self.emit_routed(state, None, "none", None);
        rejection
    }

    fn report(
        &self,
        state: &AttemptState,
        target: Option<&Target>,
        because: &'static str,
        lease: &Lease,
    ) {
        let account = lease.binding().account();
        self.emit_routed(state, target, because, account.map(AsRef::as_ref));
    }

    fn emit_routed(
        &self,
        state: &AttemptState,
        target: Option<&Target>,
        because: &'static str,
        account: Option<&str>,
    ) {
        let events = &self.shared.config.events;
        let is_failure = |(_, skip): &(Target, Skip)| {
            matches!(
                skip,
                Skip::Failed(_) | Skip::Rejected(_) | Skip::CoolDown { .. }
            )
        };
        // The other events are `DEBUG`.
        if !state.skipped.iter().any(is_failure) && !is_debug_enabled(events) {
            return;
        }
        let details: Vec<String> = state
            .skipped
            .iter()
            .map(|(_, skip)| skip.to_string())
            .collect();
        let skipped: Vec<SkippedTarget<'_>> = state
            .skipped
            .iter()
            .zip(&details)
            .map(|((target, skip), details)| {
                SkippedTarget::new(target.name(), skip.as_str(), details)
            })
            .collect();
        let event = Event::Routed {
            layer: LAYER,
            model: Some(&state.request.model),
            target: target.map(Target::name),
            because,
            account,
            attempt: state.attempts,
            skipped: &skipped,
        };
        emit(events, &event);
    }
}

impl AttemptPolicy for SpreadPolicy {
    type Attempt = SpreadAttempt;

    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        visit(LAYER, &self.shared.config.events);
    }

    fn reads_usage(&self, attempt: &SpreadAttempt) -> bool {
        attempt.state.is_some()
    }

    /// The usage of a whole response is known, whether the caller reads it or not.
    fn ends_with_body(&self) -> bool {
        false
    }

    fn poll_admit(
        &self,
        attempt: &mut SpreadAttempt,
        request: &mut Request<RequestBody>,
        call: &Arc<Call>,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        if !attempt.is_started {
            attempt.is_started = true;
            attempt.state = self.start(request, call);
        }
        let Some(state) = &mut attempt.state else {
            return Poll::Ready(Ok(()));
        };
        let mut now = clock.now();
        loop {
            if let Some(Hold {
                sleep: Some(sleep), ..
            }) = &mut state.hold
            {
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                // The clock of this step was read before the timer.
                now = now.max(Instant::now());
            }
            let until = match self.choose(state, request, call, now) {
                Ok(Some(until)) => until,
                result => {
                    if state.hold.take().is_some() {
                        call.set_held_back(false);
                    }
                    return Poll::Ready(result.map(|_| ()));
                }
            };
            call.set_held_back(true);
            if state.hold.is_none() {
                let Some(place) = self.shared.wait() else {
                    call.set_held_back(false);
                    let wait = until.saturating_duration_since(now);
                    return Poll::Ready(Err(self.reject(state, Some(wait))));
                };
                state.hold = Some(Hold {
                    latest: self.latest(call, now),
                    sleep: None,
                    _place: place,
                });
            }
            if let Some(hold) = &mut state.hold {
                match &mut hold.sleep {
                    Some(sleep) => sleep.as_mut().reset(until),
                    None => hold.sleep = Some(Box::pin(sleep_until(until))),
                }
            }
        }
    }

    fn on_sent(&self, attempt: &mut SpreadAttempt) {
        if let Some(state) = &mut attempt.state
            && let Some(lease) = &mut state.lease
            && !state.has_content
        {
            lease.set_sent(Instant::now());
        }
    }

    fn on_response(
        &self,
        attempt: &mut SpreadAttempt,
        class: &Class,
        head: Option<&mut Parts>,
        clock: &mut Clock,
    ) {
        let Some(state) = &mut attempt.state else {
            return;
        };
        // An inner layer has rejected the request, which `reroute` records.
        if class.local {
            return;
        }
        let now = clock.now();
        let mut has_limits = false;
        if let (Some(head), Some(target)) = (head, state.target) {
            let is_foreign = head.extensions.get::<OtherHost>().is_some();
            let limits = (!is_foreign).then(|| RateLimits::from_headers(&head.headers));
            if let (Some(limits), Some(lease)) = (limits, &state.lease)
                && limits
                    .of_pool(state.request.fast)
                    .iter()
                    .any(|it| !it.is_empty())
            {
                has_limits = true;
                self.shared.spreader().on_limits(lease, &limits, now);
            }
            if let Some(route) = state.route(target) {
                route.mark(head, self.shared.targets.len() > 1);
            }
            state.has_content = !is_stream(head);
        }
        if !class.is_success() {
            state.fail(class, has_limits, now);
            return;
        }
        let Some(lease) = &state.lease else {
            return;
        };
        let missing = std::mem::take(&mut lock(&state.call).missing);
        let mut spreader = self.shared.spreader();
        spreader.on_success(lease, now);
        for (target, class) in missing {
            let chance = self.shared.chance();
            spreader.on_missing_model(target, &state.request, &class, now, chance);
        }
    }

    fn reroute(
        &self,
        attempt: &mut SpreadAttempt,
        call: &Arc<Call>,
        class: &Class,
        rejection: Option<&Rejection>,
    ) -> Option<Reroute> {
        let state = attempt.state.as_mut()?;
        if state.is_rejected {
            return Some(Reroute::Nowhere);
        }
        let now = Instant::now();
        let reason = rejection.map(|rejection| rejection.reason);
        if matches!(reason, Some(RejectReason::TimedOut { .. })) || call.body_failure().is_some() {
            // A slow target is reported by `on_timeout`. A deadline or a body of the caller is no
            // failure of the target.
            if let Some(lease) = state.lease.take() {
                state.shared.spreader().release(lease, now);
            }
        } else if class.local {
            state.reject(class, rejection, now);
        } else {
            // The inner service was not ready.
            state.fail(class, false, now);
        }
        if !state.is_failed {
            return None;
        }
        let tried = lock(&state.call).tried.clone();
        Some(self.shared.spreader().next(&state.request, &tried, now))
    }

    fn details(&self, attempt: &SpreadAttempt) -> Option<String> {
        let state = attempt.state.as_ref().filter(|state| state.is_rejected)?;
        Some(Skipped(&state.skipped).to_string())
    }

    fn on_progress(&self, attempt: &mut SpreadAttempt, stream: &StreamState) {
        if let Some(state) = &mut attempt.state
            && let Some(lease) = &state.lease
            && !state.has_content
            && stream.has_content()
        {
            state.has_content = true;
            self.shared
                .spreader()
                .on_first_content(lease, Instant::now());
        }
    }

    fn on_end(&self, attempt: &mut SpreadAttempt, outcome: &Outcome<'_>, clock: &mut Clock) {
        let Some(state) = &mut attempt.state else {
            return;
        };
        let (Some(lease), Some(target)) = (state.lease.take(), state.target) else {
            return;
        };
        let now = clock.now();
        let chance = self.shared.chance();
        let mut spreader = self.shared.spreader();
        if let Outcome::Failed { class, .. } = outcome {
            spreader.on_broken(&lease, class, now, chance);
        }
        spreader.on_end(lease, Some(outcome.usage()), now);
        drop(spreader);
        if let Outcome::Failed { class, .. } = outcome {
            state.mark(target, class);
        }
    }

    fn on_timeout(&self, attempt: &mut SpreadAttempt) {
        if let Some(state) = &mut attempt.state {
            state.fail(&Class::new(Kind::Timeout), false, Instant::now());
        }
    }
}

fn is_stream(head: &Parts) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    head.headers.get(CONTENT_TYPE).is_some_and(|value| {
        let name = value.as_bytes().get(..EVENT_STREAM.len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(EVENT_STREAM))
    })
}

impl fmt::Debug for SpreadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpreadPolicy").finish_non_exhaustive()
    }
}

impl fmt::Debug for SpreadAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpreadAttempt")
            .field("is_spread", &self.state.is_some())
            .finish_non_exhaustive()
    }
}
