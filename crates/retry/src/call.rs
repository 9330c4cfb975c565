//! What one call carries from attempt to attempt.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Extensions, HeaderMap, HeaderName, Request};
use tokio::time::{Instant, Sleep};
use tower_claude_core::{
    Class, Original, Paced, Reason, Refusal, RequestBody,
    event::{Event, emit},
};

use crate::{
    LAYER,
    budget::Payment,
    claim::Claim,
    handle::count,
    layer::Config,
    policy::{Attempt, Decision, decide},
    timeouts::{Silence, after, earlier, poll_timer},
};

/// The SDKs' count of retries. Kept true where the caller sends it.
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// One call and its attempts.
pub(crate) struct Call<C> {
    pub(crate) config: Arc<Config>,
    pub(crate) classifier: C,
    claim: Claim,
    /// The request, until it is first sent. Boxed: it seldom has to wait for that.
    first: Option<Box<Request<RequestBody>>>,
    /// What the next attempt sends; none, when it cannot be sent again.
    kept: Option<Arc<Original>>,
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
    /// Of the second attempt and those that follow.
    attempt_started: Option<Instant>,
    unanswered: u32,
    last_delay: Duration,
    /// The price of this attempt, until it has left the process.
    payment: Payment,
    silence: Silence,
}

impl<C> Call<C> {
    pub(crate) fn new(config: Arc<Config>, classifier: C, extensions: &Extensions) -> Self {
        let claim = Claim::of(extensions, config.timeouts.total);
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

    /// Whether another layer outside retries already.
    pub(crate) const fn is_nested(&self) -> bool {
        matches!(self.claim, Claim::Nested)
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
    pub(crate) fn came_too_late(&mut self) -> Option<Refusal> {
        let late = !self.is_nested() && self.deadline? <= self.begun();
        late.then(|| {
            Refusal::new(
                LAYER,
                Reason::DeadlineWouldPass {
                    estimated: Duration::ZERO,
                    remaining: Duration::ZERO,
                },
            )
        })
    }

    /// Keeps the request until it can be sent.
    pub(crate) fn wait_with(&mut self, request: Request<RequestBody>) {
        self.first = Some(Box::new(request));
    }

    /// The request of this attempt.
    pub(crate) fn launch(&mut self) -> Request<RequestBody> {
        let mut request = match self.first.take() {
            Some(mut request) => {
                self.launch_first(&mut request);
                *request
            }
            None => self.launch_again(),
        };
        if let (retries @ 1.., Some(before)) = (self.number - 1, counted(request.headers())) {
            let count = before.saturating_add(u64::from(retries));
            request.headers_mut().insert(RETRY_COUNT, count.into());
        }
        request
    }

    fn launch_again(&mut self) -> Request<RequestBody> {
        let kept = match self.begin_attempt() {
            true => self.kept.take().map(Original::into_request),
            false => self.kept.as_ref().map(|kept| kept.copy()),
        };
        let mut request = kept.expect("an attempt is made only while the request is there");
        self.claim.mark(request.extensions_mut());
        request
    }

    /// Makes this the request of the first attempt. It is kept for the next where there can be one, unless a layer
    /// outside keeps it already.
    pub(crate) fn launch_first(&mut self, request: &mut Request<RequestBody>) {
        if !self.begin_attempt() {
            let context = self.claim.get();
            self.kept = context.and_then(|context| context.original_of(request));
            if self.kept.is_none() {
                *request = match Original::keep(std::mem::take(request)) {
                    Ok(kept) => self.kept.insert(kept).copy(),
                    Err(stream) => stream,
                };
            }
        }
        if self.claim.own().is_some() {
            self.claim.mark(request.extensions_mut());
        }
    }

    /// Whether it is the last.
    fn begin_attempt(&mut self) -> bool {
        if let Some(later) = &mut self.later {
            later.payment.sent();
        }
        if let Some(context) = self.claim.get() {
            context.begin_attempt();
        }
        self.is_nested() || self.config.policy.is_last(self.number, self.spent)
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

    /// Ready when a timer runs out. `received` is what has come of the answer, after its head.
    /// Only asked when there is nothing else to do, so that an instant answer costs no timer.
    pub(crate) fn poll_late(
        &mut self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        received: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Refusal> {
        if self.is_nested() {
            return Poll::Pending;
        }
        let timeouts = self.config.timeouts;
        let started = self.begun();
        let attempt_started = self.later.as_ref().and_then(|later| later.attempt_started);
        let head = after(attempt_started.unwrap_or(started), timeouts.head);
        let idle = received
            .filter(|_| timeouts.idle.is_some())
            .and_then(|seen| after(self.later().silence.since(seen), timeouts.idle));
        let Some(until) = earlier(earlier(head, idle), self.deadline) else {
            return Poll::Pending;
        };
        ready!(poll_timer(timer, until, cx));
        count(&self.config.counters.timed_out);
        // The deadline is the caller's word, not the server's fault.
        if Some(until) != self.deadline
            && let Some(context) = self.claim.get()
        {
            context.time_out_attempt();
        }
        let waited = if Some(until) == self.deadline {
            until.saturating_duration_since(started)
        } else if Some(until) == head {
            timeouts.head.unwrap_or_default()
        } else {
            timeouts.idle.unwrap_or_default()
        };
        Poll::Ready(Refusal::new(LAYER, Reason::TimedOut { after: waited }))
    }

    /// Says why the attempt failed and what follows: the wait before the next, or nothing.
    /// `unanswered` when it took too long, so that its work may still go on.
    pub(crate) fn after_failure(
        &mut self,
        class: Class,
        paced: Option<Paced>,
        unanswered: bool,
    ) -> Option<Duration> {
        if self.is_nested() {
            return None;
        }
        let later = self.later();
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
        match decision {
            // A refusal is the news of the layer that refused.
            Decision::Return { .. } if class.local && self.number == 1 => None,
            Decision::Return { because } => {
                count(&config.counters.gave_up);
                self.say(&Event::GaveUp {
                    layer: LAYER,
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

    pub(crate) fn say(&self, event: &Event<'_>) {
        emit(&self.config.observers, event);
    }
}

/// The caller's own count of retries, if there is one.
fn counted(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_COUNT)?.to_str().ok()?.parse().ok()
}
