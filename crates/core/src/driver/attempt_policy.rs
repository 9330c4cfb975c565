//! Who lets an attempt through.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, response::Parts};
use tokio::time::Instant;
use tower_claude_wire::StreamState;

use crate::{Call, Class, Outcome, Rejection, RequestBody};

/// Lets attempts through or not, and learns what becomes of them.
pub trait AttemptPolicy {
    /// What an attempt holds until it is over. Dropped, the attempt was given up. By default, nothing.
    type Held: Default;

    /// Whether it asks what an answer used.
    const READS_USAGE: bool = false;

    /// Lets the attempt through; ready at once in the ordinary case, else asked again until it is.
    fn poll_admit(
        &self,
        held: &mut Self::Held,
        request: &mut Request<RequestBody>,
        context: &Arc<Call>,
        now: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>>;

    /// While something further in keeps an admitted attempt waiting: why it must not be sent after all.
    fn recheck(&self, held: &mut Self::Held) -> Option<Rejection> {
        let _ = held;
        None
    }

    /// The request leaves now.
    fn sent(&self, held: &mut Self::Held) {
        let _ = held;
    }

    /// What the attempt means. A success goes on until [`end`](Self::end); all else is over. `head` is that of the
    /// answer, where there is one, and `at` when it came, once somebody has looked at the clock.
    fn judged(
        &self,
        held: &mut Self::Held,
        class: &Class,
        head: Option<&mut Parts>,
        at: &mut Option<Instant>,
    );

    /// The body of a success is neither JSON nor a stream: nothing will be seen of it but its end.
    fn opaque(&self, held: &mut Self::Held) {
        let _ = held;
    }

    /// More of a stream went by.
    fn progress(&self, held: &mut Self::Held, stream: &StreamState) {
        let _ = (held, stream);
    }

    /// How a success ended.
    fn end(&self, held: &mut Self::Held, outcome: &Outcome, at: &mut Option<Instant>);

    /// A timer of ours ends the attempt, which is about to be dropped.
    fn timed_out(&self, held: &mut Self::Held) {
        let _ = held;
    }
}

impl AttemptPolicy for () {
    type Held = ();

    fn poll_admit(
        &self,
        (): &mut (),
        _: &mut Request<RequestBody>,
        _: &Arc<Call>,
        _: &mut Option<Instant>,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn judged(&self, (): &mut (), _: &Class, _: Option<&mut Parts>, _: &mut Option<Instant>) {}

    fn end(&self, (): &mut (), _: &Outcome, _: &mut Option<Instant>) {}
}

/// What an attempt holds of two guards.
#[derive(Default)]
pub struct Both<A, B> {
    outer: A,
    inner: B,
    /// The outer one has let it through.
    past: bool,
}

impl<A: AttemptPolicy, B: AttemptPolicy> AttemptPolicy for (A, B) {
    type Held = Both<A::Held, B::Held>;

    const READS_USAGE: bool = A::READS_USAGE || B::READS_USAGE;

    #[inline]
    fn poll_admit(
        &self,
        held: &mut Self::Held,
        request: &mut Request<RequestBody>,
        context: &Arc<Call>,
        now: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        if !held.past {
            if let Err(refusal) =
                ready!(
                    self.0
                        .poll_admit(&mut held.outer, request, context, now, cx)
                )
            {
                return Poll::Ready(Err(refusal));
            }
            held.past = true;
        } else if let Some(refusal) = self.0.recheck(&mut held.outer) {
            return Poll::Ready(Err(refusal));
        }
        self.1
            .poll_admit(&mut held.inner, request, context, now, cx)
    }

    fn recheck(&self, held: &mut Self::Held) -> Option<Rejection> {
        let outer = self.0.recheck(&mut held.outer);
        outer.or_else(|| self.1.recheck(&mut held.inner))
    }

    #[inline]
    fn sent(&self, held: &mut Self::Held) {
        self.0.sent(&mut held.outer);
        self.1.sent(&mut held.inner);
    }

    #[inline]
    fn judged(
        &self,
        held: &mut Self::Held,
        class: &Class,
        mut head: Option<&mut Parts>,
        at: &mut Option<Instant>,
    ) {
        self.1
            .judged(&mut held.inner, class, head.as_deref_mut(), at);
        self.0.judged(&mut held.outer, class, head, at);
    }

    fn opaque(&self, held: &mut Self::Held) {
        self.1.opaque(&mut held.inner);
        self.0.opaque(&mut held.outer);
    }

    #[inline]
    fn progress(&self, held: &mut Self::Held, stream: &StreamState) {
        self.1.progress(&mut held.inner, stream);
        self.0.progress(&mut held.outer, stream);
    }

    #[inline]
    fn end(&self, held: &mut Self::Held, outcome: &Outcome, at: &mut Option<Instant>) {
        self.1.end(&mut held.inner, outcome, at);
        self.0.end(&mut held.outer, outcome, at);
    }

    fn timed_out(&self, held: &mut Self::Held) {
        self.1.timed_out(&mut held.inner);
        self.0.timed_out(&mut held.outer);
    }
}
