//! Policies that send a call again.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, response::Parts};
use tokio::time::Instant;

use crate::{
    body_tracker::BodyTracker,
    call::Call,
    class::Class,
    credential::host_hash_or,
    event::{AttemptDetails, EventSink},
    paused_by_limiter::PausedByLimiter,
    redirect::Origin,
    rejection::Rejection,
    request_body::RequestBody,
    reroute::Reroute,
    saved_request::SavedRequest,
};

/// The beginning of a call, or of its next stage under an outer call policy.
pub struct CallStart<'a> {
    /// The request. A policy may replace it.
    pub request: &'a mut Request<RequestBody>,
    /// The record of the call.
    pub call: &'a Arc<Call>,
    /// The request as it is, if an outer policy keeps a copy already.
    pub saved: Option<Arc<SavedRequest>>,
    /// The time of this start. If the body of the request had to be awaited, it is the arrival of
    /// the request.
    pub now: Instant,
    /// The `host` header of the request, if its URI names no host.
    pub host_header: Option<&'a HeaderValue>,
}

impl CallStart<'_> {
    /// Returns a keyed hash of the host of the request. See
    /// [`host_hash`](crate::toolkit::host_hash).
    #[must_use]
    #[inline]
    pub fn host_hash(&self) -> u64 {
        host_hash_or(self.request.uri(), self.host_header)
    }
}

impl fmt::Debug for CallStart<'_> {
    /// Leaves the request out, because it holds a key and a prompt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallStart")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

/// An attempt that failed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttemptFailure<'a> {
    /// The class of the failure.
    pub class: Class,
    /// Present if a limiter has paused the scope, so that the policy must not wait as well.
    pub paused: Option<PausedByLimiter>,
    /// True if the attempt was sent and ended by a timer, so that the server may still work on it.
    pub unanswered: bool,
    /// The way of another attempt, if an inner policy chooses among several targets.
    pub reroute: Option<Reroute>,
    /// The facts for events. Empty if no event is recorded.
    pub details: AttemptDetails<'a>,
}

impl<'a> AttemptFailure<'a> {
    /// Creates the failure of a response that the caller has begun to get.
    pub(super) const fn of_body(class: Class, details: AttemptDetails<'a>) -> Self {
        Self {
            class,
            paused: None,
            unanswered: false,
            reroute: None,
            details,
        }
    }
}

/// A policy that decides whether a failed call is sent again, and as which request.
///
/// One value serves all calls of a layer. The methods are called in the order of
/// [the life of a call](super#the-life-of-a-call).
pub trait CallPolicy {
    /// The state of one call across its attempts.
    type State;

    /// The state kept for the rest of a body that the caller reads.
    type BodyState: Default;

    /// True if a successful response is held until its first content, so that a failure before it
    /// can be sent again. True by default, and false for the empty policy `()`.
    const HOLDS_RESPONSE: bool = true;

    /// Returns true if the policy reads the body of requests. See
    /// [`AttemptPolicy::reads_request`](super::AttemptPolicy::reads_request). True by default.
    fn reads_request(&self) -> bool {
        true
    }

    /// Calls `visit` with the name of the layer and the destination of its events. The driver
    /// reports the ends of attempts and calls there. Does nothing by default.
    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        let _ = visit;
    }

    /// Starts a call.
    fn start(&self, start: &mut CallStart<'_>) -> Self::State;

    /// Returns the longest time in which the body of a request must arrive. `None` by default,
    /// which sets no limit.
    fn request_timeout(&self) -> Option<Duration> {
        None
    }

    /// Returns a rejection if the deadline of the call has passed before its first attempt.
    fn check_deadline(&self, state: &mut Self::State, call: &Arc<Call>) -> Option<Rejection> {
        let _ = (state, call);
        None
    }

    /// Returns a rejection when a timer of the call has run out.
    ///
    /// Polled only while the attempt has nothing else to do. `received` is the number of body bytes
    /// that are held, and `None` before the response head.
    fn poll_timeout(
        &self,
        state: &mut Self::State,
        call: &Arc<Call>,
        received: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Rejection> {
        let _ = (state, call, received, cx);
        Poll::Pending
    }

    /// Returns true if the body of a failure of this class is read although the head has told its
    /// class.
    fn reads_error_body(&self, class: &Class) -> bool {
        let _ = class;
        false
    }

    /// Returns true if the driver looks for responses in which the model declined.
    fn detects_refusal(&self) -> bool {
        false
    }

    /// Records a response that is ready for the caller, or returns the class under which it counts
    /// as a failure. `refused` is true if the model declined and
    /// [`detects_refusal`](Self::detects_refusal) is true.
    fn on_success(
        &self,
        state: &mut Self::State,
        call: &Arc<Call>,
        head: &mut Parts,
        refused: bool,
    ) -> Option<Class> {
        let _ = (state, call, head, refused);
        None
    }

    /// Returns the wait before another attempt, or `None` if there is to be no other.
    fn on_failure(
        &self,
        state: &mut Self::State,
        call: &Arc<Call>,
        failure: &AttemptFailure<'_>,
    ) -> Option<Duration>;

    /// Returns the request of the next attempt. Called once after each wait that
    /// [`on_failure`](Self::on_failure) has returned.
    fn next_request(&self, state: &mut Self::State, call: &Arc<Call>) -> Request<RequestBody>;

    /// Records that an attempt was admitted and the inner service has its request.
    #[inline]
    fn on_sent(&self, state: &mut Self::State) {
        let _ = state;
    }

    /// Records that a failure goes to the caller. May change its head, and may return another body.
    ///
    /// `body` is the part of the error body that was read.
    fn on_give_up(
        &self,
        state: &mut Self::State,
        class: &Class,
        head: &mut Parts,
        body: &[u8],
    ) -> Option<Bytes> {
        let _ = (state, class, head, body);
        None
    }

    /// Records that a rejection by a timer or deadline of this policy goes to the caller.
    fn on_rejection(&self, rejection: &Rejection) {
        let _ = rejection;
    }

    /// Releases what the state holds for further attempts. Called when the call is answered, and
    /// when it is dropped.
    fn finish(&self, state: &mut Self::State, call: &Arc<Call>) {
        let _ = (state, call);
    }

    /// Returns the state for the rest of a body. `can_end_early` is true if the body is an event
    /// stream of unknown length, which an `error` event can end.
    fn start_body(
        &self,
        state: &mut Self::State,
        call: &Arc<Call>,
        can_end_early: bool,
    ) -> Self::BodyState {
        let _ = (state, call, can_end_early);
        Self::BodyState::default()
    }

    /// Returns true if [`poll_body_timeout`](Self::poll_body_timeout) may end the body early.
    fn may_end_body(&self, body: &Self::BodyState) -> bool {
        let _ = body;
        false
    }

    /// Records another frame of the body.
    fn on_frame(&self, body: &mut Self::BodyState) {
        let _ = body;
    }

    /// Ends the body when it has been silent, or has gone on, for too long. The result is the last
    /// data of the body, if any. Polled only while the inner body is pending.
    fn poll_body_timeout(
        &self,
        body: &mut Self::BodyState,
        tracker: &BodyTracker,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Bytes>> {
        let _ = (body, tracker, cx);
        Poll::Pending
    }

    /// Records that the body failed after its content had begun, or that
    /// [`poll_body_timeout`](Self::poll_body_timeout) has ended it with data.
    fn on_body_failure(&self, body: &Self::BodyState, failure: &AttemptFailure<'_>) {
        let _ = (body, failure);
    }
}

/// The empty policy: sends every call once and hands each response on at its head.
impl CallPolicy for () {
    type State = ();
    type BodyState = ();

    const HOLDS_RESPONSE: bool = false;

    #[inline]
    fn reads_request(&self) -> bool {
        false
    }

    #[inline]
    fn start(&self, _: &mut CallStart<'_>) {}

    #[inline]
    fn on_failure(&self, (): &mut (), _: &Arc<Call>, _: &AttemptFailure<'_>) -> Option<Duration> {
        None
    }

    fn next_request(&self, (): &mut (), _: &Arc<Call>) -> Request<RequestBody> {
        Request::default()
    }
}

/// The state of one call under two policies.
#[derive(Debug)]
pub struct CallStatePair<A, B> {
    outer: A,
    inner: B,
    /// The next attempt is the outer policy's.
    outer_is_next: bool,
}

/// An outer policy and an inner one. The outer policy acts on failures that the inner one gives up.
impl<A: CallPolicy, B: CallPolicy> CallPolicy for (A, B) {
    type State = CallStatePair<A::State, B::State>;
    type BodyState = (A::BodyState, B::BodyState);

    const HOLDS_RESPONSE: bool = A::HOLDS_RESPONSE || B::HOLDS_RESPONSE;

    #[inline]
    fn reads_request(&self) -> bool {
        self.0.reads_request() || self.1.reads_request()
    }

    #[inline]
    fn start(&self, start: &mut CallStart<'_>) -> Self::State {
        let outer = self.0.start(start);
        let inner = self.1.start(start);
        CallStatePair {
            outer,
            inner,
            outer_is_next: false,
        }
    }

    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        self.0.visit_sinks(visit);
        self.1.visit_sinks(visit);
    }

    fn request_timeout(&self) -> Option<Duration> {
        let timeouts = [self.0.request_timeout(), self.1.request_timeout()];
        timeouts.into_iter().flatten().min()
    }

    #[inline]
    fn check_deadline(&self, state: &mut Self::State, call: &Arc<Call>) -> Option<Rejection> {
        let outer = self.0.check_deadline(&mut state.outer, call);
        outer.or_else(|| self.1.check_deadline(&mut state.inner, call))
    }

    fn poll_timeout(
        &self,
        state: &mut Self::State,
        call: &Arc<Call>,
        received: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Rejection> {
        match self.1.poll_timeout(&mut state.inner, call, received, cx) {
            Poll::Pending => self.0.poll_timeout(&mut state.outer, call, received, cx),
            ready => ready,
        }
    }

    fn reads_error_body(&self, class: &Class) -> bool {
        self.0.reads_error_body(class) || self.1.reads_error_body(class)
    }

    #[inline]
    fn detects_refusal(&self) -> bool {
        self.0.detects_refusal() || self.1.detects_refusal()
    }

    #[inline]
    fn on_success(
        &self,
        state: &mut Self::State,
        call: &Arc<Call>,
        head: &mut Parts,
        refused: bool,
    ) -> Option<Class> {
        let inner = self.1.on_success(&mut state.inner, call, head, refused);
        inner.or_else(|| self.0.on_success(&mut state.outer, call, head, refused))
    }

    fn on_failure(
        &self,
        state: &mut Self::State,
        call: &Arc<Call>,
        failure: &AttemptFailure<'_>,
    ) -> Option<Duration> {
        if let Some(wait) = self.1.on_failure(&mut state.inner, call, failure) {
            return Some(wait);
        }
        self.1.finish(&mut state.inner, call);
        let wait = self.0.on_failure(&mut state.outer, call, failure)?;
        state.outer_is_next = true;
        Some(wait)
    }

    fn next_request(&self, state: &mut Self::State, call: &Arc<Call>) -> Request<RequestBody> {
        if !std::mem::take(&mut state.outer_is_next) {
            return self.1.next_request(&mut state.inner, call);
        }
        let mut request = self.0.next_request(&mut state.outer, call);
        let origin = Origin::of(request.uri(), request.headers());
        state.inner = self.1.start(&mut CallStart {
            request: &mut request,
            call,
            saved: None,
            now: Instant::now(),
            host_header: origin.header(),
        });
        request
    }

    #[inline]
    fn on_sent(&self, state: &mut Self::State) {
        self.0.on_sent(&mut state.outer);
        self.1.on_sent(&mut state.inner);
    }

    fn on_give_up(
        &self,
        state: &mut Self::State,
        class: &Class,
        head: &mut Parts,
        body: &[u8],
    ) -> Option<Bytes> {
        let inner = self.1.on_give_up(&mut state.inner, class, head, body);
        let outer = self.0.on_give_up(&mut state.outer, class, head, body);
        outer.or(inner)
    }

    fn on_rejection(&self, rejection: &Rejection) {
        self.1.on_rejection(rejection);
        self.0.on_rejection(rejection);
    }

    #[inline]
    fn finish(&self, state: &mut Self::State, call: &Arc<Call>) {
        self.1.finish(&mut state.inner, call);
        self.0.finish(&mut state.outer, call);
    }

    fn start_body(
        &self,
        state: &mut Self::State,
        call: &Arc<Call>,
        can_end_early: bool,
    ) -> Self::BodyState {
        (
            self.0.start_body(&mut state.outer, call, can_end_early),
            self.1.start_body(&mut state.inner, call, can_end_early),
        )
    }

    fn may_end_body(&self, (outer, inner): &Self::BodyState) -> bool {
        self.0.may_end_body(outer) || self.1.may_end_body(inner)
    }

    #[inline]
    fn on_frame(&self, (outer, inner): &mut Self::BodyState) {
        self.0.on_frame(outer);
        self.1.on_frame(inner);
    }

    fn poll_body_timeout(
        &self,
        (outer, inner): &mut Self::BodyState,
        tracker: &BodyTracker,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Bytes>> {
        match self.1.poll_body_timeout(inner, tracker, cx) {
            Poll::Pending => self.0.poll_body_timeout(outer, tracker, cx),
            ready => ready,
        }
    }

    fn on_body_failure(&self, (outer, inner): &Self::BodyState, failure: &AttemptFailure<'_>) {
        self.1.on_body_failure(inner, failure);
        self.0.on_body_failure(outer, failure);
    }
}
