//! The future of a limiter layer: transitions only.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_claude_core::{
    CallContext, Class, Classify, ClassifyResponse, ErrorBody, EstimateCost, Observed, Refusal,
    RequestBody, ResponseBody, Scope, Watch,
    event::{Event, emit},
};
use tower_service::Service;

use super::{
    Gate, GateBody, Settle,
    head::{Admission, KnownScope},
};
use crate::{Ask, Limiter, Reservation};

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
        scope: KnownScope,
        #[pin]
        state: State<S, S::Future, B, L::Acquire>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, B: Body, A> {
        // Admission and readiness in one state: the request is moved once, into the call.
        Before { #[pin] acquire: Option<A>, queued: bool, context: Option<Arc<CallContext>>, admission: Option<Admission>, request: Option<Request<RequestBody>>, service: S },
        Call { #[pin] future: F, admission: Option<Admission> },
        // Boxed: only error responses come here, and the state would double in size.
        ErrorBody { failure: Option<Box<Failure<B>>> },
        Done,
    }
}

/// An error response whose body must be read to tell what it means.
struct Failure<B: Body> {
    head: Parts,
    body: ErrorBody<B>,
    admission: Admission,
    at: Option<Instant>,
}

impl<S, B, L, E, C> GateFuture<S, B, L, E, C>
where
    S: Service<Request<RequestBody>>,
    B: Body,
    L: Limiter,
    E: EstimateCost,
{
    pub(super) fn new(gate: Arc<Gate<L, E, C>>, service: S, request: Request<RequestBody>) -> Self {
        let (mut head, body) = request.into_parts();
        let context = head.extensions.get::<Arc<CallContext>>().cloned();
        // Reserved by the same limiter further out: not reserved again. Two scopes are two limits, but
        // a gate that reads headers corrects whatever was reserved.
        if let Some(context) = &context
            && let Some(handle) = context.reservation_of(gate.limiter.id())
            && (gate.reads_headers || handle.scope() == Some(&gate.scope(&head, &body)))
        {
            let scope = match handle.scope() {
                Some(_) => KnownScope::ByLedger,
                None => KnownScope::Here(gate.scope(&head, &body)),
            };
            let state = State::Before {
                acquire: None,
                queued: false,
                context: None,
                admission: Some(Admission::Joined(handle)),
                request: Some(Request::from_parts(head, body)),
                service,
            };
            return Self { gate, scope, state };
        }
        let context = context
            .unwrap_or_else(|| CallContext::get_or_insert(&mut head.extensions, Instant::now()));
        let scope = gate.scope(&head, &body);
        let mut ask = Ask::new(scope.clone(), gate.estimate.estimate(&head, &body))
            .with_context(&context)
            .with_max_wait(Some(gate.max_wait));
        if let Some(names) = &gate.names {
            names.apply(&head, &mut ask);
        }
        let state = State::Before {
            acquire: Some(gate.limiter.acquire(ask)),
            queued: false,
            context: Some(context),
            admission: None,
            request: Some(Request::from_parts(head, body)),
            service,
        };
        Self {
            gate,
            scope: KnownScope::Here(scope),
            state,
        }
    }
}

impl<S, B, L, E, C> Future for GateFuture<S, B, L, E, C>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: Body<Data = Bytes> + Unpin,
    L: Limiter,
    C: Classify<S::Error> + Clone,
{
    type Output = Result<Response<GateBody<B, C>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (gate, scope, mut state) = (&**this.gate, &*this.scope, this.state);
        loop {
            match state.as_mut().project() {
                StateProjection::Before {
                    mut acquire,
                    queued,
                    context,
                    admission,
                    request,
                    service,
                } => {
                    if let Some(asking) = acquire.as_mut().as_pin_mut() {
                        let asked = asking.poll(cx);
                        if asked.is_pending() && !*queued {
                            *queued = true;
                            gate.queued(acquire.as_ref().as_pin_ref(), scope);
                        }
                        match ready!(asked) {
                            Ok(reservation) => {
                                acquire.set(None);
                                *admission =
                                    Some(gate.admitted(reservation, context.take(), scope));
                            }
                            Err(refusal) => {
                                state.set(State::Done);
                                return Poll::Ready(Ok(gate.refuse(scope.here(), refusal)));
                            }
                        }
                    }
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        // Dropped unsent, the reservation gives everything back.
                        state.set(State::Done);
                        return Poll::Ready(Err(error));
                    }
                    let mut admission = admission.take();
                    if let Some(Admission::Own(reservation)) = &mut admission {
                        reservation.sent();
                    }
                    let request = request.take().expect("polled after completion");
                    let future = service.call(request);
                    state.set(State::Call { future, admission });
                }
                StateProjection::Call { future, admission } => {
                    let result = ready!(future.poll(cx));
                    let admission = admission.take().expect("polled after completion");
                    match result {
                        Err(error) => {
                            admission.settle(&gate.classify.error(&error));
                            state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                        Ok(response) => {
                            let (head, body) = response.into_parts();
                            let timed = gate.reads_headers || !head.status.is_success();
                            let at = timed.then(Instant::now);
                            match gate.class_of(&head) {
                                Some(class) => {
                                    state.set(State::Done);
                                    return Poll::Ready(Ok(
                                        gate.answer(head, body, class, scope, admission, at)
                                    ));
                                }
                                None => {
                                    let failure = Some(Box::new(Failure {
                                        head,
                                        body: ErrorBody::new(body),
                                        admission,
                                        at,
                                    }));
                                    state.set(State::ErrorBody { failure });
                                }
                            }
                        }
                    }
                }
                StateProjection::ErrorBody { failure } => {
                    let reading = failure.as_mut().expect("polled after completion");
                    ready!(reading.body.poll_read(cx));
                    let failure = *failure.take().expect("just there");
                    state.set(State::Done);
                    return Poll::Ready(Ok(gate.failed(failure, scope)));
                }
                StateProjection::Done => panic!("polled after completion"),
            }
        }
    }
}

impl<L, E, C: Clone> Gate<L, E, C> {
    /// Leaves the reservation where inner layers find it.
    fn admitted(
        &self,
        mut reservation: Reservation,
        context: Option<Arc<CallContext>>,
        scope: &KnownScope,
    ) -> Admission {
        if let Some(context) = context {
            reservation.leave_in(context);
        }
        let wait = reservation.waited();
        let admission = Admission::Own(reservation);
        emit(
            &self.observers,
            &Event::Admitted {
                layer: self.layer,
                scope: scope.of(&admission),
                wait,
            },
        );
        admission
    }

    fn refuse<B: Body<Data = Bytes>>(
        &self,
        scope: Option<&Scope>,
        refusal: Refusal,
    ) -> Response<GateBody<B, C>>
    where
        C: ClassifyResponse,
    {
        let refusal = refusal.in_name_of(self.layer);
        emit(
            &self.observers,
            &Event::Refused {
                layer: self.layer,
                scope,
                reason: refusal.reason,
                class: refusal.class(),
            },
        );
        refusal.into_response()
    }

    /// What the head means; by an inner layer, by itself, or `None` when the body must tell.
    fn class_of(&self, head: &Parts) -> Option<Class>
    where
        C: ClassifyResponse,
    {
        let inner = head.extensions.get::<Class>().copied();
        inner
            .filter(|class| class.local || !self.own_classifier)
            .or_else(|| self.classify.head(head.status, &head.headers))
    }

    /// The response of an attempt whose class is known from its head.
    fn answer<B: Body<Data = Bytes>>(
        &self,
        mut head: Parts,
        body: B,
        class: Class,
        scope: &KnownScope,
        admission: Admission,
        at: Option<Instant>,
    ) -> Response<GateBody<B, C>>
    where
        C: ClassifyResponse,
    {
        self.on_head(&mut head, class, scope.of(&admission), &admission, at);
        let body = match admission {
            Admission::Own(reservation) if class.is_success() => Observed::new(
                body,
                Watch::of(&head.headers),
                Settle::new(reservation, self.classify.clone()),
            ),
            admission => {
                admission.settle(&class);
                Observed::off(body)
            }
        };
        Response::from_parts(head, ResponseBody::inner(body))
    }

    /// The response of an attempt whose body told what it means; classified once, for all layers.
    fn failed<B: Body<Data = Bytes> + Unpin>(
        &self,
        failure: Failure<B>,
        scope: &KnownScope,
    ) -> Response<GateBody<B, C>>
    where
        C: ClassifyResponse,
    {
        let Failure {
            mut head,
            body,
            admission,
            at,
        } = failure;
        let class = self
            .classify
            .body(head.status, &head.headers, &body.bytes());
        self.on_head(&mut head, class, scope.of(&admission), &admission, at);
        admission.settle(&class);
        head.extensions.insert(class);
        Response::from_parts(head, body.into_body(Observed::off))
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
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}
