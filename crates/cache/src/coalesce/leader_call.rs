//! The leader's call to the inner service.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tower_claude_core::{Kind, RequestBody};
use tower_service::Service;

use crate::{
    answer::head::{Head, is_out_of_time},
    coalesce::{
        shared_fetch::{LeaderGuard, Subscriber},
        state::{FetchEnd, FetchParams},
    },
};

/// The leader's own result, beside the response that all subscribers share.
pub(crate) enum LeaderResult<R, E> {
    /// The head. The body is read from the shared fetch.
    Shared(Parts, SizeHint),
    /// A response that is not shared.
    Own(Parts, R),
    Error(E),
}

/// A slot for the leader's result. The leader may be cancelled while a detached task makes the
/// call.
pub(crate) struct ResultSlot<R, E>(Arc<Mutex<Option<LeaderResult<R, E>>>>);

impl<R, E> ResultSlot<R, E> {
    pub(crate) fn take(&self) -> Option<LeaderResult<R, E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, result: LeaderResult<R, E>) {
        // If the receiver is gone, the result is dropped at once.
        if Arc::strong_count(&self.0) > 1 {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    }
}

impl<R, E> Default for ResultSlot<R, E> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }
}

impl<R, E> Clone for ResultSlot<R, E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pin_project! {
    /// The future of a call that fills the cache, as [`Detach`](crate::Detach) gets it.
    #[must_use = "futures do nothing unless polled"]
    pub struct LeaderCall<S, R>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        call: Option<S::Future>,
        service: S,
        request: Option<Request<RequestBody>>,
        // Before the subscriber: leadership must be given up while the fetch still has a
        // subscriber.
        leader: Option<(LeaderGuard, FetchParams)>,
        slot: ResultSlot<R, S::Error>,
        // Set if the call is detached: it then reads the body to its end.
        subscriber: Option<Subscriber>,
    }
}

impl<S, R> LeaderCall<S, R>
where
    S: Service<Request<RequestBody>>,
{
    pub(crate) const fn new(
        service: S,
        request: Request<RequestBody>,
        leader: (LeaderGuard, FetchParams),
        slot: ResultSlot<R, S::Error>,
        subscriber: Option<Subscriber>,
    ) -> Self {
        Self {
            call: None,
            service,
            request: Some(request),
            leader: Some(leader),
            slot,
            subscriber,
        }
    }
}

impl<S, R> Future for LeaderCall<S, R>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        while this.leader.is_some() {
            let result = if let Some(call) = this.call.as_mut().as_pin_mut() {
                let result = ready!(call.poll(cx));
                this.call.set(None);
                result
            } else {
                match (ready!(this.service.poll_ready(cx)), this.request.take()) {
                    (Ok(()), Some(request)) => {
                        this.call.set(Some(this.service.call(request)));
                        continue;
                    }
                    (Ok(()), None) => break,
                    (Err(error), _) => Err(error),
                }
            };
            if let Some((guard, params)) = this.leader.take() {
                publish(result, guard, params, this.slot);
            }
        }
        if let Some(subscriber) = this.subscriber {
            ready!(subscriber.poll_drain(cx));
        }
        *this.subscriber = None;
        Poll::Ready(())
    }
}

/// Leaves the result for the leader, and publishes it to the other subscribers afterwards.
fn publish<R, E>(
    result: Result<Response<R>, E>,
    guard: LeaderGuard,
    params: FetchParams,
    slot: &ResultSlot<R, E>,
) where
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
{
    let response = match result {
        Ok(response) => response,
        Err(error) => {
            slot.put(LeaderResult::Error(error));
            return guard.fail(FetchEnd::LeaderFailed(Kind::Transport));
        }
    };
    let (parts, body) = response.into_parts();
    if is_out_of_time(&parts) {
        // The subscribers may have more time. Dropping the guard makes one of them the leader.
        slot.put(LeaderResult::Own(parts, body));
        return drop(guard);
    }
    match Head::from_parts(&parts) {
        Some(head) => {
            slot.put(LeaderResult::Shared(parts, body.size_hint()));
            guard.open(head, params, Box::new(body));
        }
        None => {
            slot.put(LeaderResult::Own(parts, body));
            guard.fail(FetchEnd::NotShareable);
        }
    }
}

impl<S, R> fmt::Debug for LeaderCall<S, R>
where
    S: Service<Request<RequestBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderCall").finish_non_exhaustive()
    }
}
