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
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use super::{
    attempt_policy::AttemptPolicy,
    body::Rest,
    call_policy::CallPolicy,
    call_state::{CallState, Unsent},
    peek::PeekedBody,
    service::{Policies, Shared},
};
use crate::{
    Class, Classify, ErrorBody, Kind, Outcome, PausedByLimiter, Rejection, RequestBody,
    ResponseBody, Verdict,
};

/// What the caller gets.
type Answer<R, Re, G, C> = Response<ResponseBody<Rest<R, Re, G, C>>>;

pin_project! {
    /// Future of [`Driver`](super::Driver).
    #[must_use = "futures do nothing unless polled"]
    pub struct DriverFuture<S, R, Re, G, C>
    where
        S: Service<Request<RequestBody>>,
        R: Body,
        Re: CallPolicy,
        G: AttemptPolicy,
    {
        #[pin]
        state: State<S, S::Future, R, S::Error>,
        // After the state, so that a call that is dropped ends before what it holds does.
        call: CallState<Re, G>,
        shared: Arc<Shared<S, Re, G, C>>,
    }

    impl<S, R, Re, G, C> PinnedDrop for DriverFuture<S, R, Re, G, C>
    where
        S: Service<Request<RequestBody>>,
        R: Body,
        Re: CallPolicy,
        G: AttemptPolicy,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.state.set(State::Done);
            let stages = &this.shared.stages;
            this.call.tell_timed_out(stages);
            stages.resends.finish(&mut this.call.trip, &this.call.context);
        }
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, R, E>
    where
        R: Body,
    {
        // Boxed: few calls wait here, and the request would double the size of all.
        Waiting { waiting: Box<(S, Request<RequestBody>)> },
        Calling { #[pin] future: F },
        Reading { answer: Option<Box<(Parts, ErrorBody<R>)>>, class: Option<Class> },
        Holding { answer: Option<Box<(Parts, PeekedBody<R>)>> },
        Sleeping { sleep: Pin<Box<Sleep>> },
        Unsent { why: Option<Unsent<E>> },
        Late { refusal: Option<Box<Rejection>> },
        Done,
    }
}

/// An attempt that failed.
enum Failure<R: Body<Data = Bytes>, E> {
    Answer(Class, Parts, Remains<R>),
    Error(Class, E),
    Rejected(Box<Rejection>),
    Late(Rejection),
}

enum Remains<R: Body<Data = Bytes>> {
    Whole(R),
    Read(ErrorBody<R>),
    Held(PeekedBody<R>),
}

impl<S, R, Re, G, C> DriverFuture<S, R, Re, G, C>
where
    S: Service<Request<RequestBody>>,
    R: Body,
    Re: CallPolicy,
    G: AttemptPolicy,
{
    #[inline]
    pub(super) const fn calling(
        shared: Arc<Shared<S, Re, G, C>>,
        call: CallState<Re, G>,
        future: S::Future,
    ) -> Self {
        let state = State::Calling { future };
        Self {
            state,
            call,
            shared,
        }
    }

    pub(super) fn waiting(
        shared: Arc<Shared<S, Re, G, C>>,
        call: CallState<Re, G>,
        service: S,
        request: Request<RequestBody>,
    ) -> Self {
        let waiting = Box::new((service, request));
        let state = State::Waiting { waiting };
        Self {
            state,
            call,
            shared,
        }
    }

    pub(super) fn unsent(
        shared: Arc<Shared<S, Re, G, C>>,
        call: CallState<Re, G>,
        why: Unsent<S::Error>,
    ) -> Self {
        let state = State::Unsent { why: Some(why) };
        Self {
            state,
            call,
            shared,
        }
    }

    pub(super) fn late(
        shared: Arc<Shared<S, Re, G, C>>,
        call: CallState<Re, G>,
        refusal: Rejection,
    ) -> Self {
        let refusal = Some(Box::new(refusal));
        let state = State::Late { refusal };
        Self {
            state,
            call,
            shared,
        }
    }
}

impl<S, R, Re, G, C> Future for DriverFuture<S, R, Re, G, C>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: Body<Data = Bytes> + Unpin,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: Classify<S::Error>,
{
    type Output = Result<Answer<R, Re, G, C>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let call = this.call;
        let stages = &this.shared.stages;
        let classifier = &stages.classifier;
        loop {
            let failure = match this.state.as_mut().project() {
                StateProjection::Calling { future } => match future.poll(cx) {
                    Poll::Ready(Ok(response)) => {
                        let class = Class::by_head(classifier, stages.reuse_class, &response);
                        let (mut head, body) = response.into_parts();
                        match class {
                            Some(class) if class.is_success() => {
                                let mut at = None;
                                judge(stages, call, &class, Some(&mut head), &mut at);
                                let watch = watch(stages, call, &head);
                                let mut landing = PeekedBody::new(body, watch);
                                // An answer that is there is handed on without a stop in the state.
                                match landing.poll_verdict(
                                    &stages.guards,
                                    &mut call.held,
                                    classifier,
                                    &mut at,
                                    cx,
                                ) {
                                    Poll::Ready(verdict) => {
                                        match landed(stages, call, head, landing, verdict) {
                                            Ok(answer) => {
                                                this.state.set(State::Done);
                                                return Poll::Ready(Ok(answer));
                                            }
                                            Err(failure) => failure,
                                        }
                                    }
                                    Poll::Pending => {
                                        let answer = Some(Box::new((head, landing)));
                                        this.state.set(State::Holding { answer });
                                        continue;
                                    }
                                }
                            }
                            Some(class) if !stages.resends.reads(&class) => {
                                judge(stages, call, &class, Some(&mut head), &mut None);
                                Failure::Answer(class, head, Remains::Whole(body))
                            }
                            class => {
                                let answer = Some(Box::new((head, ErrorBody::new(body))));
                                this.state.set(State::Reading { answer, class });
                                continue;
                            }
                        }
                    }
                    Poll::Ready(Err(error)) => {
                        let class = classifier.error(&error);
                        judge(stages, call, &class, None, &mut None);
                        Failure::Error(class, error)
                    }
                    Poll::Pending => Failure::Late(ready!(late(stages, call, None, cx))),
                },
                StateProjection::Holding { answer } => {
                    let (_, landing) = &mut **answer.as_mut().expect("polled after completion");
                    match landing.poll_verdict(
                        &stages.guards,
                        &mut call.held,
                        classifier,
                        &mut None,
                        cx,
                    ) {
                        Poll::Ready(verdict) => {
                            let (head, landing) = *answer.take().expect("looked at before");
                            match landed(stages, call, head, landing, verdict) {
                                Ok(answer) => {
                                    this.state.set(State::Done);
                                    return Poll::Ready(Ok(answer));
                                }
                                Err(failure) => failure,
                            }
                        }
                        Poll::Pending => {
                            let received = Some(landing.length);
                            let refusal = ready!(late(stages, call, received, cx));
                            if !landing.over {
                                let usage = landing.watch.usage();
                                let dropped = Outcome::Dropped { usage };
                                stages.guards.end(&mut call.held, &dropped, &mut None);
                            }
                            Failure::Late(refusal)
                        }
                    }
                }
                StateProjection::Waiting { waiting } => {
                    let (service, request) = &mut **waiting;
                    match call.poll_send(stages, service, request, &mut None, cx) {
                        Poll::Ready(Ok(())) => {
                            let future = service.call(std::mem::take(request));
                            this.state.set(State::Calling { future });
                            continue;
                        }
                        Poll::Ready(Err(why)) => unsent(classifier, why),
                        // The service goes with the state: it may keep a place in a queue.
                        Poll::Pending => Failure::Late(ready!(late(stages, call, None, cx))),
                    }
                }
                StateProjection::Reading { answer, class } => {
                    let (_, body) = &mut **answer.as_mut().expect("polled after completion");
                    if body.poll_read(cx).is_pending() {
                        let refusal = ready!(late(stages, call, None, cx));
                        Failure::Late(refusal)
                    } else {
                        let (mut head, body) = *answer.take().expect("looked at before");
                        let class = class.take().unwrap_or_else(|| {
                            classifier.body(head.status, &head.headers, &body.bytes())
                        });
                        judge(stages, call, &class, Some(&mut head), &mut None);
                        head.extensions.insert(class);
                        Failure::Answer(class, head, Remains::Read(body))
                    }
                }
                StateProjection::Sleeping { sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    let request = stages.resends.again(&mut call.trip, &call.context);
                    let waiting = Box::new((this.shared.spare.get(), request));
                    this.state.set(State::Waiting { waiting });
                    continue;
                }
                StateProjection::Unsent { why } => {
                    unsent(classifier, why.take().expect("polled after completion"))
                }
                StateProjection::Late { refusal } => {
                    let refusal = *refusal.take().expect("polled after completion");
                    this.state.set(State::Done);
                    stages.resends.refused(&refusal);
                    return Poll::Ready(Ok(refusal.into_response()));
                }
                StateProjection::Done => panic!("polled after completion"),
            };
            let Some(delay) = failure.delay(stages, call) else {
                this.state.set(State::Done);
                let output = failure.into_output(stages, call);
                stages.resends.finish(&mut call.trip, &call.context);
                call.anew();
                return Poll::Ready(output);
            };
            // The failed response and its future go before the sleep, and then what the attempt held.
            drop(failure);
            this.state.set(State::Done);
            call.anew();
            match Instant::now().checked_add(delay) {
                Some(until) if delay > Duration::ZERO => {
                    let sleep = Box::pin(sleep_until(until));
                    this.state.set(State::Sleeping { sleep });
                }
                _ => {
                    let request = stages.resends.again(&mut call.trip, &call.context);
                    let waiting = Box::new((this.shared.spare.get(), request));
                    this.state.set(State::Waiting { waiting });
                }
            }
        }
    }
}

#[inline]
fn judge<Re: CallPolicy, G: AttemptPolicy, C>(
    stages: &Policies<Re, G, C>,
    call: &mut CallState<Re, G>,
    class: &Class,
    head: Option<&mut Parts>,
    at: &mut Option<Instant>,
) {
    stages.guards.judged(&mut call.held, class, head, at);
}

fn watch<Re: CallPolicy, G: AttemptPolicy, C>(
    stages: &Policies<Re, G, C>,
    call: &mut CallState<Re, G>,
    head: &Parts,
) -> crate::BodyTracker {
    let watch = crate::BodyTracker::of(&head.headers);
    if watch.stream().is_none() && !watch.is_message() {
        stages.guards.opaque(&mut call.held);
    }
    if G::READS_USAGE {
        watch
    } else {
        watch.without_usage()
    }
}

fn late<Re: CallPolicy, G: AttemptPolicy, C>(
    stages: &Policies<Re, G, C>,
    call: &mut CallState<Re, G>,
    received: Option<usize>,
    cx: &mut Context<'_>,
) -> Poll<Rejection> {
    let (trip, context) = (&mut call.trip, &call.context);
    let refusal = ready!(stages.resends.poll_late(trip, context, received, cx));
    call.tell_timed_out(stages);
    Poll::Ready(refusal)
}

fn unsent<R, E, C>(classifier: &C, why: Unsent<E>) -> Failure<R, E>
where
    R: Body<Data = Bytes>,
    C: Classify<E>,
{
    match why {
        Unsent::Rejected(refusal) => Failure::Rejected(refusal),
        Unsent::Unready(error) => Failure::Error(classifier.error(&error), error),
    }
}

/// Hands an answer on, or finds that it has failed.
fn landed<R, Re, G, C, E>(
    stages: &Arc<Policies<Re, G, C>>,
    call: &mut CallState<Re, G>,
    mut head: Parts,
    landing: PeekedBody<R>,
    verdict: Verdict,
) -> Result<Answer<R, Re, G, C>, Failure<R, E>>
where
    R: Body<Data = Bytes> + Unpin,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: crate::ClassifyResponse,
{
    if let Verdict::Failed(class) = verdict {
        return Err(Failure::Answer(class, head, Remains::Held(landing)));
    }
    let declined = stages.resends.minds_refusals() && landing.is_refusal();
    if let Some(class) = stages
        .resends
        .landed(&mut call.trip, &call.context, &mut head, declined)
    {
        return Err(Failure::Answer(class, head, Remains::Held(landing)));
    }
    if landing.is_whole() {
        stages.resends.finish(&mut call.trip, &call.context);
        return Ok(Response::from_parts(
            head,
            ResponseBody::full(landing.first),
        ));
    }
    let held = std::mem::take(&mut call.held);
    let body = Rest::watched(landing, stages, held, &mut call.trip, &call.context);
    stages.resends.finish(&mut call.trip, &call.context);
    Ok(Response::from_parts(head, body))
}

impl<R, E> Failure<R, E>
where
    R: Body<Data = Bytes> + Unpin,
{
    fn delay<Re: CallPolicy, G: AttemptPolicy, C>(
        &self,
        stages: &Policies<Re, G, C>,
        call: &mut CallState<Re, G>,
    ) -> Option<Duration> {
        let (class, paced, unanswered) = match self {
            Self::Answer(class, head, _) => (
                *class,
                head.extensions.get::<PausedByLimiter>().copied(),
                false,
            ),
            Self::Error(class, _) => (*class, None, class.kind == Kind::Timeout),
            Self::Rejected(refusal) => (refusal.class(), None, false),
            Self::Late(refusal) => (refusal.class(), None, true),
        };
        stages
            .resends
            .failed(&mut call.trip, &call.context, &class, paced, unanswered)
    }

    fn into_output<Re, G, C>(
        self,
        stages: &Policies<Re, G, C>,
        call: &mut CallState<Re, G>,
    ) -> Result<Answer<R, Re, G, C>, E>
    where
        Re: CallPolicy,
        G: AttemptPolicy,
        C: crate::ClassifyResponse,
    {
        let (class, head, remains) = match self {
            Self::Error(_, error) => return Err(error),
            Self::Late(refusal) => {
                stages.resends.refused(&refusal);
                let (class, response) = (refusal.class(), refusal.into_response());
                return Ok(own(stages, call, &class, response));
            }
            Self::Rejected(refusal) => {
                let (class, response) = (refusal.class(), refusal.into_response());
                return Ok(own(stages, call, &class, response));
            }
            Self::Answer(class, head, remains) => (class, head, remains),
        };
        let mut head = head;
        head.extensions.insert(class);
        let read = match &remains {
            Remains::Read(body) => body.bytes(),
            _ => Default::default(),
        };
        let words = stages
            .resends
            .gave_up(&mut call.trip, &class, &mut head, &read);
        drop(read);
        let body = match (words, remains) {
            (Some(words), _) => ResponseBody::full(words),
            (None, Remains::Whole(body)) => ResponseBody::inner(Rest::off(body)),
            (None, Remains::Read(body)) => body.into_body(Rest::off),
            (None, Remains::Held(landing)) => Rest::unwatched(landing),
        };
        Ok(Response::from_parts(head, body))
    }
}

/// An answer of our own goes up.
fn own<R, Re, G, C>(
    stages: &Policies<Re, G, C>,
    call: &mut CallState<Re, G>,
    class: &Class,
    response: Answer<R, Re, G, C>,
) -> Answer<R, Re, G, C>
where
    R: Body<Data = Bytes> + Unpin,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: crate::ClassifyResponse,
{
    let (mut head, body) = response.into_parts();
    let words = stages.resends.gave_up(
        &mut call.trip,
        class,
        &mut head,
        body.own().unwrap_or_default(),
    );
    let body = words.map_or(body, ResponseBody::full);
    Response::from_parts(head, body)
}

impl<S, R, Re, G, C> fmt::Debug for DriverFuture<S, R, Re, G, C>
where
    S: Service<Request<RequestBody>>,
    R: Body,
    Re: CallPolicy,
    G: AttemptPolicy,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverFuture").finish_non_exhaustive()
    }
}
