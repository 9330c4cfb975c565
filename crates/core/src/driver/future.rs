//! The states of a call.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use super::{
    attempt_policy::{AttemptPolicy, Clock},
    body::Answer,
    call_policy::CallPolicy,
    failure::{FailedBody, Failure, not_sent, poll_timeout},
    policies::Shared,
    progress::{NotSent, Progress},
    report::CallResult,
    response::{Failed, Held, Next, on_head, on_peeked, on_response, report},
};
use crate::{
    buffer_request::ArrivingRequest, classify::Classify, redirect::bounded, rejection::Rejection,
    request_body::RequestBody, response_body::ResponseBody,
};

pin_project! {
    /// The future of a [`Driver`](super::Driver).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, R, P, A, C>
    where
        S: Service<Request<RequestBody>>,
        R: HttpBody<Data = Bytes>,
        P: CallPolicy,
        A: AttemptPolicy,
    {
        #[pin]
        pub(super) state: State<S, S::Future, R, S::Error>,
        // After the state, so that a dropped request ends before its permits are released.
        // Absent until the body of the request has arrived.
        pub(super) progress: Option<Progress<P, A>>,
        pub(super) shared: Arc<Shared<S, P, A, C>>,
    }

    impl<S, R, P, A, C> PinnedDrop for ResponseFuture<S, R, P, A, C>
    where
        S: Service<Request<RequestBody>>,
        R: HttpBody<Data = Bytes>,
        P: CallPolicy,
        A: AttemptPolicy,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let (policies, Some(progress)) = (&this.shared.policies, this.progress) else {
                return;
            };
            let (held, answered) = match this.state.as_mut().project() {
                // Everything was reported before the result was returned.
                StateProjection::Done => return,
                StateProjection::Holding { response } => (response.take(), true),
                StateProjection::Calling { .. } => (None, false),
                _ => (None, true),
            };
            let _entered = progress.enter_call();
            this.state.set(State::Done);
            progress.report_unfinished(policies, answered);
            if let Some(mut held) = held {
                let attempt = &mut progress.attempt;
                held.body.report_dropped(&policies.attempts, attempt);
            }
            policies.call.finish(&mut progress.state, &progress.call);
            if progress.report.is_some() {
                progress.report_dropped(policies);
            }
        }
    }
}

pin_project! {
    #[project = StateProjection]
    pub(super) enum State<S, F, R, E>
    where
        R: HttpBody,
    {
        /// Until the body of the request has arrived.
        Collecting { arriving: Box<ArrivingRequest> },
        /// Until the policies admit the attempt and the inner service is ready.
        // Boxed, because few calls wait and the request would double the size of all.
        Waiting { waiting: Box<(S, Request<RequestBody>)> },
        /// Until the response head.
        Calling { #[pin] future: F },
        /// Until the body of an error response is read.
        Reading { response: Option<Box<Failed<R>>> },
        /// Until the first content of a successful response.
        Holding { response: Option<Box<Held<R>>> },
        /// Until the next attempt.
        Sleeping { sleep: Pin<Box<Sleep>> },
        /// The first attempt is not sent.
        NotSent { reason: Option<NotSent<E>> },
        /// The call is rejected before the first attempt.
        Rejected { rejection: Option<Box<Rejection>> },
        /// Between two attempts, or before the end of the call. It stays only if a policy panics.
        Between,
        Done,
    }
}

impl<S, R, P, A, C> ResponseFuture<S, R, P, A, C>
where
    S: Service<Request<RequestBody>>,
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
{
    pub(super) fn collecting(
        shared: Arc<Shared<S, P, A, C>>,
        arriving: Box<ArrivingRequest>,
    ) -> Self {
        Self {
            state: State::Collecting { arriving },
            progress: None,
            shared,
        }
    }

    pub(super) fn waiting(
        shared: Arc<Shared<S, P, A, C>>,
        progress: Progress<P, A>,
        service: S,
        request: Request<RequestBody>,
    ) -> Self {
        let waiting = Box::new((service, request));
        Self::of(shared, progress, State::Waiting { waiting })
    }

    pub(super) fn not_sent(
        shared: Arc<Shared<S, P, A, C>>,
        progress: Progress<P, A>,
        reason: NotSent<S::Error>,
    ) -> Self {
        let reason = Some(reason);
        Self::of(shared, progress, State::NotSent { reason })
    }

    pub(super) fn rejected(
        shared: Arc<Shared<S, P, A, C>>,
        progress: Progress<P, A>,
        rejection: Rejection,
    ) -> Self {
        let rejection = Some(Box::new(rejection));
        Self::of(shared, progress, State::Rejected { rejection })
    }

    #[inline]
    fn of(
        shared: Arc<Shared<S, P, A, C>>,
        progress: Progress<P, A>,
        state: State<S, S::Future, R, S::Error>,
    ) -> Self {
        Self {
            state,
            progress: Some(progress),
            shared,
        }
    }
}

impl<S, R, P, A, C> Future for ResponseFuture<S, R, P, A, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: Classify<S::Error>,
{
    type Output = Result<Answer<R, P, A, C>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let policies = &this.shared.policies;
        if let StateProjection::Collecting { arriving } = this.state.as_mut().project() {
            let mut request = ready!(arriving.poll_request(cx));
            let started = Progress::start(policies, &mut request, Instant::now());
            let progress = this.progress.insert(started);
            let _entered = progress.enter_call();
            let next = match progress.check_start(policies, &request) {
                Some(rejection) => State::Rejected {
                    rejection: Some(Box::new(rejection)),
                },
                None => State::Waiting {
                    waiting: Box::new((this.shared.clone_source.get(), request)),
                },
            };
            this.state.set(next);
        }
        let progress = this.progress.as_mut().expect("started above");
        let _entered = progress.enter_call();
        loop {
            // Success returns from inside the match. A failure comes to the decision below it.
            let failure = match this.state.as_mut().project() {
                StateProjection::Calling { future } => {
                    if let Some(rejection) = progress.recheck(policies) {
                        Failure::Rejected(Box::new(rejection))
                    } else {
                        let result = {
                            let _entered = progress.enter_attempt();
                            future.poll(cx)
                        };
                        progress.polled(policies);
                        match result {
                            Poll::Ready(Ok(response)) => {
                                // Taken apart at once, so that it is moved only once.
                                let (mut head, mut body) = response.into_parts();
                                let unfinished =
                                    match on_head(policies, progress, &mut head, &mut body, cx) {
                                        Ok(data) => {
                                            this.state.set(State::Done);
                                            let body = ResponseBody::full(data);
                                            return Poll::Ready(Ok(Response::from_parts(
                                                head, body,
                                            )));
                                        }
                                        Err(unfinished) => unfinished,
                                    };
                                match on_response(policies, progress, head, body, unfinished, cx) {
                                    Ok(answer) => {
                                        this.state.set(State::Done);
                                        return Poll::Ready(Ok(answer));
                                    }
                                    Err(Next::Hold(held)) => {
                                        let response = Some(held);
                                        this.state.set(State::Holding { response });
                                        continue;
                                    }
                                    Err(Next::Read(response)) => {
                                        let response = Some(response);
                                        this.state.set(State::Reading { response });
                                        continue;
                                    }
                                    Err(Next::Fail(failure)) => *failure,
                                }
                            }
                            Poll::Ready(Err(error)) => {
                                // The client only passes on that the caller's body failed.
                                let class = match progress.call.body_failure() {
                                    Some(failure) => failure.class(),
                                    None => policies.classifier.error(&error),
                                };
                                report(policies, progress, &class, None, &mut Clock::default());
                                Failure::Error(class, error)
                            }
                            Poll::Pending => ready!(poll_timeout(policies, progress, None, cx)),
                        }
                    }
                }
                StateProjection::Holding { response } => {
                    let held = response.as_mut().expect("polled after completion");
                    let (attempt, clock) = (&mut progress.attempt, &mut Clock::default());
                    let peeked = held.body.poll_peek(policies, attempt, clock, cx);
                    if let Poll::Ready(peeked) = peeked {
                        let held = *response.take().expect("looked at before");
                        match on_peeked(policies, progress, held.head, held.body, peeked) {
                            Ok(answer) => {
                                this.state.set(State::Done);
                                return Poll::Ready(Ok(answer));
                            }
                            Err(failure) => failure,
                        }
                    } else {
                        let received = Some(held.body.held.chunks.len());
                        let failure = ready!(poll_timeout(policies, progress, received, cx));
                        let attempt = &mut progress.attempt;
                        held.body.report_dropped(&policies.attempts, attempt);
                        failure
                    }
                }
                StateProjection::Waiting { waiting } => {
                    let (service, request) = &mut **waiting;
                    let clock = &mut Clock::default();
                    match progress.poll_send(policies, service, request, clock, cx) {
                        Poll::Ready(Ok(())) => {
                            let future = {
                                let _entered = progress.enter_attempt();
                                service.call(std::mem::take(request))
                            };
                            progress.called(policies);
                            this.state.set(State::Calling { future });
                            continue;
                        }
                        Poll::Ready(Err(reason)) => not_sent(policies, reason),
                        Poll::Pending => ready!(poll_timeout(policies, progress, None, cx)),
                    }
                }
                StateProjection::Reading { response } => {
                    let failed = response.as_mut().expect("polled after completion");
                    if failed.body.poll_read(cx).is_pending() {
                        // A timer ends the reading and not the attempt. The head is a response, so
                        // the part of the body that was received decides the class.
                        let (state, call) = (&mut progress.state, &progress.call);
                        let received = Some(failed.body.length());
                        let timeout = policies.call.poll_timeout(state, call, received, cx);
                        if timeout.is_pending() {
                            ready!(failed.poll_deadline(call.deadline(), cx));
                        }
                    }
                    let Failed {
                        mut head,
                        body,
                        class,
                        ..
                    } = *response.take().expect("looked at before");
                    let class = class.unwrap_or_else(|| {
                        let bytes = body.bytes();
                        policies.classifier.body(head.status, &head.headers, &bytes)
                    });
                    let class = bounded(class, &head.extensions);
                    let clock = &mut Clock::default();
                    report(policies, progress, &class, Some(&mut head), clock);
                    head.extensions.insert(class);
                    Failure::Response(class, head, FailedBody::Error(body))
                }
                StateProjection::Sleeping { sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    let request = progress.next_request(policies);
                    let waiting = Box::new((this.shared.clone_source.get(), request));
                    this.state.set(State::Waiting { waiting });
                    continue;
                }
                StateProjection::NotSent { reason } => {
                    not_sent(policies, reason.take().expect("polled after completion"))
                }
                StateProjection::Rejected { rejection } => {
                    let rejection = *rejection.take().expect("polled after completion");
                    this.state.set(State::Between);
                    policies.call.on_rejection(&rejection);
                    policies.call.finish(&mut progress.state, &progress.call);
                    progress.report_call(policies, &CallResult::rejected(&rejection));
                    this.state.set(State::Done);
                    return Poll::Ready(Ok(rejection.into_response()));
                }
                StateProjection::Collecting { .. }
                | StateProjection::Between
                | StateProjection::Done => panic!("polled after completion"),
            };
            if let Some(until) = policies.attempts.blocked_until(&progress.attempt) {
                progress.call.block_until(Some(until));
            }
            let (attempt, class) = (&mut progress.attempt, failure.summary(None).class);
            let rejection = failure.rejection();
            let reroute = policies
                .attempts
                .reroute(attempt, &progress.call, &class, rejection);
            if reroute.is_some() {
                progress.call.set_reroute(reroute);
            }
            if progress.report.is_some() {
                failure.report_attempt(policies, progress);
            }
            let mut summary = failure.summary(progress.report.as_deref());
            // Reported here, or by an inner driver.
            summary.reroute = progress.call.reroute();
            let wait = policies
                .call
                .on_failure(&mut progress.state, &progress.call, &summary);
            let Some(wait) = wait else {
                // What the attempt holds is released after the inner future is dropped.
                this.state.set(State::Between);
                let result = progress.report.as_ref().map(|_| failure.result());
                let output = failure.into_output(policies, progress);
                policies.call.finish(&mut progress.state, &progress.call);
                progress.release_attempt();
                if let Some(result) = result {
                    progress.report_call(policies, &result);
                }
                this.state.set(State::Done);
                return Poll::Ready(output);
            };
            if let Some(report) = &mut progress.report {
                report.delay();
            }
            // The failed response goes before the wait: it may keep a connection or a permit.
            failure.discard(&policies.attempts, &mut progress.attempt);
            this.state.set(State::Between);
            progress.release_attempt();
            this.state.set(match Instant::now().checked_add(wait) {
                Some(until) if wait > Duration::ZERO => State::Sleeping {
                    sleep: Box::pin(sleep_until(until)),
                },
                _ => {
                    let request = progress.next_request(policies);
                    let waiting = Box::new((this.shared.clone_source.get(), request));
                    State::Waiting { waiting }
                }
            });
        }
    }
}

impl<S, R, P, A, C> fmt::Debug for ResponseFuture<S, R, P, A, C>
where
    S: Service<Request<RequestBody>>,
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
