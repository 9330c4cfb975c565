//! The states of a call.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_claude_core::{
    BodyTracker, Class, Classify, ClassifyResponse, ErrorBody, Kind, Observed, RequestBody,
    ResponseBody, breaker::Verdicts,
};
use tower_service::Service;

use crate::{
    Watcher,
    call::{BreakerCall, Tickets, Unsent},
};

/// What the caller gets.
type Answer<R, C> = Response<ResponseBody<Observed<R, Watcher<C>>>>;

pin_project! {
    /// Future of [`CircuitBreaker`](crate::CircuitBreaker).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, R, C>
    where
        S: Service<Request<RequestBody>>,
        R: HttpBody,
    {
        call: BreakerCall<C>,
        #[pin]
        state: State<S, S::Future, R, S::Error>,
        // After the state, so that a call that is dropped ends before its permits do.
        tickets: Tickets,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, R, E>
    where
        R: HttpBody,
    {
        /// Until the inner service is ready and the circuits let the call through.
        // Boxed: few calls wait here, and the request would double the size of all.
        Waiting { waiting: Box<Waiting<S>> },
        /// Until the response head. `unsent` while a circuit waits to be told that the request has left.
        Calling { #[pin] future: F, unsent: bool },
        // Boxed: only error responses come here, and the state would double in size.
        Reading { answer: Option<Box<Response<ErrorBody<R>>>> },
        /// It is not sent.
        Unsent { why: Option<Unsent<E>> },
        Done,
    }
}

/// Who waits, and with what.
struct Waiting<S> {
    service: S,
    request: Request<RequestBody>,
}

impl<S, R, C> ResponseFuture<S, R, C>
where
    S: Service<Request<RequestBody>>,
    R: HttpBody,
{
    pub(crate) fn waiting(call: BreakerCall<C>, service: S, request: Request<RequestBody>) -> Self {
        let waiting = Box::new(Waiting { service, request });
        Self {
            call,
            state: State::Waiting { waiting },
            tickets: Tickets::default(),
        }
    }

    pub(crate) fn calling(call: BreakerCall<C>, future: S::Future, tickets: Tickets) -> Self {
        Self {
            call,
            state: State::Calling {
                future,
                unsent: tickets.are_timed(),
            },
            tickets,
        }
    }

    pub(crate) fn unsent(call: BreakerCall<C>, why: Unsent<S::Error>) -> Self {
        Self {
            call,
            state: State::Unsent { why: Some(why) },
            tickets: Tickets::default(),
        }
    }
}

impl<S, R, C> Future for ResponseFuture<S, R, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: HttpBody<Data = Bytes> + Unpin,
    C: Classify<S::Error> + Clone,
{
    type Output = Result<Answer<R, C>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (call, tickets, mut state) = (this.call, this.tickets, this.state);
        loop {
            match state.as_mut().project() {
                StateProjection::Waiting { waiting } => {
                    let Waiting { service, request } = &mut **waiting;
                    match ready!(call.admit(service, request, cx)) {
                        Ok(admitted) => {
                            *tickets = admitted;
                            let future = service.call(std::mem::take(request));
                            let unsent = tickets.are_timed();
                            state.set(State::Calling { future, unsent });
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
                StateProjection::Calling { future, unsent } => {
                    if *unsent && let Some(refusal) = tickets.lost() {
                        state.set(State::Done);
                        return Poll::Ready(Ok(refusal.into_response()));
                    }
                    let response = future.poll(cx);
                    if *unsent && !tickets.are_held_back() {
                        *unsent = false;
                        tickets.sent();
                    }
                    let response = match ready!(response) {
                        Ok(response) => response,
                        Err(error) => {
                            state.set(State::Done);
                            tickets.settle(call, &call.classifier.error(&error));
                            return Poll::Ready(Err(error));
                        }
                    };
                    match call.class_of(&response) {
                        Some(class) => {
                            state.set(State::Done);
                            return Poll::Ready(Ok(handed_on(call, tickets, response, &class)));
                        }
                        None => state.set(State::Reading {
                            answer: Some(Box::new(response.map(ErrorBody::new))),
                        }),
                    }
                }
                StateProjection::Reading { answer } => {
                    let reading = answer.as_mut().expect("polled after completion");
                    ready!(reading.body_mut().poll_read(cx));
                    let mut answer = *answer.take().expect("just there");
                    state.set(State::Done);
                    let (status, headers) = (answer.status(), answer.headers());
                    let bytes = answer.body().bytes();
                    let class = call.classifier.body(status, headers, &bytes);
                    drop(bytes);
                    tickets.settle(call, &class);
                    answer.extensions_mut().insert(class);
                    return Poll::Ready(Ok(answer.map(|body| body.into_body(Observed::off))));
                }
                StateProjection::Done => panic!("polled after completion"),
            }
        }
    }
}

/// An answer whose class is known by its head. That of a success is watched on.
fn handed_on<R, C>(
    call: &BreakerCall<C>,
    tickets: &mut Tickets,
    response: Response<R>,
    class: &Class,
) -> Answer<R, C>
where
    R: HttpBody<Data = Bytes>,
    C: ClassifyResponse + Clone,
{
    let watched = if class.kind == Kind::Success && !class.local {
        tickets.model.take()
    } else {
        None
    };
    tickets.settle(call, class);
    let Some(ticket) = watched else {
        return response.map(|body| ResponseBody::inner(Observed::off(body)));
    };
    let watch = BodyTracker::of(response.headers()).without_usage();
    let mut watcher = Watcher::new(ticket, call.classifier.clone());
    if watch.stream().is_none() && !watch.is_message() {
        // There is no telling where the content of this begins.
        watcher.succeed();
    }
    let watcher = Observed::still(response.body(), &watch, watcher);
    response.map(|body| ResponseBody::inner(Observed::resumed(body, watch, watcher)))
}

impl Tickets {
    /// Ends what is not watched on.
    fn settle<C>(&mut self, call: &BreakerCall<C>, class: &Class) {
        let verdicts = Verdicts::of(class);
        if let Some(mut ticket) = self.model.take() {
            ticket.settle(verdicts.availability, class.kind);
        }
        self.settle_credential(call, verdicts.credential, class);
    }
}

impl<S, R, C> fmt::Debug for ResponseFuture<S, R, C>
where
    S: Service<Request<RequestBody>>,
    R: HttpBody,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
