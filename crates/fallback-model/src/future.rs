//! The states of a call.

use std::{
    fmt,
    pin::Pin,
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

use crate::call::{Answer, Call, Failure, Judged, Rest};

pin_project! {
    /// Future of [`FallbackModel`](crate::FallbackModel).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, R, C>
    where
        S: Service<Request<RequestBody>>,
        R: HttpBody,
    {
        #[pin]
        state: State<S::Future, R>,
        service: S,
        call: Call<C>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, R>
    where
        R: HttpBody,
    {
        /// Until the inner service is ready.
        Waiting,
        /// Until the response head.
        Calling { #[pin] future: F },
        /// Until the error body is read. What it means, where the head has said so.
        Reading { answer: Option<(Parts, ErrorBody<R>)>, class: Option<Class> },
        /// Until the response is worth handing on.
        Holding { answer: Option<(Parts, Hold<R>)> },
        Done,
    }
}

impl<S, R, C> ResponseFuture<S, R, C>
where
    S: Service<Request<RequestBody>>,
    R: HttpBody,
{
    pub(crate) const fn new(service: S, call: Call<C>) -> Self {
        Self {
            state: State::Waiting,
            service,
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
                StateProjection::Waiting => match ready!(this.service.poll_ready(cx)) {
                    Ok(()) => {
                        let future = this.service.call(call.launch());
                        this.state.set(State::Calling { future });
                        continue;
                    }
                    Err(error) => Failure::Error(call.classifier.error(&error), error),
                },
                StateProjection::Calling { future } => match ready!(future.poll(cx)) {
                    Ok(response) if !call.may_fall_back() => {
                        this.state.set(State::Done);
                        return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                    }
                    Ok(response) => {
                        let (head, body) = response.into_parts();
                        let (judged, class) = match call.judge(&head) {
                            Judged::Success => {
                                let hold = Hold::new(body, call.watch(&head));
                                let answer = Some((head, hold));
                                this.state.set(State::Holding { answer });
                                continue;
                            }
                            Judged::Failed(class) => (!call.reads(&class), Some(class)),
                            Judged::Unread => (false, None),
                        };
                        match class {
                            Some(class) if judged => {
                                Failure::Answer(class, head, Rest::Whole(body))
                            }
                            class => {
                                let answer = Some((head, ErrorBody::new(body)));
                                this.state.set(State::Reading { answer, class });
                                continue;
                            }
                        }
                    }
                    Err(error) => Failure::Error(call.classifier.error(&error), error),
                },
                StateProjection::Reading { answer, class } => {
                    let (_, body) = answer.as_mut().expect("polled after completion");
                    ready!(body.poll_read(cx));
                    let (head, body) = answer.take().expect("looked at before");
                    let class = class.unwrap_or_else(|| {
                        call.classifier
                            .body(head.status, &head.headers, &body.bytes())
                    });
                    Failure::Answer(class, head, Rest::Read(body))
                }
                StateProjection::Holding { answer } => {
                    let (_, hold) = answer.as_mut().expect("polled after completion");
                    let verdict =
                        ready!(hold.poll_verdict(cx, |error| call.classifier.stream_error(error)));
                    let class = match verdict {
                        Verdict::Failed(class) => Some(class),
                        _ if call.is_declined(hold) => Some(Class::new(Kind::Refusal)),
                        _ => None,
                    };
                    let (head, hold) = answer.take().expect("looked at before");
                    match class {
                        Some(class) => Failure::Answer(class, head, Rest::Held(hold)),
                        None => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(call.hand_on(head, hold)));
                        }
                    }
                }
                StateProjection::Done => panic!("polled after completion"),
            };
            if !call.moves_on(failure.class()) {
                let output = failure.into_output(call);
                this.state.set(State::Done);
                return Poll::Ready(output);
            }
            // The failed response and its future go before the next request.
            drop(failure);
            this.state.set(State::Waiting);
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
