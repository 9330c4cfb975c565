//! The future of a limiter layer: transitions only.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_claude_core::{Classify, ErrorBody, EstimateCost, Observed, RequestBody, ResponseBody};
use tower_service::Service;

use super::{
    Gate, GateBody,
    answer::Failure,
    entry::{Entry, Passage, Unsent},
};
use crate::Limiter;

pin_project! {
    /// Future of [`Gated`](super::Gated).
    #[must_use = "futures do nothing unless polled"]
    pub struct GateFuture<S, B, L, E, C>
    where
        S: Service<Request<RequestBody>>,
        B: Body,
        L: Limiter,
    {
        gate: Arc<Gate<L, E, C>>,
        #[pin]
        state: State<S, S::Future, B, L::Acquire, S::Error>,
        // After the state, so that a call that is dropped ends before its reservation does.
        passage: Passage,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, B: Body, A, E> {
        // Boxed: few wait here, and the request would double the size of all.
        Before { before: Box<Before<S, A>> },
        Call { #[pin] future: F },
        // Boxed: only error responses come here, and the state would double in size.
        ErrorBody { failure: Option<Box<Failure<B>>> },
        /// It is not sent.
        Unsent { why: Option<Unsent<E>> },
        Done,
    }
}

/// Who waits for the limiter or for the inner service, and with what.
struct Before<S, A> {
    service: S,
    request: Request<RequestBody>,
    entry: Entry<A>,
}

impl<S, B, L, E, C> GateFuture<S, B, L, E, C>
where
    S: Service<Request<RequestBody>>,
    B: Body,
    L: Limiter,
{
    pub(super) fn waiting(
        gate: Arc<Gate<L, E, C>>,
        service: S,
        request: Request<RequestBody>,
        entry: Entry<L::Acquire>,
    ) -> Self {
        let before = Box::new(Before {
            service,
            request,
            entry,
        });
        Self {
            gate,
            state: State::Before { before },
            passage: Passage::default(),
        }
    }

    pub(super) const fn calling(
        gate: Arc<Gate<L, E, C>>,
        future: S::Future,
        passage: Passage,
    ) -> Self {
        Self {
            gate,
            state: State::Call { future },
            passage,
        }
    }

    pub(super) fn unsent(gate: Arc<Gate<L, E, C>>, why: Unsent<S::Error>) -> Self {
        Self {
            gate,
            state: State::Unsent { why: Some(why) },
            passage: Passage::default(),
        }
    }
}

impl<S, B, L, E, C> Future for GateFuture<S, B, L, E, C>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: Body<Data = Bytes> + Unpin,
    L: Limiter,
    E: EstimateCost,
    C: Classify<S::Error> + Clone,
{
    type Output = Result<Response<GateBody<B, C>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (gate, passage, mut state) = (&**this.gate, this.passage, this.state);
        loop {
            match state.as_mut().project() {
                StateProjection::Before { before } => {
                    let Before {
                        service,
                        request,
                        entry,
                    } = &mut **before;
                    match ready!(gate.enter(entry, service, request, cx)) {
                        Ok(()) => {
                            *passage = std::mem::take(&mut entry.passage);
                            let future = service.call(std::mem::take(request));
                            state.set(State::Call { future });
                        }
                        Err(why) => state.set(State::Unsent { why: Some(why) }),
                    }
                }
                StateProjection::Unsent { why } => {
                    let why = why.take().expect("polled after completion");
                    state.set(State::Done);
                    return Poll::Ready(match why {
                        Unsent::Rejected(refusal) => Ok(refusal.into_response()),
                        Unsent::Unready(error) => Err(error),
                    });
                }
                StateProjection::Call { future } => {
                    let response = match ready!(future.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => {
                            let admission = passage.admission.take();
                            let admission = admission.expect("polled after completion");
                            admission.settle(&gate.classify.error(&error));
                            state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                    };
                    let admission = passage.admission.take();
                    let admission = admission.expect("polled after completion");
                    let timed = gate.reads_headers || !response.status().is_success();
                    let at = timed.then(Instant::now);
                    match gate.class_of(&response) {
                        Some(class) => {
                            state.set(State::Done);
                            let (mut head, body) = response.into_parts();
                            gate.on_head(
                                &head.headers,
                                &mut head.extensions,
                                class,
                                &passage.scope,
                                &admission,
                                at,
                            );
                            let response = Response::from_parts(head, body);
                            let (watch, settle) =
                                gate.watch(&response, class, admission, passage.feedback.take());
                            return Poll::Ready(Ok(response.map(|body| {
                                ResponseBody::inner(Observed::resumed(body, watch, settle))
                            })));
                        }
                        None => {
                            let failure = Some(Box::new(Failure {
                                response: response.map(ErrorBody::new),
                                admission,
                                at,
                            }));
                            state.set(State::ErrorBody { failure });
                        }
                    }
                }
                StateProjection::ErrorBody { failure } => {
                    let reading = failure.as_mut().expect("polled after completion");
                    ready!(reading.response.body_mut().poll_read(cx));
                    let failure = *failure.take().expect("just there");
                    state.set(State::Done);
                    return Poll::Ready(Ok(gate.failed(failure, &passage.scope)));
                }
                StateProjection::Done => panic!("polled after completion"),
            }
        }
    }
}

impl<S, B, L, E, C> std::fmt::Debug for GateFuture<S, B, L, E, C>
where
    S: Service<Request<RequestBody>>,
    B: Body,
    L: Limiter,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GateFuture")
            .field("scope", &self.passage.scope)
            .finish_non_exhaustive()
    }
}
