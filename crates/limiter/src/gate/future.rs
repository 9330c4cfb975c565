//! The future of a limiter layer: transitions only.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, request, response::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_claude_core::{
    CallContext, Class, Classify, ClassifyResponse, ErrorBody, EstimateCost, Observed, Refusal,
    RequestBody, ResponseBody, Scope, Watch,
    event::{Event, emit},
};
use tower_service::Service;

use super::{Gate, GateBody, Settle, head::Admission};
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
        service: S,
        // Kept only where the ledger of the reservation does not tell.
        scope: Option<Scope>,
        #[pin]
        state: State<S::Future, B, L::Acquire>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, B: Body, A> {
        // Admission and readiness in one state: the request is moved once, into the call.
        Before { request: Option<(request::Parts, RequestBody)>, context: Arc<CallContext>, #[pin] acquire: Option<A>, admission: Option<Admission> },
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
{
    pub(super) fn new(
        gate: Arc<Gate<L, E, C>>,
        service: S,
        mut request: Request<RequestBody>,
    ) -> Self {
        let context = match request.extensions().get::<Arc<CallContext>>() {
            Some(context) => context.clone(),
            None => CallContext::get_or_insert(request.extensions_mut(), Instant::now()),
        };
        Self {
            gate,
            service,
            scope: None,
            state: State::Before {
                request: Some(request.into_parts()),
                context,
                acquire: None,
                admission: None,
            },
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
        let (gate, scope, mut state) = (&**this.gate, this.scope, this.state);
        loop {
            match state.as_mut().project() {
                StateProjection::Before {
                    request,
                    context,
                    mut acquire,
                    admission,
                } => {
                    if admission.is_none() {
                        let (head, body) = request.as_ref().expect("polled after completion");
                        if acquire.is_none() {
                            match gate.arrive(head, body, context, scope) {
                                Arrival::Joined(joined) => *admission = Some(joined),
                                Arrival::Asks(ask) => acquire.set(Some(gate.limiter.acquire(ask))),
                            }
                        }
                        if let Some(asking) = acquire.as_mut().as_pin_mut() {
                            match ready!(asking.poll(cx)) {
                                Ok(reservation) => {
                                    acquire.set(None);
                                    if reservation.scope().is_none() {
                                        *scope = Some(gate.scope(head, body));
                                    }
                                    let admitted = gate.admitted(reservation, context, scope);
                                    *admission = Some(admitted);
                                }
                                Err(refusal) => {
                                    let scope = gate.scope(head, body);
                                    state.set(State::Done);
                                    return Poll::Ready(Ok(gate.refuse(&scope, refusal)));
                                }
                            }
                        }
                    }
                    if let Err(error) = ready!(this.service.poll_ready(cx)) {
                        // Dropped unsent, the reservation gives everything back.
                        state.set(State::Done);
                        return Poll::Ready(Err(error));
                    }
                    let mut admission = admission.take();
                    if let Some(Admission::Own(reservation)) = &mut admission {
                        reservation.sent();
                    }
                    let (head, body) = request.take().expect("polled after completion");
                    state.set(State::Call {
                        future: this.service.call(Request::from_parts(head, body)),
                        admission,
                    });
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

/// What a request is told when it comes.
enum Arrival {
    /// The same limiter has admitted it further out.
    Joined(Admission),
    /// To ask.
    Asks(Ask),
}

impl<L: Limiter, E: EstimateCost, C> Gate<L, E, C> {
    /// What the same limiter has reserved further out is not reserved again. Two scopes are two limits,
    /// but a gate that reads headers corrects whatever was reserved.
    fn arrive(
        &self,
        head: &request::Parts,
        body: &RequestBody,
        context: &CallContext,
        scope: &mut Option<Scope>,
    ) -> Arrival {
        let mut own = None;
        if let Some(handle) = context.reservation_of(self.limiter.id()) {
            if !self.reads_headers || handle.scope().is_none() {
                own = Some(self.scope(head, body));
            }
            if self.reads_headers || handle.scope() == own.as_ref() {
                if handle.scope().is_none() {
                    *scope = own;
                }
                return Arrival::Joined(Admission::Joined(handle));
            }
        }
        let own = own.unwrap_or_else(|| self.scope(head, body));
        let ask = Ask::new(own, self.estimate.estimate(head, body))
            .with_context(context)
            .with_max_wait(Some(self.max_wait));
        Arrival::Asks(ask)
    }
}

impl<L, E, C: Clone> Gate<L, E, C> {
    /// Leaves the reservation where inner layers find it.
    fn admitted(
        &self,
        mut reservation: Reservation,
        context: &Arc<CallContext>,
        scope: &Option<Scope>,
    ) -> Admission {
        reservation.leave_in(context.clone());
        let wait = reservation.waited();
        let admission = Admission::Own(reservation);
        emit(
            &self.observers,
            &Event::Admitted {
                layer: self.layer,
                scope: admission.scope(scope),
                wait,
            },
        );
        admission
    }

    fn refuse<B: Body<Data = Bytes>>(
        &self,
        scope: &Scope,
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
                scope: Some(scope),
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
        scope: &Option<Scope>,
        admission: Admission,
        at: Option<Instant>,
    ) -> Response<GateBody<B, C>>
    where
        C: ClassifyResponse,
    {
        self.on_head(&mut head, class, admission.scope(scope), &admission, at);
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
        scope: &Option<Scope>,
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
        self.on_head(&mut head, class, admission.scope(scope), &admission, at);
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
