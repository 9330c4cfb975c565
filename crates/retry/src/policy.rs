//! The call policy that sends failed calls again.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, response::Parts};
use tokio::time::{Instant, Sleep};
use tower_claude_core::{
    Call, Class, Endpoint, RejectReason, Rejection, RequestBody,
    driver::{AttemptFailure, CallPolicy, CallStart},
    event::{Event, EventSink, emit},
    toolkit::{BodyTracker, SavedRequest},
};

use tower_claude_wire::StreamState;

use crate::{
    budget::{RetryBudget, RetryPermit},
    decide::{Decision, FailedAttempt, RetryRules, decide},
    handle::{Counters, count},
    kept_request::KeptRequest,
    timeouts::{IdleTimer, StreamTimers, Timeouts, after, earlier, poll_timer},
};

/// The SDKs' count of retries. It is updated where the caller sends it.
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// Set this request header to send the request only once, as [`NoRetry`] does. Any value counts.
/// The layer removes it.
pub const NO_RETRY: HeaderName = HeaderName::from_static("x-tower-claude-no-retry");

/// A request that is sent only once. Insert it into the request's extensions.
///
/// A fallback layer may still send it to another model after a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoRetry;

/// The name of the layer in events, rejections and logs.
pub(crate) const LAYER: &str = "retry";

/// Returns true if a request may be processed twice.
pub(crate) type IsRepeatable = dyn Fn(&Request<RequestBody>) -> bool + Send + Sync;

/// The settings and the shared state, behind one `Arc`.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) rules: RetryRules,
    pub(crate) budget: RetryBudget,
    pub(crate) timeouts: Timeouts,
    pub(crate) is_repeatable: Option<Arc<IsRepeatable>>,
    /// True if the `Class` that an inner layer left in the response stands.
    pub(crate) reuses_class: bool,
    pub(crate) observers: EventSink,
    pub(crate) body_limit: usize,
    pub(crate) counters: Arc<Counters>,
}

/// A call policy that sends failed calls again, made by
/// [`RetryLayer::policy`](crate::RetryLayer::policy).
#[derive(Clone)]
pub struct RetryPolicy(pub(crate) Arc<Config>);

/// The state of one call across its attempts.
// A call that is answered at once needs nothing else: no allocation but for the saved request, no
// lock and no reading of the clock.
pub struct RetryState {
    /// The request of the next attempt. Absent if there can be no other attempt.
    saved: Option<KeptRequest>,
    /// True while this layer retries the call. An inner retry layer does not, and passes the call
    /// through.
    is_owner: bool,
    /// True if an outer limiter has admitted all attempts, so that an inner one does not delay
    /// them.
    is_admitted: bool,
    /// The number of the present attempt, from 1.
    number: u32,
    /// The attempts that were made at other targets. The maximum for a probe, which is sent once.
    spent: u32,
    /// The start of the first attempt, in nanoseconds after the arrival of the call.
    // Half the size of an instant, because it moves with the future.
    start: u64,
    /// The hash of the host, whose budget pays for retries.
    host: u64,
    // Boxed, because it moves with the future.
    attempt: Option<Box<AttemptState>>,
}

impl RetryState {
    /// Returns the start of the first attempt.
    fn started_at(&self, call: &Call) -> Instant {
        call.first_arrival() + Duration::from_nanos(self.start)
    }
}

/// Returns the duration in nanoseconds, as far as they fit.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The state that is needed once an attempt has failed, or keeps the caller waiting.
#[derive(Default)]
struct AttemptState {
    /// The start of the second attempt and of those that follow.
    started_at: Option<Instant>,
    unanswered: u32,
    /// The attempts that do not count, because the server did not take them.
    not_taken: u32,
    last_delay: Duration,
    permit: RetryPermit,
    idle: IdleTimer,
    // Boxed, so that the state need not be pinned. Created when there is first something to wait
    // for.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The state kept for the rest of a body.
#[derive(Default)]
pub struct RetryBodyState {
    /// False in an inner retry layer, whose outer layer reports for both.
    is_owner: bool,
    timers: Option<StreamTimers>,
}

impl RetryPolicy {
    fn emit(&self, event: &Event<'_>) {
        emit(&self.0.observers, event);
    }
}

impl CallPolicy for RetryPolicy {
    type State = RetryState;
    type BodyState = RetryBodyState;

    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        visit(LAYER, &self.0.observers);
    }

    #[inline]
    fn reads_request(&self) -> bool {
        false
    }

    // Otherwise it is not inlined, and the state is moved once more.
    #[inline(always)]
    fn start(&self, start: &mut CallStart<'_>) -> RetryState {
        let (call, config) = (start.call, &*self.0);
        let is_owner = call.claim_retries();
        let spent = if call.is_probe() || is_single(start.request) {
            u32::MAX
        } else {
            call.attempts()
        };
        if is_owner {
            if config.timeouts.total.is_some() {
                call.limit_deadline(after(start.now, config.timeouts.total));
            }
            call.begin_attempt();
        }
        // Made last, so that it is moved only once.
        RetryState {
            saved: if is_owner && !config.rules.is_last(1, spent) {
                KeptRequest::of(start)
            } else {
                None
            },
            is_owner,
            is_admitted: call.is_reserved(),
            number: 1,
            spent,
            start: if start.now == call.first_arrival() {
                0
            } else {
                nanos(start.now.saturating_duration_since(call.first_arrival()))
            },
            host: start.host_hash(),
            attempt: None,
        }
    }

    fn request_timeout(&self) -> Option<Duration> {
        let timeouts = &self.0.timeouts;
        timeouts.head.into_iter().chain(timeouts.total).min()
    }

    #[inline]
    fn check_deadline(&self, state: &mut RetryState, call: &Arc<Call>) -> Option<Rejection> {
        let has_passed = state.is_owner && call.deadline()? <= state.started_at(call);
        has_passed.then(|| {
            let reason = RejectReason::DeadlineWouldPass {
                estimated: Duration::ZERO,
                remaining: Duration::ZERO,
            };
            Rejection::new(LAYER, reason)
        })
    }

    fn poll_timeout(
        &self,
        state: &mut RetryState,
        call: &Arc<Call>,
        received: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Rejection> {
        if !state.is_owner {
            return Poll::Pending;
        }
        let timeouts = &self.0.timeouts;
        let started_at = state.started_at(call);
        let attempt = state.attempt.get_or_insert_default();
        let head = after(attempt.started_at.unwrap_or(started_at), timeouts.head);
        let idle = received
            .filter(|_| timeouts.idle.is_some())
            .and_then(|received| after(attempt.idle.since(received), timeouts.idle));
        let deadline = call.deadline();
        let Some(until) = earlier(earlier(head, idle), deadline) else {
            return Poll::Pending;
        };
        ready!(poll_timer(&mut attempt.timer, until, cx));
        count(&self.0.counters.timed_out);
        let until = Some(until);
        let waited = if until == deadline {
            deadline.map(|deadline| deadline.saturating_duration_since(started_at))
        } else {
            // Unlike the deadline of the caller, a slow server is a failure of the server.
            call.time_out_attempt();
            if until == head {
                timeouts.head
            } else {
                timeouts.idle
            }
        };
        let after = waited.unwrap_or_default();
        Poll::Ready(Rejection::new(LAYER, RejectReason::TimedOut { after }))
    }

    #[inline]
    fn on_success(
        &self,
        state: &mut RetryState,
        _: &Arc<Call>,
        _: &mut Parts,
        _: bool,
    ) -> Option<Class> {
        if state.is_owner {
            self.0.budget.deposit(state.host);
        }
        None
    }

    fn on_failure(
        &self,
        state: &mut RetryState,
        call: &Arc<Call>,
        failure: &AttemptFailure<'_>,
    ) -> Option<Duration> {
        if !state.is_owner {
            return None;
        }
        let (config, class, number) = (&*self.0, failure.class, state.number);
        let attempt = state.attempt.get_or_insert_default();
        if class.local {
            attempt.permit.refund();
        }
        attempt.unanswered += u32::from(failure.unanswered);
        let creates = |saved: &KeptRequest| match &config.is_repeatable {
            Some(is_repeatable) => !is_repeatable(&saved.copy()),
            None => creates(saved),
        };
        let failed = FailedAttempt {
            class,
            host: state.host,
            number: number - attempt.not_taken,
            not_taken: attempt.not_taken,
            spent: state.spent,
            unanswered: attempt.unanswered,
            replayable: state.saved.is_some(),
            creates: state.saved.as_ref().is_some_and(creates),
            paused: failure
                .paused
                .filter(|_| !state.is_admitted)
                .map(|paused| paused.pause),
            last_delay: attempt.last_delay,
            now: Instant::now(),
            deadline: call.deadline(),
            blocked_until: call.blocked_until(),
            has_stand_in: call.has_stand_in(),
            reroute: failure.reroute,
        };
        let (details, model) = (failure.details, failure.details.model);
        let decision = match decide(&config.rules, &failed, &config.budget, fastrand::f64()) {
            Decision::Postpone { wait } => {
                call.postpone(Some(wait));
                Decision::Return {
                    because: "stand_in",
                }
            }
            decision => decision,
        };
        match decision {
            // The layer that rejected the call has emitted an event.
            Decision::Return { .. } if class.local && number == 1 => None,
            Decision::Postpone { .. } => None,
            Decision::Return { because } => {
                count(&config.counters.gave_up);
                self.emit(&Event::GaveUp {
                    layer: LAYER,
                    model,
                    attempt: number,
                    class,
                    because,
                    details,
                });
                None
            }
            Decision::Retry {
                delay,
                permit,
                is_free,
            } => {
                count(&config.counters.retries);
                self.emit(&Event::Retry {
                    layer: LAYER,
                    model,
                    attempt: number,
                    class,
                    delay,
                    details,
                });
                attempt.permit = permit;
                attempt.not_taken += u32::from(is_free);
                attempt.last_delay = delay;
                Some(delay)
            }
        }
    }

    fn next_request(&self, state: &mut RetryState, call: &Arc<Call>) -> Request<RequestBody> {
        state.number += 1;
        let attempt = state.attempt.get_or_insert_default();
        attempt.started_at = Some(Instant::now());
        attempt.idle = IdleTimer::default();
        call.begin_attempt();
        let number = state.number - attempt.not_taken;
        let request = if self.0.rules.is_last(number, state.spent) {
            state.saved.take().map(KeptRequest::into_request)
        } else {
            state.saved.as_ref().map(|saved| saved.copy())
        };
        let mut request = request.expect("a retry is decided only while the request is there");
        call.attach(&mut request);
        if let Some(before) = retry_count(request.headers()) {
            let count = before.saturating_add(u64::from(state.number - 1));
            request.headers_mut().insert(RETRY_COUNT, count.into());
        }
        request
    }

    #[inline]
    fn on_sent(&self, state: &mut RetryState) {
        if let Some(attempt) = &mut state.attempt {
            attempt.permit.mark_sent();
        }
    }

    fn on_rejection(&self, rejection: &Rejection) {
        self.emit(&Event::Rejected {
            layer: rejection.by,
            scope: None,
            reason: rejection.reason,
            class: rejection.class(),
        });
    }

    #[inline]
    fn finish(&self, state: &mut RetryState, call: &Arc<Call>) {
        // Released once, so that an outer layer may send the call through this layer again.
        if std::mem::take(&mut state.is_owner) {
            call.release_retries();
            if self.0.timeouts.total.is_some() {
                call.limit_deadline(None);
            }
        }
        state.saved = None;
        // Tested here, because an inlined test is cheaper than the call that drops nothing.
        if state.attempt.is_some() {
            state.attempt = None;
        }
    }

    fn start_body(
        &self,
        state: &mut RetryState,
        call: &Arc<Call>,
        can_end_early: bool,
    ) -> RetryBodyState {
        let is_owner = state.is_owner;
        let timeouts = &self.0.timeouts;
        let is_silent = timeouts.idle.is_some() || timeouts.content.is_some();
        let is_timed = || is_silent || call.deadline().is_some();
        let timers = (is_owner && can_end_early && is_timed())
            .then(|| StreamTimers::new(call.clone(), state.started_at(call)));
        RetryBodyState { is_owner, timers }
    }

    fn may_end_body(&self, body: &RetryBodyState) -> bool {
        body.timers.is_some()
    }

    #[inline]
    fn on_frame(&self, body: &mut RetryBodyState) {
        if let Some(timers) = &mut body.timers {
            timers.on_frame();
        }
    }

    fn poll_body_timeout(
        &self,
        body: &mut RetryBodyState,
        tracker: &BodyTracker,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Bytes>> {
        let Some(timers) = &mut body.timers else {
            return Poll::Pending;
        };
        let progress = tracker.stream().map_or(0, StreamState::events);
        let timeout = ready!(timers.poll_timeout(&self.0.timeouts, progress, cx));
        let message = format!("{LAYER}: {timeout}");
        let event = StreamTimers::error_event(tracker, &message);
        if event.is_some() {
            count(&self.0.counters.timed_out);
        }
        Poll::Ready(event)
    }

    fn on_body_failure(&self, body: &RetryBodyState, failure: &AttemptFailure<'_>) {
        if body.is_owner {
            count(&self.0.counters.broken);
            self.emit(&Event::Broken {
                layer: LAYER,
                model: failure.details.model,
                class: failure.class,
                details: failure.details,
            });
        }
    }
}

/// Returns true if the caller wants the request to be sent only once. Removes the header.
// Always inlined: the call of the function is a quarter of its time.
#[inline(always)]
fn is_single(request: &mut Request<RequestBody>) -> bool {
    // A look-up by name takes as long as a dozen headers.
    if request.headers().keys().any(|name| *name == NO_RETRY) {
        remove_mark(request.headers_mut());
        return true;
    }
    request.extensions().get::<NoRetry>().is_some()
}

#[cold]
fn remove_mark(headers: &mut HeaderMap) {
    headers.remove(NO_RETRY);
}

/// Returns true if the request may create something: any POST but for messages and token counts.
fn creates(saved: &SavedRequest) -> bool {
    !saved.method().is_idempotent()
        && !matches!(
            Endpoint::of(saved.path()),
            Endpoint::Messages | Endpoint::CountTokens
        )
}

/// Returns the caller's own count of retries, if the request has it.
fn retry_count(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_COUNT)?.to_str().ok()?.parse().ok()
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy").finish_non_exhaustive()
    }
}

impl fmt::Debug for RetryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryState")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RetryBodyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBodyState").finish_non_exhaustive()
    }
}
