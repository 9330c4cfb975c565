//! The service and its future.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_core::{
    Call, Deadline, Endpoint, Priority, RejectReason, Rejection, RequestBody, ResponseBody,
    event::{Event, emit},
    toolkit::take_ready,
};
use tower_service::Service;

use crate::{
    request::{LAYER, LONGEST, Question, Template, take_marks},
    scheduler::{BatchCall, Placement, Ticket},
    shared::{Shared, Word},
};

/// A service that answers calls that can wait by batches. [`BatchLayer`](crate::BatchLayer) makes
/// it, behind a [`BufferRequest`](tower_claude_core::toolkit::BufferRequest) that buffers the
/// request bodies.
#[derive(Clone)]
pub struct Batch<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Batch<S> {
    pub(crate) const fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, R> Service<Request<RequestBody>> for Batch<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: Body<Data = Bytes> + Unpin,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S>;

    /// Always ready: a call that waits does not need the inner service, and another one waits for
    /// its readiness in the call.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        if let Some(rejection) = request.body().rejection() {
            let rejection = Some(Box::new(rejection));
            return ResponseFuture::new(State::Rejected { rejection });
        }
        let marks = match take_marks(&mut request) {
            Ok(marks) => marks,
            Err(response) => {
                if let Some(rejection) = response.extensions().get::<Rejection>() {
                    let event = Event::Rejected {
                        layer: LAYER,
                        scope: None,
                        reason: rejection.reason,
                        class: rejection.class(),
                    };
                    emit(&self.shared.settings.events, &event);
                }
                let response = Some(response);
                return ResponseFuture::new(State::Answered { response });
            }
        };
        // Not of the driver's requests about batches.
        let is_message =
            |request: &Request<_>| Endpoint::of(request.uri().path()) == Endpoint::Messages;
        let policy = self.shared.settings.policy.as_ref();
        let policy = policy.filter(|_| is_message(&request));
        let tolerance = marks.tolerance.or_else(|| policy?(&request));
        if let Some(tolerance) = tolerance {
            let marked = Box::new(Marked {
                service: self.inner.clone(),
                shared: self.shared.clone(),
                request,
                // A policy may return any time.
                tolerance: tolerance.min(LONGEST),
                key: marks.key,
            });
            return ResponseFuture::new(State::Marked {
                marked: Some(marked),
            });
        }
        // No waker is needed, because the future polls for readiness again.
        let mut cx = Context::from_waker(Waker::noop());
        match self.inner.poll_ready(&mut cx) {
            Poll::Ready(Ok(())) => ResponseFuture {
                state: State::Calling {
                    future: self.inner.call(request),
                },
            },
            Poll::Ready(Err(error)) => {
                // A service must not be polled again after an error, so the next call gets a new
                // clone.
                self.inner = self.inner.clone();
                ResponseFuture::new(State::Unready { error: Some(error) })
            }
            Poll::Pending => ResponseFuture::new(State::Live {
                service: take_ready(&mut self.inner),
                request: Some(request),
            }),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Batch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// A call with a tolerance whose future was not polled yet.
struct Marked<S> {
    service: S,
    shared: Arc<Shared>,
    request: Request<RequestBody>,
    tolerance: Duration,
    key: Option<HeaderValue>,
}

/// The next state of a call with a tolerance.
enum Placed<S> {
    Waits(Box<WaitingCall<S>>),
    Live(S, Box<Request<RequestBody>>),
}

impl<S> Marked<S> {
    /// Puts the call into the queue if a batch takes it.
    fn place(self) -> Placed<S> {
        let (shared, request) = (self.shared, self.request);
        let (started, settings) = (Instant::now(), &shared.settings);
        let question = if shared.is_ended() {
            Err("driver")
        } else if self.tolerance < settings.min_tolerance {
            Err("tolerance")
        } else {
            Question::of(
                &request,
                self.key.as_ref(),
                &shared.secret,
                &settings.ignored,
            )
        };
        let given = match Call::of(&request) {
            Some(call) => call.deadline(),
            None => request.extensions().get::<Deadline>().map(|given| given.0),
        };
        let deadline = started + self.tolerance;
        let deadline = given.map_or(deadline, |given| given.min(deadline));
        let placement = shared.change(|inner, now| {
            let question = match question {
                Ok(question) => question,
                Err(because) => return inner.scheduler.pass(because),
            };
            let pool = question.pool;
            let call = BatchCall::new(pool, question.key, question.model, question.body, deadline)
                .with_prefix(question.prefix);
            let placement = inner.scheduler.enqueue(call, now.instant);
            if let Placement::Waits { ticket, .. } = placement {
                inner.wait(ticket, pool, Template::of(&request));
            }
            placement
        });
        match placement {
            Placement::Waits { ticket, live_at } => {
                shared.wake.notify_one();
                Placed::Waits(Box::new(WaitingCall {
                    service: self.service,
                    request,
                    place: QueuePlace {
                        shared,
                        ticket: Some(ticket),
                    },
                    timer: Box::pin(sleep_until(live_at)),
                    started,
                    deadline,
                }))
            }
            Placement::Live(_) => Placed::Live(self.service, Box::new(request)),
        }
    }
}

/// The place of a call in the queue or in a batch, which a drop gives up.
struct QueuePlace {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let waker = self.shared.change(|inner, now| {
                inner.scheduler.withdraw(ticket, now.instant);
                inner.forget(ticket)
            });
            drop(waker);
            self.shared.wake.notify_one();
        }
    }
}

/// A call that waits for its answer.
struct WaitingCall<S> {
    service: S,
    request: Request<RequestBody>,
    place: QueuePlace,
    /// Ends when the call must be sent as an ordinary call, whatever the driver does.
    timer: Pin<Box<Sleep>>,
    started: Instant,
    deadline: Instant,
}

impl<S> WaitingCall<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Word> {
        let Some(ticket) = self.place.ticket else {
            return Poll::Ready(Word::Live);
        };
        let shared = &self.place.shared;
        let is_late = self.timer.as_mut().poll(cx).is_ready();
        let (mut waker, mut own) = (Some(cx.waker().clone()), None);
        let word = shared.change(|inner, now| {
            let word = inner.poll_word(ticket, &mut waker);
            match word {
                Some(Word::Answer(_)) => inner.scheduler.delivered(ticket, now.wall),
                None if is_late => {
                    inner.scheduler.go_live(ticket, now.instant);
                    own = inner.forget(ticket);
                    return Some(Word::Live);
                }
                _ => {}
            }
            word
        });
        drop((waker, own));
        match word {
            Some(word) => {
                self.place.ticket = None;
                shared.wake.notify_one();
                Poll::Ready(word)
            }
            None => Poll::Pending,
        }
    }

    /// Returns the service and the request to send, or the rejection of a call that is too late.
    fn into_live(self) -> Result<(S, Request<RequestBody>), Rejection> {
        let Self {
            service,
            mut request,
            started,
            deadline,
            ..
        } = self;
        if Instant::now() >= deadline {
            let after = started.elapsed();
            return Err(Rejection::new(LAYER, RejectReason::TimedOut { after }));
        }
        let known = Call::of(&request).cloned();
        let extensions = request.extensions_mut();
        extensions.insert(Deadline(deadline));
        // The caller's own priority stays.
        if extensions.get::<Priority>().is_none() {
            let raised = known.as_ref().map(|call| call.priority());
            let raised = raised.filter(|priority| *priority != Priority::Normal);
            extensions.insert(raised.unwrap_or(Priority::Batch));
        }
        if let Some(known) = known {
            // It was made before the wait, and inner layers would take the priority, the deadline
            // and the place in queues from it.
            if let Some(tenant) = known.tenant() {
                extensions.insert(tenant.clone());
            }
            extensions.insert(known.workload());
            extensions.remove::<Arc<Call>>();
            Arc::new(Call::new(extensions, Instant::now())).attach(&mut request);
        }
        Ok((service, request))
    }
}

pin_project! {
    /// The future of [`Batch`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        state: State<S>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S>
    where
        S: Service<Request<RequestBody>>,
    {
        /// A call with a tolerance that was not polled yet.
        Marked { marked: Option<Box<Marked<S>>> },
        /// Waits for a batch.
        Waits { waiting: Option<Box<WaitingCall<S>>> },
        /// An ordinary call: waits for the readiness of the inner service.
        Live { service: S, request: Option<Request<RequestBody>> },
        /// An ordinary call: waits for the response head.
        Calling { #[pin] future: S::Future },
        /// The inner service failed to become ready.
        Unready { error: Option<S::Error> },
        /// The request is not sent.
        Rejected { rejection: Option<Box<Rejection>> },
        /// The response is there.
        Answered { response: Option<Box<Response<Bytes>>> },
        Done,
    }
}

impl<S> ResponseFuture<S>
where
    S: Service<Request<RequestBody>>,
{
    const fn new(state: State<S>) -> Self {
        Self { state }
    }
}

impl<S, R> Future for ResponseFuture<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let result = loop {
            let next = match state.as_mut().project() {
                StateProjection::Marked { marked } => {
                    let marked = marked.take().expect("set in this state");
                    match marked.place() {
                        Placed::Waits(waiting) => State::Waits {
                            waiting: Some(waiting),
                        },
                        Placed::Live(service, request) => State::Live {
                            service,
                            request: Some(*request),
                        },
                    }
                }
                StateProjection::Waits { waiting } => {
                    let call = waiting.as_mut().expect("set in this state");
                    match ready!(call.poll(cx)) {
                        Word::Answer(response) => State::Answered {
                            response: Some(response),
                        },
                        Word::Live => {
                            let call = waiting.take().expect("set in this state");
                            match call.into_live() {
                                Ok((service, request)) => State::Live {
                                    service,
                                    request: Some(request),
                                },
                                Err(rejection) => State::Rejected {
                                    rejection: Some(Box::new(rejection)),
                                },
                            }
                        }
                    }
                }
                StateProjection::Live { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let request = request.take().expect("not called before");
                    State::Calling {
                        future: service.call(request),
                    }
                }
                StateProjection::Calling { future } => {
                    let response = ready!(future.poll(cx));
                    state.set(State::Done);
                    return Poll::Ready(response.map(|response| response.map(ResponseBody::inner)));
                }
                StateProjection::Unready { error } => {
                    break Err(error.take().expect("polled after completion"));
                }
                StateProjection::Rejected { rejection } => {
                    let rejection = rejection.take().expect("polled after completion");
                    break Ok(rejection.into_response());
                }
                StateProjection::Answered { response } => {
                    let response = response.take().expect("polled after completion");
                    break Ok(response.map(ResponseBody::full));
                }
                StateProjection::Done => panic!("polled after completion"),
            };
            state.set(next);
        };
        state.set(State::Done);
        Poll::Ready(result)
    }
}

impl<S> fmt::Debug for ResponseFuture<S>
where
    S: Service<Request<RequestBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
