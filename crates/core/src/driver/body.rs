//! The body of a response that a driver has handed on.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tower_claude_wire::StreamState;

use super::{
    attempt_policy::{AttemptPolicy, Clock},
    call_policy::{AttemptFailure, CallPolicy},
    peek::{PeekedBody, track},
    policies::Policies,
    report::Report,
    spans::Entered,
};
use crate::{
    body_tracker::{BodyEnd, BodyTracker},
    call::Call,
    class::{Class, Kind},
    classify::ClassifyResponse,
    held_body::HeldBody,
    outcome::Outcome,
    response_body::ResponseBody,
};

/// A response for the caller.
pub(super) type Answer<R, P, A, C> = Response<ResponseBody<Body<R, P, A, C>>>;

/// The frames that were read of a response, then its rest, tracked to its end.
// Boxed, because most responses are whole when they are handed on and need none of this.
pub struct Body<R, P, A, C>(Option<Box<Rest<R, P, A, C>>>)
where
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse;

struct Rest<R, P, A, C>
where
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    held: HeldBody<R>,
    /// Absent for a failed response, whose outcome is known.
    tracking: Option<Tracking<P, A, C>>,
}

/// The tracker of a successful response, and the policies that it reports to.
struct Tracking<P: CallPolicy, A: AttemptPolicy, C> {
    tracker: BodyTracker,
    policies: Arc<Policies<P, A, C>>,
    attempt: A::Attempt,
    body_state: P::BodyState,
    /// The outcome was reported.
    ended: bool,
    call: Arc<Call>,
    report: Option<Box<Report>>,
}

impl<R, P, A, C> Body<R, P, A, C>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    /// Creates the body of a failed response.
    pub(super) fn untracked(held: HeldBody<R>) -> ResponseBody<Self> {
        ResponseBody::inner(Self(Some(Box::new(Rest {
            held,
            tracking: None,
        }))))
    }

    /// Creates the body of a successful response.
    pub(super) fn tracked(
        peeked: PeekedBody<R>,
        policies: &Arc<Policies<P, A, C>>,
        attempt: A::Attempt,
        state: &mut P::State,
        call: &Arc<Call>,
        report: Option<Box<Report>>,
    ) -> ResponseBody<Self> {
        let PeekedBody {
            tracker,
            held,
            ended,
            ..
        } = peeked;
        let mut tracking =
            Tracking::new(held.rest.as_ref(), tracker, policies, attempt, state, call);
        tracking.ended = ended;
        tracking.report = report;
        let tracking = Some(tracking);
        ResponseBody::inner(Self(Some(Box::new(Rest { held, tracking }))))
    }
}

impl<P: CallPolicy, A: AttemptPolicy, C: ClassifyResponse> Tracking<P, A, C> {
    /// Starts to track what is left of a body.
    fn new<R: HttpBody>(
        body: Option<&R>,
        tracker: BodyTracker,
        policies: &Arc<Policies<P, A, C>>,
        attempt: A::Attempt,
        state: &mut P::State,
        call: &Arc<Call>,
    ) -> Self {
        let is_stream = tracker
            .stream()
            .is_some_and(|stream| !stream.is_not_claude());
        // Other data would break the promise of a known length.
        let can_end_early =
            is_stream && body.is_some_and(|body| body.size_hint().exact().is_none());
        let body_state = policies.call.start_body(state, call, can_end_early);
        Self {
            tracker,
            policies: policies.clone(),
            attempt,
            body_state,
            ended: false,
            call: call.clone(),
            report: None,
        }
    }

    /// Enters the span of the attempt.
    #[inline]
    fn enter(&self) -> Entered {
        match &self.report {
            Some(report) => report.enter_attempt(&self.call),
            None => Entered::NONE,
        }
    }

    fn track<E>(&mut self, frame: Option<&Result<Frame<Bytes>, E>>, is_last: bool) {
        if self.ended {
            return;
        }
        let policies = &*self.policies;
        let usage = &mut None;
        let end = match frame {
            None => {
                let classify = |error: &_| policies.classifier.stream_error(error);
                Some(self.tracker.ended(classify))
            }
            Some(Err(_)) => Some(BodyEnd::BROKEN),
            // The caller may never poll past the last frame.
            Some(Ok(frame)) => track(
                &mut self.tracker,
                &policies.attempts,
                &mut self.attempt,
                &policies.classifier,
                frame,
                is_last,
                usage,
            ),
        };
        if self.report.is_some() {
            self.report_content();
        }
        if let Some(end) = end {
            let usage = self.tracker.usage_or(usage);
            if let Some(report) = &mut self.report {
                report.set_usage(usage);
            }
            self.ended = true;
            let (attempt, clock) = (&mut self.attempt, &mut Clock::default());
            let attempts = &self.policies.attempts;
            attempts.on_end(attempt, &end.outcome(usage), clock);
            self.attempt = A::Attempt::default();
            let failed = end.failure();
            if failed.is_some() || self.report.is_some() {
                self.report(failed);
            }
        }
    }

    /// Records the first content.
    #[cold]
    fn report_content(&mut self) {
        if let Some(report) = &mut self.report
            && self.tracker.stream().is_none_or(StreamState::has_content)
        {
            report.on_content();
        }
    }

    /// Reports the end of the response to the call policies and to observers.
    #[inline(never)]
    fn report(&mut self, failed: Option<Class>) {
        let policies = &*self.policies;
        if let Some(report) = &mut self.report {
            report.end_response(policies.reporter(), &self.call, failed);
        }
        if let Some(class) = failed {
            let details = self.report.as_ref().map(|report| report.details());
            let failure = AttemptFailure::of_body(class, details.unwrap_or_default());
            policies.call.on_body_failure(&self.body_state, &failure);
        }
        if let Some(mut report) = self.report.take() {
            report.end_answer(policies.reporter(), &self.call, failed);
        }
    }

    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let (body, tracker) = (&mut self.body_state, &self.tracker);
        self.policies.call.poll_body_timeout(body, tracker, cx)
    }
}

impl<R, P, A, C> HttpBody for Body<R, P, A, C>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let this = self.get_mut();
        let Some(rest) = &mut this.0 else {
            return Poll::Ready(None);
        };
        if let Some(frame) = rest.held.pop() {
            return Poll::Ready(Some(frame));
        }
        if rest.held.rest.is_none() {
            return Poll::Ready(None);
        }
        let _entered = rest.tracking.as_ref().map(Tracking::enter);
        if let Poll::Ready(frame) = rest.held.poll_rest(cx) {
            if let Some(tracking) = &mut rest.tracking {
                tracking.track(frame.as_ref(), rest.held.is_read());
                match &frame {
                    Some(Ok(_)) => tracking.policies.call.on_frame(&mut tracking.body_state),
                    _ => tracking.body_state = P::BodyState::default(),
                }
            }
            return Poll::Ready(frame);
        }
        let Some(tracking) = &mut rest.tracking else {
            return Poll::Pending;
        };
        let last = tracking.poll_timeout(cx);
        let last = std::task::ready!(last);
        // Dropping the inner body frees all that it holds.
        rest.held.rest = None;
        if last.is_some() {
            tracking.report(Some(Class::new(Kind::Timeout)));
        }
        this.0 = None;
        Poll::Ready(last.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|rest| rest.held.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let Some(rest) = &self.0 else {
            return SizeHint::with_exact(0);
        };
        if let Some(tracking) = &rest.tracking
            && tracking.policies.call.may_end_body(&tracking.body_state)
        {
            return SizeHint::new();
        }
        rest.held.size_hint()
    }
}

impl<R, P, A, C> Drop for Rest<R, P, A, C>
where
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    fn drop(&mut self) {
        let _entered = self.tracking.as_ref().map(Tracking::enter);
        // The inner body must be gone before its end is reported.
        self.held.rest = None;
        if let Some(tracking) = &mut self.tracking
            && !tracking.ended
        {
            tracking.ended = true;
            let attempts = &tracking.policies.attempts;
            if tracking.call.is_timed_out() && !tracking.call.is_held_back() {
                attempts.on_timeout(&mut tracking.attempt);
            }
            let usage = &mut None;
            let usage = tracking.tracker.usage_or(usage);
            if let Some(report) = &mut tracking.report {
                report.set_usage(usage);
            }
            let dropped = Outcome::Dropped { usage };
            attempts.on_end(&mut tracking.attempt, &dropped, &mut Clock::default());
            if let Some(mut report) = tracking.report.take() {
                report.end_dropped(tracking.policies.reporter(), &tracking.call, true);
            }
        }
    }
}

impl<R, P, A, C> fmt::Debug for Body<R, P, A, C>
where
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    /// Leaves the content out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("ended", &self.0.is_none())
            .finish_non_exhaustive()
    }
}
