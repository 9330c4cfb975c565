//! The states of a call.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_claude_core::{
    Classify, ClassifyResponse, ErrorBody, Hold, RequestBody, ResponseBody, Verdict, Watch,
};
use tower_service::Service;

use crate::{
    Body,
    call::Call,
    failure::{Answer, Failure, failed, refuse},
    judge::Judged,
    timeouts::poll_optional_sleep,
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
        state: State<S::Future, R>,
        #[pin]
        timer: Option<Sleep>,
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
        /// The first poll.
        Arrived,
        /// Until the inner service is ready.
        Waiting,
        /// Until the response head.
        Calling { #[pin] future: F },
        /// Until the error body is read.
        Reading { answer: Option<(Parts, ErrorBody<R>)> },
        /// Until the response is worth handing on.
        Holding { answer: Option<(Parts, Hold<R>)> },
        /// Between two attempts. Nothing is held.
        Sleeping { until: Instant },
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
            state: State::Arrived,
            timer: None,
            service,
            call,
        }
    }
}

impl<S, R, C> ResponseFuture<S, R, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: HttpBody<Data = Bytes> + Unpin,
    C: Classify<S::Error> + Clone,
{
    /// Goes on until the call is over, or an attempt failed.
    #[allow(clippy::type_complexity, reason = "spelled once")]
    fn poll_attempt(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Answer<R, C>, Failure<R, C, S::Error>>> {
        let mut this = self.project();
        let call = this.call;
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Arrived => match call.came_too_late() {
                    Some(refusal) => return Poll::Ready(Ok(refuse(call, refusal))),
                    None => State::Waiting,
                },
                StateProjection::Waiting => match this.service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => {
                        let future = this.service.call(call.launch());
                        this.state.set(State::Calling { future });
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(failed(call, error))),
                    Poll::Pending => {
                        let refusal = ready!(call.poll_late(this.timer, None, cx));
                        // The old one may keep a place in a queue.
                        *this.service = this.service.clone();
                        return Poll::Ready(Err(Failure::Late(refusal)));
                    }
                },
                StateProjection::Calling { future } => match future.poll(cx) {
                    Poll::Ready(Ok(response)) if call.is_nested() => {
                        let through = |body| ResponseBody::inner(Body::off(body));
                        return Poll::Ready(Ok(response.map(through)));
                    }
                    Poll::Ready(Ok(response)) => {
                        let (head, body) = response.into_parts();
                        match call.judge(&head) {
                            Judged::Success => {
                                let watch = Watch::of(&head.headers).without_usage();
                                let mut hold = Hold::new(body, watch);
                                // An answer that is there is handed on without a stop in the state.
                                let verdict = hold
                                    .poll_verdict(cx, |error| call.classifier.stream_error(error));
                                if let Poll::Ready(verdict) = verdict {
                                    return Poll::Ready(concluded(call, head, hold, verdict));
                                }
                                State::Holding {
                                    answer: Some((head, hold)),
                                }
                            }
                            Judged::Failed(class) => {
                                let body = ResponseBody::inner(Body::off(body));
                                let answer = Response::from_parts(head, body);
                                return Poll::Ready(Err(Failure::Answer(class, answer)));
                            }
                            Judged::Unread => State::Reading {
                                answer: Some((head, ErrorBody::new(body))),
                            },
                        }
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(failed(call, error))),
                    Poll::Pending => {
                        let refusal = ready!(call.poll_late(this.timer, None, cx));
                        return Poll::Ready(Err(Failure::Late(refusal)));
                    }
                },
                StateProjection::Reading { answer } => {
                    let (_, body) = answer.as_mut().expect("polled after completion");
                    if body.poll_read(cx).is_pending() {
                        // What came of it in time has to do.
                        ready!(call.poll_late(this.timer, Some(0), cx));
                    }
                    let (head, body) = answer.take().expect("looked at before");
                    let class = call
                        .classifier
                        .body(head.status, &head.headers, &body.bytes());
                    let answer = Response::from_parts(head, body.into_body(Body::off));
                    return Poll::Ready(Err(Failure::Answer(class, answer)));
                }
                StateProjection::Holding { answer } => {
                    let (_, hold) = answer.as_mut().expect("polled after completion");
                    let verdict =
                        hold.poll_verdict(cx, |error| call.classifier.stream_error(error));
                    let Poll::Ready(verdict) = verdict else {
                        let received = Some(hold.length());
                        let refusal = ready!(call.poll_late(this.timer, received, cx));
                        return Poll::Ready(Err(Failure::Late(refusal)));
                    };
                    let (head, hold) = answer.take().expect("looked at before");
                    return Poll::Ready(concluded(call, head, hold, verdict));
                }
                StateProjection::Sleeping { until } => {
                    ready!(poll_optional_sleep(this.timer.as_mut(), *until, cx));
                    call.begin_next();
                    State::Waiting
                }
                StateProjection::Done => panic!("polled after completion"),
            };
            this.state.set(next);
        }
    }
}

/// Hands a held answer on, or lets it fail.
#[allow(
    clippy::result_large_err,
    reason = "both sides are an answer, and boxing one would allocate"
)]
fn concluded<R, C, E>(
    call: &Call<C>,
    head: Parts,
    hold: Hold<R>,
    verdict: Verdict,
) -> Result<Answer<R, C>, Failure<R, C, E>>
where
    R: HttpBody<Data = Bytes> + Unpin,
    C: ClassifyResponse + Clone,
{
    if let Verdict::Failed(class) = verdict {
        let answer = Response::from_parts(head, hold.into_body(|body, _| Body::off(body)));
        return Err(Failure::Answer(class, answer));
    }
    call.config.budget.deposit();
    let body = hold.into_body(|body, watch| Body::watched(body, watch, call));
    Ok(Response::from_parts(head, body))
}

impl<S, R, C> Future for ResponseFuture<S, R, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: HttpBody<Data = Bytes> + Unpin,
    C: Classify<S::Error> + Clone,
{
    type Output = Result<Answer<R, C>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let output = loop {
            let failure = match ready!(self.as_mut().poll_attempt(cx)) {
                Ok(answer) => break Ok(answer),
                Err(failure) => failure,
            };
            let mut this = self.as_mut().project();
            let Some(delay) = failure.delay(this.call) else {
                break failure.into_output(this.call);
            };
            // The failed response and its future go before the sleep.
            drop(failure);
            match Instant::now().checked_add(delay) {
                Some(until) if delay > Duration::ZERO => {
                    this.state.set(State::Sleeping { until });
                }
                _ => {
                    this.call.begin_next();
                    this.state.set(State::Waiting);
                }
            }
        };
        let mut this = self.project();
        this.call.finish();
        this.state.set(State::Done);
        Poll::Ready(output)
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
