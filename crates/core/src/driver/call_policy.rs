//! Who sends a call again.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, response::Parts};

use crate::{BodyTracker, Call, Class, PausedByLimiter, Rejection, RequestBody, SavedRequest};

/// What a call begins with.
pub struct CallStart<'a> {
    /// The request; it may be exchanged for another.
    pub request: &'a mut Request<RequestBody>,
    /// What travels with the call.
    pub context: &'a Arc<Call>,
    /// The request as it is, where a stage further out keeps it already.
    pub kept: Option<Arc<SavedRequest>>,
}

/// Decides whether a call that failed is sent again, and as what.
pub trait CallPolicy {
    /// What a call carries from attempt to attempt.
    type Trip;

    /// What is kept for the rest of an answer that was handed on. By default, nothing.
    type Tail: Default;

    /// A call begins: its first request leaves inward.
    fn begin(&self, launch: &mut CallStart<'_>) -> Self::Trip;

    /// Why it is not worth sending at all.
    fn too_late(&self, trip: &mut Self::Trip, context: &Arc<Call>) -> Option<Rejection> {
        let _ = (trip, context);
        None
    }

    /// Ready when a timer runs out. `received` is what has come of the answer, after its head. Only asked when there is
    /// nothing else to do.
    fn poll_late(
        &self,
        trip: &mut Self::Trip,
        context: &Arc<Call>,
        received: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Rejection> {
        let _ = (trip, context, received, cx);
        Poll::Pending
    }

    /// Whether the body of such a failure is read although its meaning is known.
    fn reads(&self, class: &Class) -> bool {
        let _ = class;
        false
    }

    /// Whether answers in which the model declined are looked for.
    fn minds_refusals(&self) -> bool {
        false
    }

    /// An answer is worth handing on. A failure all the same, where `declined` and that matters here.
    fn landed(
        &self,
        trip: &mut Self::Trip,
        context: &Arc<Call>,
        head: &mut Parts,
        declined: bool,
    ) -> Option<Class>;

    /// Nothing of the call is needed any more.
    fn finish(&self, trip: &mut Self::Trip, context: &Arc<Call>) {
        let _ = (trip, context);
    }

    /// An attempt failed: the wait before the next, if there is to be one.
    fn failed(
        &self,
        trip: &mut Self::Trip,
        context: &Arc<Call>,
        class: &Class,
        paced: Option<PausedByLimiter>,
        unanswered: bool,
    ) -> Option<Duration>;

    /// The request of the next attempt.
    fn again(&self, trip: &mut Self::Trip, context: &Arc<Call>) -> Request<RequestBody>;

    /// Nothing follows: the failure goes up. Other words for its body, where there are any.
    fn gave_up(
        &self,
        trip: &mut Self::Trip,
        class: &Class,
        head: &mut Parts,
        read: &[u8],
    ) -> Option<Bytes> {
        let _ = (trip, class, head, read);
        None
    }

    /// A timer's refusal goes up.
    fn refused(&self, refusal: &Rejection) {
        let _ = refusal;
    }

    /// What is kept for the rest of an answer; `timeable` when it may be ended with words of ours.
    fn tail(&self, trip: &mut Self::Trip, context: &Arc<Call>, timeable: bool) -> Self::Tail {
        let _ = (trip, context, timeable);
        Self::Tail::default()
    }

    /// Whether the rest may be ended before its time.
    fn is_timed(&self, tail: &Self::Tail) -> bool {
        let _ = tail;
        false
    }

    /// Another frame went by.
    fn heard(&self, tail: &mut Self::Tail) {
        let _ = tail;
    }

    /// Ready with last words when the rest has been silent, or gone on, for too long.
    fn poll_silent(
        &self,
        tail: &mut Self::Tail,
        watch: &BodyTracker,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Bytes>> {
        let _ = (tail, watch, cx);
        Poll::Pending
    }

    /// The rest broke off.
    fn broken(&self, class: Class) {
        let _ = class;
    }
}

impl CallPolicy for () {
    type Trip = ();
    type Tail = ();

    fn begin(&self, _: &mut CallStart<'_>) {}

    fn landed(&self, (): &mut (), _: &Arc<Call>, _: &mut Parts, _: bool) -> Option<Class> {
        None
    }

    fn failed(
        &self,
        (): &mut (),
        _: &Arc<Call>,
        _: &Class,
        _: Option<PausedByLimiter>,
        _: bool,
    ) -> Option<Duration> {
        None
    }

    fn again(&self, (): &mut (), _: &Arc<Call>) -> Request<RequestBody> {
        Request::default()
    }
}

/// What a call carries for two who may send it again.
pub struct Trips<A, B> {
    outer: A,
    inner: B,
    /// The outer one sends it next.
    anew: bool,
}

impl<A: CallPolicy, B: CallPolicy> CallPolicy for (A, B) {
    type Trip = Trips<A::Trip, B::Trip>;
    type Tail = (A::Tail, B::Tail);

    #[inline]
    fn begin(&self, launch: &mut CallStart<'_>) -> Self::Trip {
        let outer = self.0.begin(launch);
        let inner = self.1.begin(launch);
        Trips {
            outer,
            inner,
            anew: false,
        }
    }

    fn too_late(&self, trip: &mut Self::Trip, context: &Arc<Call>) -> Option<Rejection> {
        let outer = self.0.too_late(&mut trip.outer, context);
        outer.or_else(|| self.1.too_late(&mut trip.inner, context))
    }

    fn poll_late(
        &self,
        trip: &mut Self::Trip,
        context: &Arc<Call>,
        received: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Rejection> {
        match self.1.poll_late(&mut trip.inner, context, received, cx) {
            Poll::Pending => self.0.poll_late(&mut trip.outer, context, received, cx),
            ready => ready,
        }
    }

    fn reads(&self, class: &Class) -> bool {
        self.0.reads(class) || self.1.reads(class)
    }

    #[inline]
    fn minds_refusals(&self) -> bool {
        self.0.minds_refusals() || self.1.minds_refusals()
    }

    #[inline]
    fn landed(
        &self,
        trip: &mut Self::Trip,
        context: &Arc<Call>,
        head: &mut Parts,
        declined: bool,
    ) -> Option<Class> {
        let inner = self.1.landed(&mut trip.inner, context, head, declined);
        inner.or_else(|| self.0.landed(&mut trip.outer, context, head, declined))
    }

    #[inline]
    fn finish(&self, trip: &mut Self::Trip, context: &Arc<Call>) {
        self.1.finish(&mut trip.inner, context);
        self.0.finish(&mut trip.outer, context);
    }

    fn failed(
        &self,
        trip: &mut Self::Trip,
        context: &Arc<Call>,
        class: &Class,
        paced: Option<PausedByLimiter>,
        unanswered: bool,
    ) -> Option<Duration> {
        let inner = &mut trip.inner;
        if let Some(wait) = self.1.failed(inner, context, class, paced, unanswered) {
            return Some(wait);
        }
        self.1.finish(&mut trip.inner, context);
        let outer = &mut trip.outer;
        let wait = self.0.failed(outer, context, class, paced, unanswered)?;
        trip.anew = true;
        Some(wait)
    }

    fn again(&self, trip: &mut Self::Trip, context: &Arc<Call>) -> Request<RequestBody> {
        if !std::mem::take(&mut trip.anew) {
            return self.1.again(&mut trip.inner, context);
        }
        let mut request = self.0.again(&mut trip.outer, context);
        trip.inner = self.1.begin(&mut CallStart {
            request: &mut request,
            context,
            kept: None,
        });
        request
    }

    fn gave_up(
        &self,
        trip: &mut Self::Trip,
        class: &Class,
        head: &mut Parts,
        read: &[u8],
    ) -> Option<Bytes> {
        let inner = self.1.gave_up(&mut trip.inner, class, head, read);
        let outer = self.0.gave_up(&mut trip.outer, class, head, read);
        outer.or(inner)
    }

    fn refused(&self, refusal: &Rejection) {
        self.1.refused(refusal);
        self.0.refused(refusal);
    }

    fn tail(&self, trip: &mut Self::Trip, context: &Arc<Call>, timeable: bool) -> Self::Tail {
        (
            self.0.tail(&mut trip.outer, context, timeable),
            self.1.tail(&mut trip.inner, context, timeable),
        )
    }

    fn is_timed(&self, (outer, inner): &Self::Tail) -> bool {
        self.0.is_timed(outer) || self.1.is_timed(inner)
    }

    fn heard(&self, (outer, inner): &mut Self::Tail) {
        self.0.heard(outer);
        self.1.heard(inner);
    }

    fn poll_silent(
        &self,
        (outer, inner): &mut Self::Tail,
        watch: &BodyTracker,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Bytes>> {
        match self.1.poll_silent(inner, watch, cx) {
            Poll::Pending => self.0.poll_silent(outer, watch, cx),
            ready => ready,
        }
    }

    fn broken(&self, class: Class) {
        self.1.broken(class);
        self.0.broken(class);
    }
}
