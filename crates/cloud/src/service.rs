//! The service and its future.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_claude_core::{
    RejectReason, Rejection, RequestBody, ResponseBody,
    event::{Event, emit},
    toolkit::take_ready,
};
use tower_claude_wire::cloud::{Losses, Target};
use tower_service::Service;

#[cfg(feature = "bedrock")]
use crate::bedrock::EventStreamDecoder;
use crate::{
    answer::{self, Treatment},
    attempt::{Attempt, Authorized, NAME, Step},
    authorize::AuthorizeError,
    body::CloudBody,
    config::Config,
    held::Held,
};

/// The longest time between a signature and the request that carries it. Signatures of AWS are
/// valid for five minutes.
const LONGEST_SIGNED: Duration = Duration::from_secs(60);

/// The greatest number of times that one request waits for a credential.
const MOST_WAITS: u32 = 3;

/// A service that sends each request to its target. [`CloudLayer`](crate::CloudLayer) makes it,
/// behind a [`BufferRequest`](tower_claude_core::toolkit::BufferRequest) that buffers the request
/// bodies.
#[derive(Clone)]
pub struct CloudService<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> CloudService<S> {
    pub(crate) const fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, R> Service<Request<RequestBody>> for CloudService<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    R: Body<Data = Bytes> + Unpin,
{
    type Response = Response<ResponseBody<CloudBody<R>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, R>;

    /// Always ready: the future waits for the credential first, and then for the inner service.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let state = match Attempt::prepare(&self.config, request) {
            Step::Reject(rejection, target) => State::Rejected {
                rejected: Some(Box::new(Rejected {
                    rejection,
                    target,
                    config: self.config.clone(),
                })),
            },
            Step::Send(attempt) => State::Authorizing {
                sending: Some(Sending {
                    service: take_ready(&mut self.inner),
                    config: self.config.clone(),
                    attempt,
                    waits: 0,
                }),
            },
            Step::Pass(request) => self.pass(request),
        };
        ResponseFuture { state }
    }
}

impl<S> CloudService<S> {
    /// Sends a request without a target.
    fn pass<R>(&mut self, request: Request<RequestBody>) -> State<S, R>
    where
        S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
        R: Body,
    {
        // No waker is needed, because the future polls for readiness again.
        let mut cx = Context::from_waker(Waker::noop());
        match self.inner.poll_ready(&mut cx) {
            Poll::Ready(Ok(())) => State::Passing {
                future: self.inner.call(request),
            },
            Poll::Ready(Err(error)) => {
                // A service must not be polled again after an error, so the next call gets a new
                // clone.
                self.inner = self.inner.clone();
                State::Unready { error: Some(error) }
            }
            Poll::Pending => State::Waiting {
                service: take_ready(&mut self.inner),
                request: Some(request),
            },
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for CloudService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Returns the response of a rejection, and emits its event.
    fn reject<R: Body<Data = Bytes> + Unpin>(
        &self,
        rejection: Rejection,
        target: Option<&Target>,
        error: Option<AuthorizeError>,
    ) -> Response<ResponseBody<CloudBody<R>>> {
        let event = Event::Rejected {
            layer: NAME,
            scope: None,
            reason: rejection.reason,
            class: rejection.class(),
        };
        emit(&self.observers, &event);
        let mut response = rejection.into_response();
        if let Some(target) = target {
            let (mut head, body) = response.into_parts();
            answer::label(
                &mut head.headers,
                &mut head.extensions,
                target,
                &Losses::default(),
            );
            response = Response::from_parts(head, body);
        }
        if let Some(error) = error {
            response.extensions_mut().insert(error);
        }
        response
    }
}

/// A request on its way, and the service that it is sent to.
struct Sending<S> {
    service: S,
    config: Arc<Config>,
    attempt: Box<Attempt>,
    /// The number of waits for a credential.
    waits: u32,
}

/// A request that is not sent.
struct Rejected {
    rejection: Rejection,
    target: Option<Target>,
    config: Arc<Config>,
}

type Wait = Pin<Box<dyn Future<Output = Result<(), AuthorizeError>> + Send>>;

pin_project! {
    /// The future of [`CloudService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, R>
    where
        S: Service<Request<RequestBody>>,
        R: Body,
    {
        #[pin]
        state: State<S, R>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, R>
    where
        S: Service<Request<RequestBody>>,
        R: Body,
    {
        /// Without a target: waits for the readiness of the inner service.
        Waiting { service: S, request: Option<Request<RequestBody>> },
        /// Without a target: waits for the response.
        Passing { #[pin] future: S::Future },
        /// Without a target: the inner service failed to become ready.
        Unready { error: Option<S::Error> },
        /// The request was not sent.
        Rejected { rejected: Option<Box<Rejected>> },
        /// The request gets its credential.
        Authorizing { sending: Option<Sending<S>> },
        /// Waits for a credential.
        Fetching { sending: Option<Sending<S>>, wait: Wait },
        /// Waits for the readiness of the inner service.
        Readying {
            sending: Option<Sending<S>>,
            request: Option<Box<Request<RequestBody>>>,
            signed: Instant,
        },
        /// Waits for the response head.
        Calling { sending: Option<Sending<S>>, #[pin] future: S::Future },
        /// Reads the body of an error.
        Reading { sending: Option<Sending<S>>, head: Option<Box<Parts>>, held: Option<Held<R>> },
        Done,
    }
}

impl<S, R> Future for ResponseFuture<S, R>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin,
{
    type Output = Result<Response<ResponseBody<CloudBody<R>>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let result = loop {
            let next = match state.as_mut().project() {
                StateProjection::Waiting { service, request } => {
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        break Err(error);
                    }
                    let request = request.take().expect("not called before");
                    State::Passing {
                        future: service.call(request),
                    }
                }
                StateProjection::Passing { future } => match ready!(future.poll(cx)) {
                    Ok(response) => break Ok(response.map(inner)),
                    Err(error) => break Err(error),
                },
                StateProjection::Unready { error } => {
                    break Err(error.take().expect("polled after completion"));
                }
                StateProjection::Rejected { rejected } => {
                    let rejected = rejected.take().expect("polled after completion");
                    let target = rejected.target.as_ref();
                    break Ok(rejected.config.reject(rejected.rejection, target, None));
                }
                StateProjection::Authorizing { sending: slot } => {
                    let mut sending = slot.take().expect("set in this state");
                    match sending.attempt.authorize(SystemTime::now()) {
                        Authorized::Request(request) => State::Readying {
                            sending: Some(sending),
                            request: Some(request),
                            signed: Instant::now(),
                        },
                        Authorized::Wait(_) if sending.waits == MOST_WAITS => {
                            let why = "the credentials of the source expire at once";
                            break Ok(sending.reject(AuthorizeError::new(why)));
                        }
                        Authorized::Wait(wait) => {
                            sending.waits += 1;
                            State::Fetching {
                                sending: Some(sending),
                                wait,
                            }
                        }
                        Authorized::Failed(error) => break Ok(sending.reject(error)),
                    }
                }
                StateProjection::Fetching { sending, wait } => {
                    let fetched = ready!(wait.as_mut().poll(cx));
                    let sending = sending.take().expect("set in this state");
                    match fetched {
                        Ok(()) => State::Authorizing {
                            sending: Some(sending),
                        },
                        Err(error) => break Ok(sending.reject(error)),
                    }
                }
                StateProjection::Readying {
                    sending: slot,
                    request,
                    signed,
                } => {
                    let sending = slot.as_mut().expect("set in this state");
                    if let Err(error) = ready!(sending.service.poll_ready(cx)) {
                        break Err(error);
                    }
                    let request = request.take().expect("set in this state");
                    if signed.elapsed() > LONGEST_SIGNED && sending.attempt.can_sign_again() {
                        State::Authorizing {
                            sending: slot.take(),
                        }
                    } else {
                        let future = sending.service.call(*request);
                        State::Calling {
                            sending: slot.take(),
                            future,
                        }
                    }
                }
                StateProjection::Calling { sending, future } => {
                    let response = match ready!(future.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => break Err(error),
                    };
                    let mut sending = sending.take().expect("set in this state");
                    let (head, body) = response.into_parts();
                    if head.extensions.get::<Rejection>().is_some() {
                        // An inner layer did not send the request.
                        break Ok(Response::from_parts(head, inner(body)));
                    }
                    if answer::is_expired(&head) && sending.attempt.reject_credential() {
                        State::Authorizing {
                            sending: Some(sending),
                        }
                    } else {
                        let attempt = &sending.attempt;
                        match answer::treatment(&attempt.target, attempt.stream, &head) {
                            Treatment::Read => State::Reading {
                                sending: Some(sending),
                                head: Some(Box::new(head)),
                                held: Some(Held::new(body)),
                            },
                            treatment => break Ok(attempt.answer(head, body, treatment)),
                        }
                    }
                }
                StateProjection::Reading {
                    sending,
                    head,
                    held,
                } => {
                    ready!(held.as_mut().expect("set in this state").poll_read(cx));
                    let mut sending = sending.take().expect("set in this state");
                    let mut head = *head.take().expect("set in this state");
                    let held = held.take().expect("set in this state");
                    let native = held.whole();
                    let error = native
                        .as_ref()
                        .and_then(|body| answer::error_in(&head, body));
                    match native.zip(error) {
                        None => {
                            let body = CloudBody::held(held);
                            break Ok(sending.attempt.labelled(head, ResponseBody::inner(body)));
                        }
                        Some((_, error))
                            if answer::has_expired(&error)
                                && sending.attempt.reject_credential() =>
                        {
                            // The failed response is gone before another one is asked for.
                            drop(held);
                            State::Authorizing {
                                sending: Some(sending),
                            }
                        }
                        Some((native, error)) => {
                            let body = answer::replace_error(&mut head, native, &error);
                            break Ok(sending.attempt.labelled(head, ResponseBody::full(body)));
                        }
                    }
                }
                StateProjection::Done => panic!("polled after completion"),
            };
            state.set(next);
        };
        state.set(State::Done);
        Poll::Ready(result)
    }
}

impl<S> Sending<S> {
    /// Returns the response of a request for which there is no credential.
    fn reject<R: Body<Data = Bytes> + Unpin>(
        &self,
        error: AuthorizeError,
    ) -> Response<ResponseBody<CloudBody<R>>> {
        let rejection = Rejection::new(NAME, RejectReason::NoCredential);
        self.config
            .reject(rejection, Some(&self.attempt.target), Some(error))
    }
}

impl Attempt {
    /// Returns the response of the target.
    fn answer<R: Body<Data = Bytes> + Unpin>(
        &self,
        head: Parts,
        body: R,
        treatment: Treatment,
    ) -> Response<ResponseBody<CloudBody<R>>> {
        let (head, body) = match treatment {
            #[cfg(feature = "bedrock")]
            Treatment::Decode => {
                let mut head = head;
                let decoder = EventStreamDecoder::new();
                answer::describe_events(&mut head, decoder.metrics().clone());
                (head, CloudBody::decoded(body, decoder))
            }
            _ => (head, CloudBody::inner(body)),
        };
        self.labelled(head, ResponseBody::inner(body))
    }

    fn labelled<B>(&self, mut head: Parts, body: B) -> Response<B> {
        let (headers, extensions) = (&mut head.headers, &mut head.extensions);
        answer::label(headers, extensions, &self.target, &self.losses);
        Response::from_parts(head, body)
    }
}

fn inner<R: Body<Data = Bytes> + Unpin>(body: R) -> ResponseBody<CloudBody<R>> {
    ResponseBody::inner(CloudBody::inner(body))
}

impl<S, R> fmt::Debug for ResponseFuture<S, R>
where
    S: Service<Request<RequestBody>>,
    R: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
