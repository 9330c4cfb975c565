//! The states of a call.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_claude_core::{
    Class, Classify, ErrorBody, Hold, Kind, RequestBody, ResponseBody, Verdict,
};
use tower_service::Service;

use crate::call::{Answer, Failure, FallbackCall, Rest};
use crate::service::Shared;

pin_project! {
    /// Future of [`FallbackModel`](crate::FallbackModel).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, R, C>
    where
        S: Service<Request<RequestBody>>,
        R: HttpBody,
    {
        #[pin]
        state: State<S, S::Future, R, S::Error>,
        shared: Arc<Shared<S>>,
        call: FallbackCall<C>,
    }
}

// What few calls come to is boxed: the futures of all of them would be larger.
pin_project! {
    #[project = StateProjection]
    pub(crate) enum State<S, F, R, E>
    where
        R: HttpBody,
    {
        /// Until the inner service is ready.
        Waiting { service: S, request: Box<Request<RequestBody>> },
        /// Until the response head.
        Calling { #[pin] future: F },
        /// Until the error body is read. What it means, where the head has said so.
        Reading { answer: Option<Box<(Parts, ErrorBody<R>)>>, class: Option<Class> },
        /// Until the response is worth handing on.
        Holding { answer: Option<Box<(Parts, Hold<R>)>> },
        /// The inner service could not become ready for the first attempt.
        Unready { error: Option<E> },
        Done,
    }
}

impl<S, F, R: HttpBody, E> State<S, F, R, E> {
    pub(crate) fn waiting(service: S, request: Request<RequestBody>) -> Self {
        let request = Box::new(request);
        Self::Waiting { service, request }
    }
}

impl<S, R, C> ResponseFuture<S, R, C>
where
    S: Service<Request<RequestBody>>,
    R: HttpBody,
{
    pub(crate) const fn calling(
        shared: Arc<Shared<S>>,
        call: FallbackCall<C>,
        future: S::Future,
    ) -> Self {
        Self {
            state: State::Calling { future },
            shared,
            call,
        }
    }

    pub(crate) const fn new(
        shared: Arc<Shared<S>>,
        call: FallbackCall<C>,
        state: State<S, S::Future, R, S::Error>,
    ) -> Self {
        Self {
            state,
            shared,
            call,
        }
    }
}

impl<S, R, C> Future for ResponseFuture<S, R, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: HttpBody<Data = Bytes> + Unpin,
    C: Classify<S::Error> + Clone,
{
    type Output = Result<Answer<R>, S::Error>;

    /// What succeeds goes up from where it is found; what fails comes to the end of the loop.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let call = this.call;
        loop {
            let failure = match this.state.as_mut().project() {
                StateProjection::Waiting { service, request } => {
                    match ready!(service.poll_ready(cx)) {
                        Ok(()) => {
                            call.launch(request);
                            let future = service.call(std::mem::take(request));
                            this.state.set(State::Calling { future });
                            continue;
                        }
                        Err(error) => Failure::Error(call.classifier.error(&error), error),
                    }
                }
                StateProjection::Unready { error } => {
                    let error = error.take().expect("polled after completion");
                    Failure::Error(call.classifier.error(&error), error)
                }
                StateProjection::Calling { future } => match ready!(future.poll(cx)) {
                    Ok(response) if !call.may_fall_back() => {
                        this.state.set(State::Done);
                        return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                    }
                    Ok(response) => {
                        let class = call.class_of(&response);
                        let (head, body) = response.into_parts();
                        match class {
                            Some(class) if class.is_success() => {
                                if call.is_settled() {
                                    this.state.set(State::Done);
                                    return Poll::Ready(Ok(call.hand_on(head, body)));
                                }
                                let hold = Hold::new(body, call.watch(&head));
                                let answer = Some(Box::new((head, hold)));
                                this.state.set(State::Holding { answer });
                                continue;
                            }
                            Some(class) if !call.reads(&class) => {
                                Failure::Answer(class, head, Rest::Whole(body))
                            }
                            class => {
                                let answer = Some(Box::new((head, ErrorBody::new(body))));
                                this.state.set(State::Reading { answer, class });
                                continue;
                            }
                        }
                    }
                    Err(error) => Failure::Error(call.classifier.error(&error), error),
                },
                StateProjection::Reading { answer, class } => {
                    let (_, body) = &mut **answer.as_mut().expect("polled after completion");
                    ready!(body.poll_read(cx));
                    let (head, body) = *answer.take().expect("looked at before");
                    let class = class.unwrap_or_else(|| {
                        call.classifier
                            .body(head.status, &head.headers, &body.bytes())
                    });
                    Failure::Answer(class, head, Rest::Read(body))
                }
                StateProjection::Holding { answer } => {
                    let (_, hold) = &mut **answer.as_mut().expect("polled after completion");
                    let verdict =
                        ready!(hold.poll_verdict(cx, |error| call.classifier.stream_error(error)));
                    let class = match verdict {
                        Verdict::Failed(class) => Some(class),
                        _ if call.is_declined(hold) => Some(Class::new(Kind::ModelRefusal)),
                        _ => None,
                    };
                    let (head, hold) = *answer.take().expect("looked at before");
                    match class {
                        Some(class) => Failure::Answer(class, head, Rest::Held(hold)),
                        None => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(call.hand_on_held(head, hold)));
                        }
                    }
                }
                StateProjection::Done => panic!("polled after completion"),
            };
            let Some(next) = call.next(failure.class()) else {
                let output = failure.into_output(call);
                this.state.set(State::Done);
                return Poll::Ready(output);
            };
            // The failed response and its future go before the next request.
            drop(failure);
            this.state.set(State::Done);
            let service = this.shared.spare.get();
            this.state.set(State::waiting(service, next));
        }
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
