//! The progress of one call through its policies.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Request;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    attempt_policy::{AttemptPolicy, Clock},
    call_policy::{CallPolicy, CallStart},
    policies::Policies,
    report::{CallResult, Report},
    spans::Entered,
};
use crate::{
    body_tracker::ExpectedBody, call::Call, redirect::Origin, rejection::Rejection,
    request_body::RequestBody,
};

/// The state of one call and of its present attempt.
pub(super) struct Progress<P: CallPolicy, A: AttemptPolicy> {
    pub(super) call: Arc<Call>,
    pub(super) state: P::State,
    pub(super) attempt: A::Attempt,
    admitted: bool,
    /// The inner service has the request, but an inner layer may keep it waiting.
    called: bool,
    /// The request is sent.
    sent: bool,
    /// The body that a response must have.
    pub(super) expected: ExpectedBody,
    /// The host that the request is sent to.
    pub(super) origin: Origin,
    /// Present if an observer or a subscriber gets events of the call.
    pub(super) report: Option<Box<Report>>,
}

/// A reason why a request is not sent.
pub(super) enum NotSent<E> {
    // Boxed: rare, and the size of every future.
    Rejected(Box<Rejection>),
    /// The inner service failed to become ready.
    Unready(E),
}

impl<P: CallPolicy, A: AttemptPolicy> Progress<P, A> {
    // Always, so that it is built where it stays.
    #[inline(always)]
    pub(super) fn start<C>(
        policies: &Policies<P, A, C>,
        request: &mut Request<RequestBody>,
        now: Instant,
    ) -> Self {
        if policies.call.reads_request() || policies.attempts.reads_request() {
            request.body_mut().parse();
        }
        let expected = ExpectedBody::of(request);
        let origin = Origin::of(request.uri(), request.headers());
        let call = Call::get_or_attach(request, now);
        let reporter = policies.reporter();
        let is_reported = reporter.is_on(&call);
        let report = is_reported.then(|| Report::start(reporter, &call, request, now));
        let state = policies.call.start(&mut CallStart {
            request,
            call: &call,
            saved: None,
            now: call.begin(now),
            host_header: origin.header(),
        });
        Self {
            call,
            state,
            attempt: A::Attempt::default(),
            admitted: false,
            called: false,
            sent: false,
            expected,
            origin,
            report,
        }
    }

    /// Returns the rejection of a call that cannot start.
    #[inline]
    pub(super) fn check_start<C>(
        &mut self,
        policies: &Policies<P, A, C>,
        request: &Request<RequestBody>,
    ) -> Option<Rejection> {
        let of_body = request.body().rejection();
        let (state, call) = (&mut self.state, &self.call);
        of_body.or_else(|| policies.call.check_deadline(state, call))
    }

    /// Admits the attempt and waits for the inner service. When this is ready without an error, the
    /// request must be sent at once.
    // Always inlined, because its result is large.
    #[inline(always)]
    pub(super) fn poll_send<S, C>(
        &mut self,
        policies: &Policies<P, A, C>,
        service: &mut S,
        request: &mut Request<RequestBody>,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), NotSent<S::Error>>>
    where
        S: Service<Request<RequestBody>>,
    {
        let rejected = |rejection| Poll::Ready(Err(NotSent::Rejected(Box::new(rejection))));
        let attempts = &policies.attempts;
        if !self.admitted {
            let admitted = attempts.poll_admit(&mut self.attempt, request, &self.call, clock, cx);
            if let Err(rejection) = ready!(admitted) {
                return rejected(rejection);
            }
            self.admitted = true;
        } else if let Some(rejection) = attempts.recheck(&mut self.attempt) {
            return rejected(rejection);
        }
        Poll::Ready(match ready!(service.poll_ready(cx)) {
            Ok(()) => {
                if let Some(report) = &mut self.report {
                    let scope = attempts.scope(&self.attempt);
                    report.send(&self.call, request, scope, clock.now());
                }
                Ok(())
            }
            Err(error) => Err(NotSent::Unready(error)),
        })
    }

    /// Records that the inner service has the request. An inner layer may begin its work, and so
    /// keep the request waiting, only when its future is polled.
    #[inline]
    pub(super) fn called<C>(&mut self, policies: &Policies<P, A, C>) {
        policies.call.on_sent(&mut self.state);
        self.called = true;
    }

    /// Returns a rejection if the request is still waiting in an inner layer and must not be sent.
    #[inline]
    pub(super) fn recheck<C>(&mut self, policies: &Policies<P, A, C>) -> Option<Rejection> {
        if self.sent || !self.called {
            return None;
        }
        policies.attempts.recheck(&mut self.attempt)
    }

    /// Records that the request is sent if no inner layer keeps it waiting any more.
    #[inline(always)]
    pub(super) fn polled<C>(&mut self, policies: &Policies<P, A, C>) {
        if !self.sent && !self.call.is_held_back() {
            self.sent = true;
            policies.attempts.on_sent(&mut self.attempt);
        }
    }

    /// Notifies the attempt policies of an attempt that ends before its outcome is known.
    ///
    /// It is a timeout of the server if a timer has ended the attempt. An attempt that was never
    /// sent is no evidence about the server. If there is no answer and the caller has not sent the
    /// whole body, the caller is at fault and nothing was processed.
    pub(super) fn report_unfinished<C>(&mut self, policies: &Policies<P, A, C>, answered: bool) {
        if !self.is_sent() {
            return;
        }
        let attempts = &policies.attempts;
        let body = self.call.unfinished_body().filter(|_| !answered);
        if let Some(failure) = body {
            let class = failure.class();
            attempts.on_response(&mut self.attempt, &class, None, &mut Clock::default());
        } else if self.call.is_timed_out() {
            attempts.on_timeout(&mut self.attempt);
        }
    }

    /// Returns true if the inner service has the request of this attempt.
    pub(super) const fn is_called(&self) -> bool {
        self.called
    }

    /// Returns true if the server may have the request of this attempt.
    pub(super) fn is_sent(&self) -> bool {
        self.sent && !self.call.is_held_back()
    }

    /// Returns true if this driver reports the present attempt.
    #[cold]
    pub(super) fn is_reported_here(&self) -> bool {
        let report = self.report.as_ref();
        report.is_some_and(|report| report.is_sender(&self.call))
    }

    /// Reports the end of a call that is answered by one frame.
    #[cold]
    #[inline(never)]
    pub(super) fn report_whole<C>(&mut self, policies: &Policies<P, A, C>) {
        if let Some(mut report) = self.report.take() {
            report.on_content();
            report.end_response(policies.reporter(), &self.call, None);
            report.end_answer(policies.reporter(), &self.call, None);
        }
    }

    /// Reports the end of a call without a body that is tracked.
    #[cold]
    #[inline(never)]
    pub(super) fn report_call<C>(&mut self, policies: &Policies<P, A, C>, result: &CallResult) {
        if let Some(mut report) = self.report.take() {
            report.end_call(policies.reporter(), &self.call, result);
        }
    }

    /// Reports that the future of the call is dropped. Does nothing if the end was reported.
    #[cold]
    #[inline(never)]
    pub(super) fn report_dropped<C>(&mut self, policies: &Policies<P, A, C>) {
        let is_sent = self.is_sent();
        if let Some(mut report) = self.report.take() {
            // Its events come before the end of the call.
            self.release_attempt();
            report.end_dropped(policies.reporter(), &self.call, is_sent);
        }
    }

    /// Enters the span of the call, so that its events are in it.
    #[inline]
    pub(super) fn enter_call(&self) -> Entered {
        match &self.report {
            Some(report) => report.enter_call(&self.call),
            None => Entered::NONE,
        }
    }

    /// Enters the span of the attempt, so that the inner service is in it.
    #[inline]
    pub(super) fn enter_attempt(&self) -> Entered {
        match &self.report {
            Some(report) => report.enter_attempt(&self.call),
            None => Entered::NONE,
        }
    }

    /// Returns the request of the next attempt, which begins now.
    pub(super) fn next_request<C>(&mut self, policies: &Policies<P, A, C>) -> Request<RequestBody> {
        let request = policies.call.next_request(&mut self.state, &self.call);
        if let Some(report) = &mut self.report {
            report.begin_attempt(&self.call, &request);
        }
        request
    }

    /// Drops all that the attempt holds.
    pub(super) fn release_attempt(&mut self) {
        self.attempt = A::Attempt::default();
        self.admitted = false;
        self.called = false;
        self.sent = false;
    }
}
