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
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use super::{
    attempt_policy::{AttemptPolicy, Clock},
    body::Body,
    call_policy::{AttemptFailure, CallPolicy},
    peek::{Peeked, PeekedBody, is_refusal},
    policies::{Policies, Shared},
    progress::{NotSent, Progress},
};
use crate::{
    body_tracker::BodyTracker,
    class::{Class, Kind},
    classify::{Classify, ClassifyResponse},
    error_body::ErrorBody,
    held_body::HeldBody,
    outcome::Outcome,
    paused_by_limiter::PausedByLimiter,
    rejection::{RejectReason, Rejection},
    request_body::RequestBody,
    response_body::ResponseBody,
};

/// A response for the caller.
type Answer<R, P, A, C> = Response<ResponseBody<Body<R, P, A, C>>>;

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
        state: State<S, S::Future, R, S::Error>,
        // After the state, so that a dropped request ends before its permits are released.
        progress: Progress<P, A>,
        shared: Arc<Shared<S, P, A, C>>,
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
            let policies = &this.shared.policies;
            let (held, answered) = match this.state.as_mut().project() {
                StateProjection::Holding { response } => (response.take(), true),
                StateProjection::Calling { .. } => (None, false),
                _ => (None, true),
            };
            this.state.set(State::Done);
            this.progress.report_unfinished(policies, answered);
            if let Some(mut held) = held {
                let attempt = &mut this.progress.attempt;
                held.body.report_dropped(&policies.attempts, attempt);
            }
            policies.call.finish(&mut this.progress.state, &this.progress.call);
        }
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, R, E>
    where
        R: HttpBody,
    {
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
        Done,
    }
}

/// A successful response that is held.
struct Held<R: HttpBody> {
    head: Parts,
    body: PeekedBody<R>,
}

/// A failed response whose body is read.
struct Failed<R: HttpBody> {
    head: Parts,
    body: ErrorBody<R>,
    /// Absent if the body decides it.
    class: Option<Class>,
    /// Ends the reading at the deadline of the call.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<R: HttpBody<Data = Bytes> + Unpin> Failed<R> {
    fn poll_deadline(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        timer.as_mut().poll(cx)
    }
}

/// An attempt that failed, with all that it would hand to the caller.
enum Failure<R: HttpBody<Data = Bytes>, E> {
    Response(Class, Parts, FailedBody<R>),
    Error(Class, E),
    Rejected(Box<Rejection>),
    TimedOut(Rejection),
}

/// The body of a failed response.
enum FailedBody<R: HttpBody<Data = Bytes>> {
    /// Read in part or not at all.
    Error(ErrorBody<R>),
    /// A success that failed while it was held.
    Held(PeekedBody<R>),
}

impl<S, R, P, A, C> ResponseFuture<S, R, P, A, C>
where
    S: Service<Request<RequestBody>>,
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
{
    #[inline]
    pub(super) const fn calling(
        shared: Arc<Shared<S, P, A, C>>,
        progress: Progress<P, A>,
        future: S::Future,
    ) -> Self {
        Self::of(shared, progress, State::Calling { future })
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

    pub(super) const fn not_sent(
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
    const fn of(
        shared: Arc<Shared<S, P, A, C>>,
        progress: Progress<P, A>,
        state: State<S, S::Future, R, S::Error>,
    ) -> Self {
        Self {
            state,
            progress,
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
        let progress = this.progress;
        let policies = &this.shared.policies;
        loop {
            // Success returns from inside the match. A failure comes to the decision below it.
            let failure = match this.state.as_mut().project() {
                StateProjection::Calling { future } => {
                    if let Some(rejection) = progress.recheck(policies) {
                        Failure::Rejected(Box::new(rejection))
                    } else {
                        let result = future.poll(cx);
                        progress.polled(policies);
                        match result {
                            Poll::Ready(Ok(response)) => {
                                match on_response(policies, progress, response, cx) {
                                    Next::Answer(answer) => {
                                        this.state.set(State::Done);
                                        return Poll::Ready(Ok(answer));
                                    }
                                    Next::Hold(held) => {
                                        let response = Some(held);
                                        this.state.set(State::Holding { response });
                                        continue;
                                    }
                                    Next::Read(response) => {
                                        let response = Some(response);
                                        this.state.set(State::Reading { response });
                                        continue;
                                    }
                                    Next::Fail(failure) => failure,
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
                            let future = service.call(std::mem::take(request));
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
                    let clock = &mut Clock::default();
                    report(policies, progress, &class, Some(&mut head), clock);
                    head.extensions.insert(class);
                    Failure::Response(class, head, FailedBody::Error(body))
                }
                StateProjection::Sleeping { sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    let request = policies
                        .call
                        .next_request(&mut progress.state, &progress.call);
                    let waiting = Box::new((this.shared.clone_source.get(), request));
                    this.state.set(State::Waiting { waiting });
                    continue;
                }
                StateProjection::NotSent { reason } => {
                    not_sent(policies, reason.take().expect("polled after completion"))
                }
                StateProjection::Rejected { rejection } => {
                    let rejection = *rejection.take().expect("polled after completion");
                    this.state.set(State::Done);
                    policies.call.on_rejection(&rejection);
                    return Poll::Ready(Ok(rejection.into_response()));
                }
                StateProjection::Done => panic!("polled after completion"),
            };
            if let Some(until) = policies.attempts.blocked_until(&progress.attempt) {
                progress.call.block_until(Some(until));
            }
            let wait =
                policies
                    .call
                    .on_failure(&mut progress.state, &progress.call, &failure.summary());
            let Some(wait) = wait else {
                // What the attempt holds is released after the inner future is dropped.
                this.state.set(State::Done);
                let output = failure.into_output(policies, progress);
                policies.call.finish(&mut progress.state, &progress.call);
                progress.release_attempt();
                return Poll::Ready(output);
            };
            // The failed response goes before the wait: it may keep a connection or a permit.
            failure.discard(&policies.attempts, &mut progress.attempt);
            this.state.set(State::Done);
            progress.release_attempt();
            this.state.set(match Instant::now().checked_add(wait) {
                Some(until) if wait > Duration::ZERO => State::Sleeping {
                    sleep: Box::pin(sleep_until(until)),
                },
                _ => {
                    let request = policies
                        .call
                        .next_request(&mut progress.state, &progress.call);
                    let waiting = Box::new((this.shared.clone_source.get(), request));
                    State::Waiting { waiting }
                }
            });
        }
    }
}

/// The next step after a response head.
enum Next<R, P, A, C, E>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    Answer(Answer<R, P, A, C>),
    Hold(Box<Held<R>>),
    Read(Box<Failed<R>>),
    Fail(Failure<R, E>),
}

/// Classifies a response by its head. A success that is there already is handed on without a stop.
#[inline]
fn on_response<R, P, A, C, E>(
    policies: &Arc<Policies<P, A, C>>,
    progress: &mut Progress<P, A>,
    response: Response<R>,
    cx: &mut Context<'_>,
) -> Next<R, P, A, C, E>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: Classify<E>,
{
    let class = Class::by_head(&policies.classifier, policies.reuses_class, &response);
    let (mut head, body) = response.into_parts();
    match class {
        Some(class) if class.is_success() => {
            let clock = &mut Clock::default();
            report(policies, progress, &class, Some(&mut head), clock);
            on_success(policies, progress, head, body, clock, cx)
        }
        Some(class) if !policies.call.reads_error_body(&class) => {
            let clock = &mut Clock::default();
            report(policies, progress, &class, Some(&mut head), clock);
            let body = FailedBody::Error(ErrorBody::new(body));
            Next::Fail(Failure::Response(class, head, body))
        }
        class => Next::Read(Box::new(Failed {
            head,
            body: ErrorBody::new(body),
            class,
            timer: None,
        })),
    }
}

/// Hands a successful response on, or holds it until its first content.
#[inline]
fn on_success<R, P, A, C, E>(
    policies: &Arc<Policies<P, A, C>>,
    progress: &mut Progress<P, A>,
    head: Parts,
    mut body: R,
    clock: &mut Clock,
    cx: &mut Context<'_>,
) -> Next<R, P, A, C, E>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    let mut tracker = start_tracking(policies, progress, &head);
    let mut first = None;
    if P::HOLDS_RESPONSE && tracker.is_json() && !body.is_end_stream() {
        match Pin::new(&mut body).poll_frame(cx) {
            // An ordinary JSON response is there as a whole, and needs no body that is tracked.
            Poll::Ready(Some(Ok(frame))) if frame.is_data() && body.is_end_stream() => {
                let data = frame.into_data().unwrap_or_default();
                let classify = |error: &_| policies.classifier.stream_error(error);
                let outcome = tracker.last(&data, classify);
                let attempts = &policies.attempts;
                attempts.on_end(&mut progress.attempt, &outcome, clock);
                let peeked = match outcome {
                    Outcome::Failed { class, .. } => Peeked::Failed(class),
                    _ => Peeked::Forward,
                };
                return on_whole(policies, progress, head, data, tracker, peeked);
            }
            Poll::Ready(frame) => first = Some(frame),
            Poll::Pending => {}
        }
    }
    let mut body = PeekedBody::new(body, tracker);
    let attempt = &mut progress.attempt;
    match first {
        Some(first) => body.add(first, policies, attempt, clock),
        None => body.report_empty(policies, attempt, clock),
    }
    if !P::HOLDS_RESPONSE {
        return Next::Answer(into_answer(policies, progress, head, body));
    }
    match body.poll_peek(policies, &mut progress.attempt, clock, cx) {
        Poll::Ready(peeked) => match on_peeked(policies, progress, head, body, peeked) {
            Ok(answer) => Next::Answer(answer),
            Err(failure) => Next::Fail(failure),
        },
        Poll::Pending => Next::Hold(Box::new(Held { head, body })),
    }
}

/// Hands on a response whose only frame has arrived.
#[inline]
fn on_whole<R, P, A, C, E>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    mut head: Parts,
    data: Bytes,
    tracker: BodyTracker,
    peeked: Peeked,
) -> Next<R, P, A, C, E>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    let (state, call) = (&mut progress.state, &progress.call);
    let failed = match peeked {
        Peeked::Failed(class) => Some(class),
        Peeked::Forward => {
            let refused = policies.call.detects_refusal() && is_refusal(&data);
            policies.call.on_success(state, call, &mut head, refused)
        }
    };
    if let Some(class) = failed {
        let body = FailedBody::Held(PeekedBody::whole(data, tracker));
        return Next::Fail(Failure::Response(class, head, body));
    }
    policies.call.finish(state, call);
    Next::Answer(Response::from_parts(head, ResponseBody::full(data)))
}

/// Reports the class of an attempt to the attempt policies.
#[inline]
fn report<P: CallPolicy, A: AttemptPolicy, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    class: &Class,
    head: Option<&mut Parts>,
    clock: &mut Clock,
) {
    policies
        .attempts
        .on_response(&mut progress.attempt, class, head, clock);
}

fn start_tracking<P: CallPolicy, A: AttemptPolicy, C: ClassifyResponse>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    head: &Parts,
) -> BodyTracker {
    let expected = if policies.classifier.expects_claude() {
        progress.expected
    } else {
        progress.expected.or_any()
    };
    let tracker = BodyTracker::of(expected, head.status, &head.headers);
    if tracker.is_opaque() {
        policies.attempts.on_opaque_body(&mut progress.attempt);
    }
    if policies.attempts.reads_usage(&progress.attempt) {
        tracker
    } else {
        tracker.without_usage()
    }
}

/// Returns a failure when a timer of the call policy ends the attempt.
fn poll_timeout<R, E, P, A, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    received: Option<usize>,
    cx: &mut Context<'_>,
) -> Poll<Failure<R, E>>
where
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
{
    let (state, call) = (&mut progress.state, &progress.call);
    let mut rejection = ready!(policies.call.poll_timeout(state, call, received, cx));
    progress.report_unfinished(policies, received.is_some());
    let body = progress.call.unfinished_body();
    Poll::Ready(match body.filter(|_| received.is_none()) {
        // The caller kept the server waiting, and not the other way round.
        Some(failure) => {
            rejection.reason = RejectReason::Body { failure };
            policies.call.on_rejection(&rejection);
            Failure::Rejected(Box::new(rejection))
        }
        None => Failure::TimedOut(rejection),
    })
}

fn not_sent<R, E, P, A, C>(policies: &Policies<P, A, C>, reason: NotSent<E>) -> Failure<R, E>
where
    R: HttpBody<Data = Bytes>,
    C: Classify<E>,
{
    match reason {
        NotSent::Rejected(rejection) => Failure::Rejected(rejection),
        NotSent::Unready(error) => Failure::Error(policies.classifier.error(&error), error),
    }
}

/// Hands a held response on, or returns it as a failure.
#[expect(
    clippy::result_large_err,
    reason = "a failure is rare, and a box would cost every call that has one an allocation"
)]
fn on_peeked<R, P, A, C, E>(
    policies: &Arc<Policies<P, A, C>>,
    progress: &mut Progress<P, A>,
    mut head: Parts,
    body: PeekedBody<R>,
    peeked: Peeked,
) -> Result<Answer<R, P, A, C>, Failure<R, E>>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    if let Peeked::Failed(class) = peeked {
        return Err(Failure::Response(class, head, FailedBody::Held(body)));
    }
    let refused = policies.call.detects_refusal() && body.is_refusal();
    let (state, call) = (&mut progress.state, &progress.call);
    if let Some(class) = policies.call.on_success(state, call, &mut head, refused) {
        return Err(Failure::Response(class, head, FailedBody::Held(body)));
    }
    Ok(into_answer(policies, progress, head, body))
}

/// Hands a successful response to the caller.
fn into_answer<R, P, A, C>(
    policies: &Arc<Policies<P, A, C>>,
    progress: &mut Progress<P, A>,
    head: Parts,
    body: PeekedBody<R>,
) -> Answer<R, P, A, C>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    let body = if body.is_whole() {
        ResponseBody::full(body.held.chunks.into_bytes())
    } else {
        let attempt = std::mem::take(&mut progress.attempt);
        let (state, call) = (&mut progress.state, &progress.call);
        Body::tracked(body, policies, attempt, state, call)
    };
    policies.call.finish(&mut progress.state, &progress.call);
    Response::from_parts(head, body)
}

impl<R: HttpBody<Data = Bytes> + Unpin> FailedBody<R> {
    /// Drops the body, and reports that a held response is not read to its end.
    fn discard<A: AttemptPolicy>(self, attempts: &A, attempt: &mut A::Attempt) {
        match self {
            Self::Error(body) => body.into_held().drain(),
            Self::Held(mut body) => {
                if let Some(rest) = body.held.rest.take() {
                    HeldBody::new(rest).drain();
                }
                body.report_dropped(attempts, attempt);
            }
        }
    }
}

impl<R, E> Failure<R, E>
where
    R: HttpBody<Data = Bytes> + Unpin,
{
    fn summary(&self) -> AttemptFailure {
        let (class, paused, unanswered) = match self {
            Self::Response(class, head, _) => {
                let paused = head.extensions.get::<PausedByLimiter>().copied();
                (*class, paused, false)
            }
            Self::Error(class, _) => (*class, None, class.kind == Kind::Timeout),
            Self::Rejected(rejection) => (rejection.class(), None, false),
            Self::TimedOut(rejection) => (rejection.class(), None, true),
        };
        AttemptFailure {
            class,
            paused,
            unanswered,
        }
    }

    /// Drops the failure.
    fn discard<A: AttemptPolicy>(self, attempts: &A, attempt: &mut A::Attempt) {
        if let Self::Response(_, _, body) = self {
            body.discard(attempts, attempt);
        }
    }

    fn into_output<P, A, C>(
        self,
        policies: &Arc<Policies<P, A, C>>,
        progress: &mut Progress<P, A>,
    ) -> Result<Answer<R, P, A, C>, E>
    where
        P: CallPolicy,
        A: AttemptPolicy,
        C: ClassifyResponse,
    {
        let (class, mut head, body) = match self {
            Self::Error(_, error) => return Err(error),
            Self::TimedOut(rejection) => {
                policies.call.on_rejection(&rejection);
                return Ok(rejection_answer(policies, progress, rejection));
            }
            Self::Rejected(rejection) => {
                return Ok(rejection_answer(policies, progress, *rejection));
            }
            Self::Response(class, head, body) => (class, head, body),
        };
        head.extensions.insert(class);
        let read = match &body {
            FailedBody::Error(body) => body.bytes(),
            FailedBody::Held(_) => Default::default(),
        };
        let state = &mut progress.state;
        let replacement = policies.call.on_give_up(state, &class, &mut head, &read);
        drop(read);
        let body = match (replacement, body) {
            (Some(bytes), body) => {
                body.discard(&policies.attempts, &mut progress.attempt);
                ResponseBody::full(bytes)
            }
            (None, FailedBody::Error(body)) => Body::untracked(body.into_held()),
            (None, FailedBody::Held(body)) if body.ended => Body::untracked(body.held),
            // The model declined, and the caller reads on to the end of the response.
            (None, FailedBody::Held(body)) => {
                let attempt = std::mem::take(&mut progress.attempt);
                Body::tracked(body, policies, attempt, state, &progress.call)
            }
        };
        Ok(Response::from_parts(head, body))
    }
}

/// Hands a rejection to the caller.
fn rejection_answer<R, P, A, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    rejection: Rejection,
) -> Answer<R, P, A, C>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    let class = rejection.class();
    let (mut head, body) = rejection.into_response().into_parts();
    let bytes = body.full_bytes().unwrap_or_default();
    let state = &mut progress.state;
    let replacement = policies.call.on_give_up(state, &class, &mut head, bytes);
    Response::from_parts(head, replacement.map_or(body, ResponseBody::full))
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
