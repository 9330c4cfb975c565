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
use tower_claude_core::RequestBody;
use tower_service::Service;

use crate::{
    Detach, Fill, Store,
    call::{Answer, BYPASS, HIT, passing},
    flight::flying::{Flying, Landing},
    lookup::{Found, Lookup},
};

pin_project! {
    /// Future of [`Cache`](crate::Cache).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, R, D, T>
    where
        S: Service<Request<RequestBody>>,
        T: Store,
    {
        #[pin]
        state: State<S, R, D, T>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, R, D, T>
    where
        S: Service<Request<RequestBody>>,
        T: Store,
    {
        /// Past the cache: until the inner service is ready.
        Waiting { service: S, request: Option<Request<RequestBody>>, bypassed: bool },
        /// Past the cache: until the response head.
        Calling { #[pin] future: S::Future, bypassed: bool },
        /// Past the cache, and the inner service cannot become ready.
        Unready { error: Option<S::Error> },
        /// Until the store has answered.
        Looking { lookup: Option<Lookup<S, D, T>> },
        // Boxed: rare beside what passes, and several times as long.
        /// Until there is an answer, own or another's.
        Flying { flying: Pin<Box<Flying<S, R, D, T>>> },
        Done,
    }
}

impl<S, R, D, T> ResponseFuture<S, R, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    /// A call that does not ask for the cache.
    pub(crate) const fn calling(future: S::Future) -> Self {
        Self {
            state: State::Calling {
                future,
                bypassed: false,
            },
        }
    }

    /// The same, while the inner service is not ready.
    pub(crate) const fn past(service: S, request: Request<RequestBody>) -> Self {
        Self {
            state: State::Waiting {
                service,
                request: Some(request),
                bypassed: false,
            },
        }
    }

    pub(crate) const fn unready(error: S::Error) -> Self {
        Self {
            state: State::Unready { error: Some(error) },
        }
    }

    pub(crate) const fn looking(lookup: Lookup<S, D, T>) -> Self {
        Self {
            state: State::Looking {
                lookup: Some(lookup),
            },
        }
    }
}

impl<S, R, D, T> Future for ResponseFuture<S, R, D, T>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
    D: Detach<Fill<S, R>>,
    T: Store,
{
    type Output = Result<Answer<R>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Waiting {
                    service,
                    request,
                    bypassed,
                } => {
                    ready!(service.poll_ready(cx))?;
                    let request = request.take().expect("not called before");
                    let bypassed = *bypassed;
                    let future = service.call(request);
                    state.set(State::Calling { future, bypassed });
                    continue;
                }
                StateProjection::Calling { future, bypassed } => {
                    let result = ready!(future.poll(cx));
                    let said = bypassed.then_some(BYPASS);
                    state.set(State::Done);
                    return Poll::Ready(result.map(|response| passing(response, said)));
                }
                StateProjection::Unready { error } => {
                    let error = error.take().expect("polled after completion");
                    state.set(State::Done);
                    return Poll::Ready(Err(error));
                }
                StateProjection::Looking { lookup: slot } => {
                    let lookup = slot.as_mut().expect("there until it is over");
                    match ready!(lookup.poll(cx)) {
                        Found::Hit(entry) => {
                            let answer = lookup.call.stored(entry, HIT);
                            state.set(State::Done);
                            return Poll::Ready(Ok(answer));
                        }
                        Found::Seat(seat) => {
                            let lookup = slot.take().expect("as just now");
                            State::Flying {
                                flying: Box::pin(Flying::new(seat, lookup)),
                            }
                        }
                        Found::Past { bypassed } => {
                            let Lookup {
                                service, mut call, ..
                            } = slot.take().expect("as just now");
                            State::Waiting {
                                service,
                                request: call.request(),
                                bypassed,
                            }
                        }
                    }
                }
                StateProjection::Flying { flying } => match ready!(flying.as_mut().poll(cx)) {
                    Landing::Answer(answer) => {
                        state.set(State::Done);
                        return Poll::Ready(answer);
                    }
                    Landing::Alone(service, request) => State::Waiting {
                        service,
                        request: Some(request),
                        bypassed: true,
                    },
                },
                StateProjection::Done => panic!("polled after completion"),
            };
            state.set(next);
        }
    }
}

impl<S, R, D, T> fmt::Debug for ResponseFuture<S, R, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
