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
    Detach, Entry, Fill, Store,
    call::{Answer, Call, HIT},
    flight::flying::{Flying, Landing},
    flight::seat::Seat,
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
        state: State<S, R, T>,
        // Until it is called, or given to the call that fills the cache.
        service: Option<S>,
        call: Call<T>,
        detach: D,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, R, T>
    where
        S: Service<Request<RequestBody>>,
        T: Store,
    {
        /// The first poll.
        Arrived,
        /// Until the store has answered.
        Looking { get: T::Get },
        /// Past the cache: until the inner service is ready.
        Waiting,
        /// Past the cache: until the response head.
        Calling { #[pin] future: S::Future },
        /// Until there is an answer, own or another's.
        Flying { #[pin] flying: Flying<S, R> },
        Done,
    }
}

impl<S, R, D, T> ResponseFuture<S, R, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    pub(crate) const fn new(service: S, call: Call<T>, detach: D) -> Self {
        Self {
            state: State::Arrived,
            service: Some(service),
            call,
            detach,
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
        let mut this = self.project();
        let call = this.call;
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Arrived => match call.plan() {
                    Some(key) => State::Looking {
                        get: call.config.store.get(&key),
                    },
                    None => State::Waiting,
                },
                StateProjection::Looking { get } => {
                    let entry = ready!(Pin::new(get).poll(cx));
                    let found = call.found(entry).map_or_else(|| join(call), Joined::Hit);
                    match found {
                        Joined::Hit(entry) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(call.stored(entry, HIT)));
                        }
                        Joined::Seat(seat) => State::Flying {
                            flying: Flying::new(seat, call.deadline),
                        },
                        Joined::Full => {
                            call.bypass("waiters");
                            State::Waiting
                        }
                    }
                }
                StateProjection::Waiting => {
                    let service = this.service.as_mut().expect("not called before");
                    ready!(service.poll_ready(cx))?;
                    let request = call.request().expect("not sent before");
                    State::Calling {
                        future: service.call(request),
                    }
                }
                StateProjection::Calling { future } => {
                    let result = ready!(future.poll(cx));
                    this.state.set(State::Done);
                    return Poll::Ready(result.map(|response| call.passing(response)));
                }
                StateProjection::Flying { flying } => {
                    match ready!(flying.poll(call, this.service, this.detach, cx)) {
                        Landing::Answer(answer) => {
                            this.state.set(State::Done);
                            return Poll::Ready(answer);
                        }
                        Landing::Alone => {
                            call.bypass("not_shared");
                            State::Waiting
                        }
                    }
                }
                StateProjection::Done => panic!("polled after completion"),
            };
            this.state.set(next);
        }
    }
}

enum Joined {
    Hit(Entry),
    Seat(Seat),
    Full,
}

/// Takes a seat; or finds that the answer has been stored since this call looked.
fn join<T: Store>(call: &mut Call<T>) -> Joined {
    let Some(key) = call.key else {
        return Joined::Full;
    };
    let config = call.config.clone();
    let stored = || {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut config.store.get(&key)).poll(&mut cx) {
            Poll::Ready(entry) => call.found(entry),
            Poll::Pending => None,
        }
    };
    let (most, limit) = (config.max_waiters, config.entry_limit);
    match Seat::join(config.clone(), key, most, limit, stored) {
        Ok(Some(seat)) => Joined::Seat(seat),
        Ok(None) => Joined::Full,
        Err(entry) => Joined::Hit(entry),
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
