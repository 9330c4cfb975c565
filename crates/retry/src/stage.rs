//! Retrying as a stage of a driver.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, response::Parts};
use tokio::time::{Instant, Sleep};
use tower_claude_core::{
    BodyTracker, Call, Class, Rejection, RequestBody, SavedRequest,
    driver::{AttemptFailure, CallPolicy, CallStart},
    event::{Event, emit},
};

use crate::{
    LAYER,
    body::{Timed, say_broken},
    call::RetryCall,
    handle::count,
    layer::Config,
    timeouts::{after, earlier},
};

/// Retrying as a stage of a driver.
pub struct RetryPolicy(pub(crate) Arc<Config>);

/// One call and its attempts.
pub struct RetryState {
    /// The ordinary call: it has not failed, and nobody has had to wait for it.
    light: Option<Light>,
    /// Boxed: it moves with the future.
    full: Option<Box<Full>>,
}

/// What the first attempt needs.
pub(crate) struct Light {
    pub(crate) kept: Option<Arc<SavedRequest>>,
    pub(crate) nested: bool,
    pub(crate) admitted: bool,
    pub(crate) spent: u32,
    pub(crate) deadline: Option<Instant>,
}

struct Full {
    call: RetryCall<()>,
    // Boxed: an instant answer needs none.
    timer: Option<Pin<Box<Sleep>>>,
}

impl RetryPolicy {
    fn full<'a>(&self, trip: &'a mut RetryState, context: &Arc<Call>) -> &'a mut Full {
        if let Some(light) = trip.light.take() {
            let call = RetryCall::of(self.0.clone(), context, light);
            trip.full = Some(Box::new(Full { call, timer: None }));
        }
        trip.full.as_mut().expect("one or the other")
    }
}

/// The timers of the rest of a stream.
#[derive(Default)]
pub struct RetryBodyState(Option<Timed>);

impl CallPolicy for RetryPolicy {
    type State = RetryState;
    type BodyState = RetryBodyState;

    #[inline]
    fn start(&self, launch: &mut CallStart<'_>) -> RetryState {
        let context = launch.call;
        let config = &*self.0;
        let nested = !context.claim_retries();
        let spent = match context.is_probe() {
            true => u32::MAX,
            false => context.attempts(),
        };
        let deadline = match config.timeouts.total {
            Some(_) => earlier(
                context.deadline(),
                after(context.first_arrival(), config.timeouts.total),
            ),
            None => context.deadline(),
        };
        context.begin_attempt();
        let kept = if nested || config.policy.is_last(1, spent) {
            None
        } else {
            let kept = launch.saved.take();
            kept.or_else(|| SavedRequest::of(launch.request))
        };
        RetryState {
            light: Some(Light {
                kept,
                nested,
                admitted: context.is_reserved(),
                spent,
                deadline,
            }),
            full: None,
        }
    }

    #[inline]
    fn check_deadline(&self, trip: &mut RetryState, context: &Arc<Call>) -> Option<Rejection> {
        if trip.light.as_ref()?.deadline.is_none() {
            return None;
        }
        self.full(trip, context).call.came_too_late()
    }

    fn poll_timeout(
        &self,
        trip: &mut RetryState,
        context: &Arc<Call>,
        received: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Rejection> {
        let full = self.full(trip, context);
        full.call.poll_late(&mut full.timer, received, cx)
    }

    #[inline]
    fn on_success(
        &self,
        trip: &mut RetryState,
        context: &Arc<Call>,
        _: &mut Parts,
        _: bool,
    ) -> Option<Class> {
        let nested = match (&trip.light, &trip.full) {
            (Some(light), _) => light.nested,
            (_, Some(full)) => full.call.is_nested(),
            _ => true,
        };
        if !nested {
            self.0.budget.deposit();
            context.set_committed(true);
        }
        None
    }

    fn on_failure(
        &self,
        trip: &mut RetryState,
        context: &Arc<Call>,
        failure: &AttemptFailure,
    ) -> Option<Duration> {
        let full = self.full(trip, context);
        full.call
            .after_failure(failure.class, failure.paused, failure.unanswered)
    }

    fn next_request(&self, trip: &mut RetryState, context: &Arc<Call>) -> Request<RequestBody> {
        let full = self.full(trip, context);
        full.call.begin_next();
        full.call.launch()
    }

    #[inline]
    fn finish(&self, trip: &mut RetryState, context: &Arc<Call>) {
        if let Some(light) = trip.light.take() {
            if !light.nested {
                context.release_retries();
            }
            // Whoever asks again finds a call that is over.
            trip.light = Some(Light {
                kept: None,
                nested: true,
                ..light
            });
        }
        if let Some(full) = &mut trip.full {
            full.call.finish();
        }
    }

    fn on_rejection(&self, refusal: &Rejection) {
        emit(
            &self.0.observers,
            &Event::Rejected {
                layer: LAYER,
                scope: None,
                reason: refusal.reason,
                class: refusal.class(),
            },
        );
    }

    fn start_body(
        &self,
        trip: &mut RetryState,
        context: &Arc<Call>,
        timeable: bool,
    ) -> RetryBodyState {
        if !timeable {
            return RetryBodyState(None);
        }
        let call = &self.full(trip, context).call;
        let is_timed = self.0.timeouts.idle.is_some() || call.deadline().is_some();
        RetryBodyState((is_timed && !call.is_nested()).then(|| Timed::of(call)))
    }

    fn may_end_body(&self, tail: &RetryBodyState) -> bool {
        tail.0.is_some()
    }

    fn on_frame(&self, tail: &mut RetryBodyState) {
        if let Some(timed) = &mut tail.0 {
            timed.heard();
        }
    }

    fn poll_body_timeout(
        &self,
        tail: &mut RetryBodyState,
        watch: &BodyTracker,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Bytes>> {
        let Some(timed) = &mut tail.0 else {
            return Poll::Pending;
        };
        let waited = ready!(timed.poll_late(cx));
        Poll::Ready(timed.last_words(watch, &waited))
    }

    fn on_body_failure(&self, class: Class) {
        count(&self.0.counters.broken);
        say_broken(&self.0, class);
    }
}
