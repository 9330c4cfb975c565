//! What one call carries from attempt to attempt.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderName, Request, request::Parts};
use tokio::time::{Instant, Sleep};
use tower_claude_core::{
    Class, Paced, Reason, Refusal, RequestBody,
    event::{Event, emit},
};

use crate::{
    LAYER,
    budget::Payment,
    claim::Claim,
    handle::count,
    layer::Config,
    policy::{Attempt, Decision, decide},
    timeouts::{Silence, after, earlier, poll_optional_sleep},
};

/// The SDKs' count of retries. Kept true where the caller sends it.
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// One call and its attempts.
pub(crate) struct Call<C> {
    pub(crate) config: Arc<Config>,
    pub(crate) classifier: C,
    /// What the next attempt sends; none, when it cannot be sent again.
    head: Option<Parts>,
    body: Option<RequestBody>,
    claim: Claim,
    started: Instant,
    attempt_started: Instant,
    deadline: Option<Instant>,
    /// Of this attempt, from 1.
    number: u32,
    /// Attempts that a fallback outside has made at other targets; all there are, when it only probes.
    spent: u32,
    unanswered: u32,
    last_delay: Duration,
    /// The price of this attempt, until it has left the process.
    payment: Payment,
    /// The caller's own count of retries, if there is one; read before the first retry.
    counted: Option<Option<u64>>,
    silence: Silence,
    /// A limiter outside has admitted all attempts at once: one inside does not make them wait.
    admitted: bool,
}

impl<C> Call<C> {
    pub(crate) fn new(config: Arc<Config>, classifier: C, request: Request<RequestBody>) -> Self {
        let now = Instant::now();
        let total = after(now, config.timeouts.total);
        let claim = Claim::of(request.extensions(), now, total);
        let admitted = matches!(&claim, Claim::Outer(context) if context.is_reserved());
        let outer = claim.get().and_then(|context| context.deadline());
        let spent = claim.get().map_or(0, |context| match context.is_probe() {
            true => u32::MAX,
            false => context.attempts(),
        });
        let (head, body) = request.into_parts();
        Self {
            config,
            classifier,
            head: Some(head),
            body: Some(body),
            claim,
            started: now,
            attempt_started: now,
            deadline: earlier(outer, total),
            number: 1,
            spent,
            unanswered: 0,
            last_delay: Duration::ZERO,
            payment: Payment::FREE,
            counted: None,
            silence: Silence::default(),
            admitted,
        }
    }

    /// Whether another layer outside retries already.
    pub(crate) const fn is_nested(&self) -> bool {
        matches!(self.claim, Claim::Nested)
    }

    pub(crate) const fn started(&self) -> Instant {
        self.started
    }

    /// When the caller stops waiting, or the total timeout does.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The refusal of a call that came too late.
    pub(crate) fn came_too_late(&self) -> Option<Refusal> {
        let late = !self.is_nested() && self.deadline? <= self.started;
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

    /// The request of this attempt. The copy for the next is made as late as can be, and none is
    /// made when there can be no next.
    pub(crate) fn launch(&mut self) -> Request<RequestBody> {
        self.payment.sent();
        self.keep_count();
        if let Some(context) = self.claim.get() {
            context.begin_attempt();
        }
        let last = self.is_nested() || self.config.policy.is_last(self.number, self.spent);
        if !last
            && let Some(head) = &self.head
            && let Some(body) = self.body.as_ref().and_then(RequestBody::try_clone)
        {
            let mut head = head.clone();
            self.claim.mark(&mut head.extensions);
            return Request::from_parts(head, body);
        }
        let head = self.head.take();
        let mut head = head.expect("an attempt is made only while the request is there");
        self.claim.mark(&mut head.extensions);
        Request::from_parts(head, self.body.take().unwrap_or_default())
    }

    /// The caller's count of retries, with those made here.
    fn keep_count(&mut self) {
        let (retries @ 1.., Some(head)) = (self.number - 1, &mut self.head) else {
            return;
        };
        let counted = self.counted.get_or_insert_with(|| {
            let count = head.headers.get(RETRY_COUNT)?;
            count.to_str().ok()?.parse().ok()
        });
        if let Some(before) = counted {
            let count = before.saturating_add(u64::from(retries));
            head.headers.insert(RETRY_COUNT, count.into());
        }
    }

    /// Another attempt begins.
    pub(crate) fn begin_next(&mut self) {
        self.number += 1;
        self.attempt_started = Instant::now();
        self.silence = Silence::default();
    }

    /// The call is over: a layer outside may send it through here again.
    pub(crate) fn finish(&mut self) {
        self.claim = Claim::Nested;
        self.head = None;
        self.body = None;
        self.payment = Payment::FREE;
    }

    /// Ready when a timer runs out. `received` is what has come of the answer, after its head.
    /// Only asked when there is nothing else to do, so that an instant answer costs no timer.
    pub(crate) fn poll_late(
        &mut self,
        timer: Pin<&mut Option<Sleep>>,
        received: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Refusal> {
        if self.is_nested() {
            return Poll::Pending;
        }
        let timeouts = self.config.timeouts;
        let head = after(self.attempt_started, timeouts.head);
        let idle = received
            .filter(|_| timeouts.idle.is_some())
            .and_then(|seen| after(self.silence.since(seen), timeouts.idle));
        let Some(until) = earlier(earlier(head, idle), self.deadline) else {
            return Poll::Pending;
        };
        ready!(poll_optional_sleep(timer, until, cx));
        count(&self.config.counters.timed_out);
        // The deadline is the caller's word, not the server's fault.
        if Some(until) != self.deadline
            && let Some(context) = self.claim.get()
        {
            context.time_out_attempt();
        }
        let waited = if Some(until) == self.deadline {
            until.saturating_duration_since(self.started)
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
        if class.local {
            self.payment.refund();
        }
        self.unanswered += u32::from(unanswered);
        let attempt = Attempt {
            class,
            number: self.number,
            spent: self.spent,
            unanswered: self.unanswered,
            replayable: self.head.is_some(),
            paced: paced.filter(|_| !self.admitted).map(|paced| paced.pause),
            last_delay: self.last_delay,
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
                self.payment = payment;
                self.last_delay = delay;
                Some(delay)
            }
        }
    }

    pub(crate) fn say(&self, event: &Event<'_>) {
        emit(&self.config.observers, event);
    }
}
