//! Policies that admit attempts.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, response::Parts};
use tokio::time::Instant;
use tower_claude_wire::StreamState;

use crate::{
    call::Call, class::Class, event::EventSink, outcome::Outcome, rejection::Rejection,
    request_body::RequestBody, reroute::Reroute, scope::Scope,
};

/// A clock that is read at most once in one step of a call.
#[derive(Debug, Default)]
pub struct Clock(Option<Instant>);

impl Clock {
    /// A clock that has been read already.
    #[must_use]
    pub const fn at(now: Instant) -> Self {
        Self(Some(now))
    }

    /// Returns the time of this step, and reads the clock if no policy has done so.
    #[inline]
    pub fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }
}

/// A policy that admits or rejects each attempt, and is notified of its outcome.
///
/// One value serves all calls of a layer, so its state is shared. State of one attempt is kept in
/// [`Attempt`](Self::Attempt), which the driver drops when the attempt is over: after
/// [`on_end`](Self::on_end), after a failure, or when the caller drops the call or the body.
/// Resources of an attempt are therefore held as values that release themselves when dropped.
pub trait AttemptPolicy {
    /// The state of one attempt. A value that is dropped before an outcome was reported belongs to
    /// an attempt that was given up.
    type Attempt: Default;

    /// Returns true if the policy reads the body of requests. If no policy of the driver does, the
    /// driver does not parse the body. True by default.
    fn reads_request(&self) -> bool {
        true
    }

    /// Returns true if the policy reads [`Outcome::usage`] of this attempt. A JSON response is
    /// parsed for its usage only if a policy of the driver does. Called after
    /// [`on_response`](Self::on_response) with a success. False by default.
    fn reads_usage(&self, attempt: &Self::Attempt) -> bool {
        let _ = attempt;
        false
    }

    /// Returns true if an attempt must not end before the caller has read the body. If no policy of
    /// the driver needs that, the attempt ends when a JSON response has arrived as a whole, as it
    /// does under a [`CallPolicy`](super::CallPolicy) that holds responses. True by default.
    fn ends_with_body(&self) -> bool {
        true
    }

    /// Calls `visit` with the name of the layer and the destination of its events. The driver
    /// reports the ends of attempts and calls there. Does nothing by default.
    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        let _ = visit;
    }

    /// Returns the pool of limits of an admitted attempt, for events. `None` by default.
    fn scope<'a>(&'a self, attempt: &'a Self::Attempt) -> Option<&'a Scope> {
        let _ = attempt;
        None
    }

    /// Admits the attempt, or rejects it.
    ///
    /// The driver polls again until the result is ready, and then does not poll this attempt again.
    /// The first poll of a call may come with a waker that does nothing, followed by a second poll
    /// with the real one.
    fn poll_admit(
        &self,
        attempt: &mut Self::Attempt,
        request: &mut Request<RequestBody>,
        call: &Arc<Call>,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>>;

    /// Returns a rejection if an admitted attempt must not be sent after all.
    ///
    /// Called while an inner layer keeps the attempt waiting. Admits by default.
    fn recheck(&self, attempt: &mut Self::Attempt) -> Option<Rejection> {
        let _ = attempt;
        None
    }

    /// Records that the request has left this layer and no inner layer keeps it waiting.
    fn on_sent(&self, attempt: &mut Self::Attempt) {
        let _ = attempt;
    }

    /// Records the class of the attempt.
    ///
    /// `head` is the head of the response, and `None` if the inner service returned an error. After
    /// a success, [`on_end`](Self::on_end) follows. After any other class the attempt is over.
    fn on_response(
        &self,
        attempt: &mut Self::Attempt,
        class: &Class,
        head: Option<&mut Parts>,
        clock: &mut Clock,
    ) {
        let _ = (attempt, class, head, clock);
    }

    /// Returns the time until which the policy would reject another attempt. Called after a
    /// failure. `None` by default.
    fn blocked_until(&self, attempt: &Self::Attempt) -> Option<Instant> {
        let _ = attempt;
        None
    }

    /// Returns the way of another attempt, if the policy chooses among several targets. `None` by
    /// default.
    ///
    /// Called after each failure, before the call policies decide. `rejection` is present if an
    /// inner policy or layer has rejected the request, or a timer of a call policy has ended the
    /// attempt. The call policies get the result in
    /// [`AttemptFailure::reroute`](super::AttemptFailure::reroute). With [`Reroute::AtOnce`] they
    /// send the request again without a wait, and also after a rejection that they would otherwise
    /// pass on. A policy must therefore report it a limited number of times in a call, and keep
    /// what it has tried in [`Call::state`].
    fn reroute(
        &self,
        attempt: &mut Self::Attempt,
        call: &Arc<Call>,
        class: &Class,
        rejection: Option<&Rejection>,
    ) -> Option<Reroute> {
        let _ = (attempt, call, class, rejection);
        None
    }

    /// Returns details for the message of a rejection by this policy. `None` by default, and if the
    /// policy has not rejected this attempt. They go to the caller.
    fn details(&self, attempt: &Self::Attempt) -> Option<String> {
        let _ = attempt;
        None
    }

    /// Records that the body of a success is neither JSON nor an event stream, so that only its end
    /// will be seen.
    fn on_opaque_body(&self, attempt: &mut Self::Attempt) {
        let _ = attempt;
    }

    /// Records the state of an event stream after another frame.
    fn on_progress(&self, attempt: &mut Self::Attempt, stream: &StreamState) {
        let _ = (attempt, stream);
    }

    /// Records how a successful response ended. Called exactly once, possibly in a destructor, so
    /// it must not panic.
    fn on_end(&self, attempt: &mut Self::Attempt, outcome: &Outcome<'_>, clock: &mut Clock) {
        let _ = (attempt, outcome, clock);
    }

    /// Records that a timer of a [`CallPolicy`](super::CallPolicy) ends the attempt, which the
    /// driver then drops.
    fn on_timeout(&self, attempt: &mut Self::Attempt) {
        let _ = attempt;
    }
}

/// The empty policy: admits every attempt.
impl AttemptPolicy for () {
    type Attempt = ();

    #[inline]
    fn reads_request(&self) -> bool {
        false
    }

    #[inline]
    fn ends_with_body(&self) -> bool {
        false
    }

    #[inline]
    fn poll_admit(
        &self,
        (): &mut (),
        _: &mut Request<RequestBody>,
        _: &Arc<Call>,
        _: &mut Clock,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }
}

/// A policy that is left out if it is `None`.
impl<A: AttemptPolicy> AttemptPolicy for Option<A> {
    type Attempt = A::Attempt;

    #[inline]
    fn reads_request(&self) -> bool {
        self.as_ref().is_some_and(A::reads_request)
    }

    #[inline]
    fn reads_usage(&self, attempt: &Self::Attempt) -> bool {
        self.as_ref()
            .is_some_and(|policy| policy.reads_usage(attempt))
    }

    #[inline]
    fn ends_with_body(&self) -> bool {
        self.as_ref().is_some_and(A::ends_with_body)
    }

    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        if let Some(policy) = self {
            policy.visit_sinks(visit);
        }
    }

    fn scope<'a>(&'a self, attempt: &'a Self::Attempt) -> Option<&'a Scope> {
        self.as_ref()?.scope(attempt)
    }

    #[inline]
    fn poll_admit(
        &self,
        attempt: &mut Self::Attempt,
        request: &mut Request<RequestBody>,
        call: &Arc<Call>,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        match self {
            Some(policy) => policy.poll_admit(attempt, request, call, clock, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    #[inline]
    fn recheck(&self, attempt: &mut Self::Attempt) -> Option<Rejection> {
        self.as_ref()?.recheck(attempt)
    }

    #[inline]
    fn on_sent(&self, attempt: &mut Self::Attempt) {
        if let Some(policy) = self {
            policy.on_sent(attempt);
        }
    }

    #[inline]
    fn on_response(
        &self,
        attempt: &mut Self::Attempt,
        class: &Class,
        head: Option<&mut Parts>,
        clock: &mut Clock,
    ) {
        if let Some(policy) = self {
            policy.on_response(attempt, class, head, clock);
        }
    }

    fn blocked_until(&self, attempt: &Self::Attempt) -> Option<Instant> {
        self.as_ref()?.blocked_until(attempt)
    }

    fn reroute(
        &self,
        attempt: &mut Self::Attempt,
        call: &Arc<Call>,
        class: &Class,
        rejection: Option<&Rejection>,
    ) -> Option<Reroute> {
        self.as_ref()?.reroute(attempt, call, class, rejection)
    }

    fn details(&self, attempt: &Self::Attempt) -> Option<String> {
        self.as_ref()?.details(attempt)
    }

    fn on_opaque_body(&self, attempt: &mut Self::Attempt) {
        if let Some(policy) = self {
            policy.on_opaque_body(attempt);
        }
    }

    #[inline]
    fn on_progress(&self, attempt: &mut Self::Attempt, stream: &StreamState) {
        if let Some(policy) = self {
            policy.on_progress(attempt, stream);
        }
    }

    #[inline]
    fn on_end(&self, attempt: &mut Self::Attempt, outcome: &Outcome<'_>, clock: &mut Clock) {
        if let Some(policy) = self {
            policy.on_end(attempt, outcome, clock);
        }
    }

    fn on_timeout(&self, attempt: &mut Self::Attempt) {
        if let Some(policy) = self {
            policy.on_timeout(attempt);
        }
    }
}

/// The state of one attempt under two policies.
#[derive(Debug, Default)]
pub struct AttemptPair<A, B> {
    outer: A,
    inner: B,
    outer_admitted: bool,
}

/// An outer policy and an inner one.
impl<A: AttemptPolicy, B: AttemptPolicy> AttemptPolicy for (A, B) {
    type Attempt = AttemptPair<A::Attempt, B::Attempt>;

    #[inline]
    fn reads_request(&self) -> bool {
        self.0.reads_request() || self.1.reads_request()
    }

    #[inline]
    fn ends_with_body(&self) -> bool {
        self.0.ends_with_body() || self.1.ends_with_body()
    }

    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        self.0.visit_sinks(visit);
        self.1.visit_sinks(visit);
    }

    fn scope<'a>(&'a self, attempt: &'a Self::Attempt) -> Option<&'a Scope> {
        let inner = self.1.scope(&attempt.inner);
        inner.or_else(|| self.0.scope(&attempt.outer))
    }

    #[inline]
    fn reads_usage(&self, attempt: &Self::Attempt) -> bool {
        self.0.reads_usage(&attempt.outer) || self.1.reads_usage(&attempt.inner)
    }

    #[inline]
    fn poll_admit(
        &self,
        attempt: &mut Self::Attempt,
        request: &mut Request<RequestBody>,
        call: &Arc<Call>,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        if !attempt.outer_admitted {
            let admitted = self
                .0
                .poll_admit(&mut attempt.outer, request, call, clock, cx);
            if let Err(rejection) = ready!(admitted) {
                return Poll::Ready(Err(rejection));
            }
            attempt.outer_admitted = true;
        } else if let Some(rejection) = self.0.recheck(&mut attempt.outer) {
            return Poll::Ready(Err(rejection));
        }
        self.1
            .poll_admit(&mut attempt.inner, request, call, clock, cx)
    }

    fn recheck(&self, attempt: &mut Self::Attempt) -> Option<Rejection> {
        let outer = self.0.recheck(&mut attempt.outer);
        outer.or_else(|| self.1.recheck(&mut attempt.inner))
    }

    #[inline]
    fn on_sent(&self, attempt: &mut Self::Attempt) {
        self.0.on_sent(&mut attempt.outer);
        self.1.on_sent(&mut attempt.inner);
    }

    #[inline]
    fn on_response(
        &self,
        attempt: &mut Self::Attempt,
        class: &Class,
        mut head: Option<&mut Parts>,
        clock: &mut Clock,
    ) {
        self.1
            .on_response(&mut attempt.inner, class, head.as_deref_mut(), clock);
        self.0.on_response(&mut attempt.outer, class, head, clock);
    }

    fn blocked_until(&self, attempt: &Self::Attempt) -> Option<Instant> {
        let inner = self.1.blocked_until(&attempt.inner);
        self.0.blocked_until(&attempt.outer).max(inner)
    }

    fn reroute(
        &self,
        attempt: &mut Self::Attempt,
        call: &Arc<Call>,
        class: &Class,
        rejection: Option<&Rejection>,
    ) -> Option<Reroute> {
        let inner = self.1.reroute(&mut attempt.inner, call, class, rejection);
        let outer = self.0.reroute(&mut attempt.outer, call, class, rejection);
        outer.or(inner)
    }

    fn details(&self, attempt: &Self::Attempt) -> Option<String> {
        let inner = self.1.details(&attempt.inner);
        inner.or_else(|| self.0.details(&attempt.outer))
    }

    fn on_opaque_body(&self, attempt: &mut Self::Attempt) {
        self.1.on_opaque_body(&mut attempt.inner);
        self.0.on_opaque_body(&mut attempt.outer);
    }

    #[inline]
    fn on_progress(&self, attempt: &mut Self::Attempt, stream: &StreamState) {
        self.1.on_progress(&mut attempt.inner, stream);
        self.0.on_progress(&mut attempt.outer, stream);
    }

    #[inline]
    fn on_end(&self, attempt: &mut Self::Attempt, outcome: &Outcome<'_>, clock: &mut Clock) {
        self.1.on_end(&mut attempt.inner, outcome, clock);
        self.0.on_end(&mut attempt.outer, outcome, clock);
    }

    fn on_timeout(&self, attempt: &mut Self::Attempt) {
        self.1.on_timeout(&mut attempt.inner);
        self.0.on_timeout(&mut attempt.outer);
    }
}
