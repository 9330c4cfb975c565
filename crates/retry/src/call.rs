//! What one call carries from attempt to attempt.

mod late;
mod launch;

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, ClassifyResponse, PausedByLimiter, RejectReason, Rejection, RequestBody,
    SavedRequest,
    event::{Event, emit},
};

use crate::{
    LAYER,
    budget::Payment,
    claim::Claim,
    handle::count,
    layer::Config,
    policy::{Attempt, Decision, decide},
    timeouts::{Silence, after, earlier},
};

/// One call and its attempts.
pub(crate) struct RetryCall<C> {
    pub(crate) config: Arc<Config>,
    pub(crate) classifier: C,
    claim: Claim,
    /// The request, until it is first sent. Boxed: it seldom has to wait for that.
    first: Option<Box<Request<RequestBody>>>,
    /// What the next attempt sends; none, when it cannot be sent again.
    kept: Option<Arc<SavedRequest>>,
    /// An instant answer needs no look at the clock.
    started: Option<Instant>,
    deadline: Option<Instant>,
    /// Of this attempt, from 1.
    number: u32,
    /// Attempts that a fallback outside has made at other targets; all there are, when it only probes.
    spent: u32,
    /// A limiter outside has admitted all attempts at once: one inside does not make them wait.
    admitted: bool,
    /// Boxed: what answers at once needs none of it, and the call moves with every future around it.
    later: Option<Box<Later>>,
}

/// What is kept once an attempt has failed, or an answer is awaited.
#[derive(Default)]
struct Later {
    /// The last attempt keeps no request that could be asked for it.
    model: Option<Arc<str>>,
    /// Of the second attempt and those that follow.
    attempt_started: Option<Instant>,
    unanswered: u32,
    last_delay: Duration,
    /// The price of this attempt, until it has left the process.
    payment: Payment,
    silence: Silence,
}

impl<C> RetryCall<C> {
    pub(crate) fn new(config: Arc<Config>, classifier: C, request: &Request<RequestBody>) -> Self {
        let claim = Claim::of(request, config.timeouts.total);
        let admitted = matches!(&claim, Claim::Outer(context) if context.is_reserved());
        let spent = claim.get().map_or(0, |context| match context.is_probe() {
            true => u32::MAX,
            false => context.attempts(),
        });
        let started = claim.own().map(|context| context.first_arrival());
        let mut call = Self {
            config,
            classifier,
            claim,
            first: None,
            kept: None,
            started,
            deadline: None,
            number: 1,
            spent,
            admitted,
            later: None,
        };
        let outer = call.claim.get().and_then(|context| context.deadline());
        call.deadline = match call.config.timeouts.total {
            Some(_) => earlier(outer, after(call.begun(), call.config.timeouts.total)),
            None => outer,
        };
        call
    }

    /// A call whose first attempt was made in passing.
    pub(crate) fn of(config: Arc<Config>, context: &Arc<Call>, light: crate::stage::Light) -> Self
    where
        C: Default,
    {
        let claim = if light.nested {
            Claim::Nested
        } else {
            Claim::Outer(context.clone())
        };
        Self {
            config,
            classifier: C::default(),
            claim,
            first: None,
            kept: light.kept,
            started: Some(context.first_arrival()),
            deadline: light.deadline,
            number: 1,
            spent: light.spent,
            admitted: light.admitted,
            later: None,
        }
    }

    /// Whether another layer outside retries already.
    pub(crate) const fn is_nested(&self) -> bool {
        matches!(self.claim, Claim::Nested)
    }

    /// What the layers further in share with this one.
    pub(crate) const fn context(&self) -> Option<&Arc<Call>> {
        self.claim.get()
    }

    /// When it began, by the first look at the clock.
    pub(crate) fn begun(&mut self) -> Instant {
        *self.started.get_or_insert_with(Instant::now)
    }

    /// The same for who may only look: the answer has come at once, and so it is now.
    pub(crate) fn started(&self) -> Instant {
        self.started.unwrap_or_else(Instant::now)
    }

    /// When the caller stops waiting, or the total timeout does.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The refusal of a call that came too late.
    pub(crate) fn came_too_late(&mut self) -> Option<Rejection> {
        let late = !self.is_nested() && self.deadline? <= self.begun();
        late.then(|| {
            Rejection::new(
                LAYER,
                RejectReason::DeadlineWouldPass {
                    estimated: Duration::ZERO,
                    remaining: Duration::ZERO,
                },
            )
        })
    }

    fn later(&mut self) -> &mut Later {
        self.later.get_or_insert_default()
    }

    /// Another attempt begins.
    pub(crate) fn begin_next(&mut self) {
        self.number += 1;
        let later = self.later();
        later.attempt_started = Some(Instant::now());
        later.silence = Silence::default();
    }

    /// The answer is handed on, whole or from its first content.
    pub(crate) fn succeeded(&self) {
        self.config.budget.deposit();
        if let Some(context) = self.claim.get() {
            context.set_committed(true);
        }
    }

    /// The call is over: a layer outside may send it through here again.
    pub(crate) fn finish(&mut self) {
        self.claim = Claim::Nested;
        self.first = None;
        self.kept = None;
        self.later = None;
    }

    /// Says why the attempt failed and what follows: the wait before the next, or nothing.
    /// `unanswered` when it took too long, so that its work may still go on.
    pub(crate) fn after_failure(
        &mut self,
        class: Class,
        paced: Option<PausedByLimiter>,
        unanswered: bool,
    ) -> Option<Duration> {
        if self.is_nested() {
            return None;
        }
        let model = self.model();
        let later = self.later();
        later.model = model.or(later.model.take());
        if class.local {
            later.payment.refund();
        }
        later.unanswered += u32::from(unanswered);
        let (unanswered, last_delay) = (later.unanswered, later.last_delay);
        let attempt = Attempt {
            class,
            number: self.number,
            spent: self.spent,
            unanswered,
            replayable: self.first.is_some() || self.kept.is_some(),
            paced: paced.filter(|_| !self.admitted).map(|paced| paced.pause),
            last_delay,
            now: Instant::now(),
            deadline: self.deadline,
        };
        let config = &*self.config;
        let decision = decide(&config.policy, &attempt, &config.budget, fastrand::f64());
        let model = self.later.as_ref().and_then(|later| later.model.as_deref());
        match decision {
            // A refusal is the news of the layer that refused.
            Decision::Return { .. } if class.local && self.number == 1 => None,
            Decision::Return { because } => {
                count(&config.counters.gave_up);
                self.say(&Event::GaveUp {
                    layer: LAYER,
                    model,
                    attempt: self.number,
                    class,
                    because,
                });
                None
            }
            Decision::Retry { delay, payment } => {
                count(&config.counters.retries);
                self.say(&Event::Retry {
                    layer: LAYER,
                    model,
                    attempt: self.number,
                    class,
                    delay,
                });
                let later = self.later();
                later.payment = payment;
                later.last_delay = delay;
                Some(delay)
            }
        }
    }

    /// The model of the request, while the request is there.
    fn model(&self) -> Option<Arc<str>> {
        let kept = self.kept.as_ref().map(|kept| kept.body());
        let first = self.first.as_ref().map(|request| request.body());
        first.or(kept)?.model().map(Arc::from)
    }

    /// What the head means, if the body need not tell.
    pub(crate) fn class_of<R>(&self, response: &Response<R>) -> Option<Class>
    where
        C: ClassifyResponse,
    {
        Class::by_head(&self.classifier, self.config.reuse_class, response)
    }

    pub(crate) fn say(&self, event: &Event<'_>) {
        emit(&self.config.observers, event);
    }
}
