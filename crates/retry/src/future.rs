//! The states of a call.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_claude_core::{
    BodyTracker, Classify, ClassifyResponse, ErrorBody, Hold, RequestBody, ResponseBody, Verdict,
};
use tower_service::Service;

use crate::{
    Body,
    call::RetryCall,
    failure::{Answer, Failure, broken_off, failed, refuse},
    service::Shared,
    state::{State, StateProjection},
    timeouts::poll_timer,
};

pin_project! {
    /// Future of [`Retry`](crate::Retry).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, R, C>
    where
        S: Service<Request<RequestBody>>,
        R: HttpBody,
    {
        #[pin]
        state: State<S, S::Future, R, S::Error>,
        // Boxed: an instant answer needs none.
        timer: Option<Pin<Box<Sleep>>>,
        shared: Arc<Shared<S>>,
        call: RetryCall<C>,
    }
}

impl<S, R, C> ResponseFuture<S, R, C>
where
    S: Service<Request<RequestBody>>,
    R: HttpBody,
{
    pub(crate) const fn calling(
        shared: Arc<Shared<S>>,
        call: RetryCall<C>,
        future: S::Future,
    ) -> Self {
        Self {
            state: State::Calling { future },
            timer: None,
            shared,
            call,
        }
    }

    pub(crate) const fn new(
        shared: Arc<Shared<S>>,
        call: RetryCall<C>,
        state: State<S, S::Future, R, S::Error>,
    ) -> Self {
        Self {
            state,
            timer: None,
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
    type Output = Result<Answer<R, C>, S::Error>;

    /// What succeeds goes up from where it is found; what fails comes to the end of the loop.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let call = this.call;
        loop {
            let failure = match this.state.as_mut().project() {
                StateProjection::Over { output } => {
                    match output.take().expect("polled after completion") {
                        Err(error) => failed(call, error),
                        Ok(refusal) => {
                            over(this.state, call);
                            return Poll::Ready(Ok(refuse(call, *refusal)));
                        }
                    }
                }
                StateProjection::Waiting { service } => match service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => {
                        let future = service.call(call.launch());
                        this.state.set(State::Calling { future });
                        continue;
                    }
                    Poll::Ready(Err(error)) => failed(call, error),
                    // The service goes with the state: it may keep a place in a queue.
                    Poll::Pending => Failure::Late(ready!(call.poll_late(this.timer, None, cx))),
                },
                StateProjection::Calling { future } => match future.poll(cx) {
                    Poll::Ready(Ok(response)) if call.is_nested() => {
                        over(this.state, call);
                        let through = |body| ResponseBody::inner(Body::off(body));
                        return Poll::Ready(Ok(response.map(through)));
                    }
                    Poll::Ready(Ok(response)) => {
                        let class = call.class_of(&response);
                        let (head, body) = response.into_parts();
                        match class {
                            Some(class) if class.is_success() => {
                                let watch = BodyTracker::of(&head.headers).without_usage();
                                let mut hold = Hold::new(body, watch);
                                // An answer that is there is handed on without a stop in the state.
                                match hold
                                    .poll_verdict(cx, |error| call.classifier.stream_error(error))
                                {
                                    Poll::Ready(Verdict::Failed(class)) => {
                                        broken_off(class, head, hold)
                                    }
                                    Poll::Ready(_) => {
                                        let answer = handed_on(call, head, hold);
                                        over(this.state, call);
                                        return Poll::Ready(Ok(answer));
                                    }
                                    Poll::Pending => {
                                        let answer = Some(Box::new((head, hold)));
                                        this.state.set(State::Holding { answer });
                                        continue;
                                    }
                                }
                            }
                            Some(class) => {
                                let body = ResponseBody::inner(Body::off(body));
                                Failure::Answer(class, Response::from_parts(head, body))
                            }
                            None => {
                                let answer = Some(Box::new((head, ErrorBody::new(body))));
                                this.state.set(State::Reading { answer });
                                continue;
                            }
                        }
                    }
                    Poll::Ready(Err(error)) => failed(call, error),
                    Poll::Pending => {
                        let refusal = ready!(call.poll_late(this.timer, None, cx));
                        Failure::Late(refusal)
                    }
                },
                StateProjection::Reading { answer } => {
                    let (_, body) = &mut **answer.as_mut().expect("polled after completion");
                    if body.poll_read(cx).is_pending() {
                        // What came of it in time has to do.
                        ready!(call.poll_late(this.timer, Some(0), cx));
                    }
                    let (head, body) = *answer.take().expect("looked at before");
                    let class = call
                        .classifier
                        .body(head.status, &head.headers, &body.bytes());
                    let answer = Response::from_parts(head, body.into_body(Body::off));
                    Failure::Answer(class, answer)
                }
                StateProjection::Holding { answer } => {
                    let (_, hold) = &mut **answer.as_mut().expect("polled after completion");
                    let verdict =
                        hold.poll_verdict(cx, |error| call.classifier.stream_error(error));
                    match verdict {
                        Poll::Ready(verdict) => {
                            let (head, hold) = *answer.take().expect("looked at before");
                            if let Verdict::Failed(class) = verdict {
                                broken_off(class, head, hold)
                            } else {
                                let answer = handed_on(call, head, hold);
                                over(this.state, call);
                                return Poll::Ready(Ok(answer));
                            }
                        }
                        Poll::Pending => {
                            let received = Some(hold.length());
                            let refusal = ready!(call.poll_late(this.timer, received, cx));
                            Failure::Late(refusal)
                        }
                    }
                }
                StateProjection::Sleeping { until } => {
                    ready!(poll_timer(this.timer, *until, cx));
                    call.begin_next();
                    let service = this.shared.spare.get();
                    this.state.set(State::Waiting { service });
                    continue;
                }
                StateProjection::Done => panic!("polled after completion"),
            };
            let Some(delay) = failure.delay(call) else {
                let output = failure.into_output(call);
                over(this.state, call);
                return Poll::Ready(output);
            };
            // The failed response and its future go before the sleep.
            drop(failure);
            match Instant::now().checked_add(delay) {
                Some(until) if delay > Duration::ZERO => {
                    this.state.set(State::Sleeping { until });
                }
                _ => {
                    call.begin_next();
                    let service = this.shared.spare.get();
                    this.state.set(State::Waiting { service });
                }
            }
        }
    }
}

/// Nothing is kept once the outcome is known.
fn over<S, F, R: HttpBody, E, C>(mut state: Pin<&mut State<S, F, R, E>>, call: &mut RetryCall<C>) {
    call.finish();
    state.set(State::Done);
}

/// Hands a held answer on.
fn handed_on<R, C>(call: &RetryCall<C>, head: Parts, hold: Hold<R>) -> Answer<R, C>
where
    R: HttpBody<Data = Bytes> + Unpin,
    C: ClassifyResponse + Clone,
{
    call.succeeded();
    let body = hold.into_body(|body, watch| Body::watched(body, watch, call));
    Response::from_parts(head, body)
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
