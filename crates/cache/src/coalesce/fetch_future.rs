//! A caller's part in a shared fetch: it waits for the response, or leads and makes the call.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, response::Parts};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_claude_core::{Kind, Rejection, RequestBody, event::CacheDecision};
use tower_service::Service;

use crate::{
    answer::head::calls_for_stale,
    body::CacheBody,
    call::{CacheStatus, CacheableCall, Lookup},
    coalesce::{
        leader_call::{LeaderCall, LeaderResult, ResultSlot},
        shared_fetch::Subscriber,
        state::{SharedResponse, Update},
    },
    detach::Detach,
    store::Store,
};

pin_project! {
    /// The future of a caller in a shared fetch.
    pub(crate) struct FetchFuture<S, R, D, T>
    where
        S: Service<Request<RequestBody>>,
        T: Store,
    {
        // Set while this caller drives the call. Dropped before the subscriber, with which the
        // fetch ends.
        #[pin]
        leader_call: Option<LeaderCall<S, R>>,
        // Set if this caller is or was the leader.
        slot: Option<ResultSlot<R, S::Error>>,
        #[pin]
        timer: Option<Sleep>,
        caller: Caller<S, T>,
        detach: D,
    }
}

/// The outcome of a shared fetch for one caller.
pub(crate) enum FetchResult<S, R, E> {
    /// A response that the cache makes: shared, stored, or an error.
    Cache(Response<CacheBody>),
    /// The inner service's response to this caller alone.
    Own(Response<R>),
    Error(E),
    Rejected(Rejection),
    /// The response cannot be shared. The caller makes a call of its own.
    Bypass(S, Request<RequestBody>),
}

/// The parts of a caller that its decisions use.
struct Caller<S, T> {
    /// The leader's own head, held until it is clear that no stale response is better.
    held: Option<(Parts, SizeHint)>,
    /// Set until the response is returned.
    subscriber: Option<Subscriber>,
    /// Set until a call is made.
    service: Option<S>,
    call: CacheableCall<T>,
}

impl<S, R, D, T> FetchFuture<S, R, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    pub(crate) fn new(subscriber: Subscriber, lookup: Lookup<S, D, T>) -> Self {
        Self {
            leader_call: None,
            slot: None,
            timer: lookup.call.deadline.map(sleep_until),
            caller: Caller {
                held: None,
                subscriber: Some(subscriber),
                service: Some(lookup.service),
                call: lookup.call,
            },
            detach: lookup.detach,
        }
    }
}

impl<S, R, D, T> Future for FetchFuture<S, R, D, T>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
    D: Detach<LeaderCall<S, R>>,
    T: Store,
{
    type Output = FetchResult<S, R, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let caller = this.caller;
        loop {
            if let Some(leader_call) = this.leader_call.as_mut().as_pin_mut()
                && leader_call.poll(cx).is_ready()
            {
                this.leader_call.set(None);
            }
            let subscriber = caller.subscriber.as_ref();
            let subscriber = subscriber.expect("polled after completion");
            let drives = this.leader_call.is_some() && !D::DETACHED;
            let mut result = this.slot.as_ref().and_then(ResultSlot::take);
            let update = if drives || result.is_some() {
                Poll::Pending
            } else {
                subscriber.poll_update(caller.call.stale.is_some(), cx)
            };
            // Its drop gives the leadership to another subscriber, if this caller cannot lead.
            let guard = matches!(update, Poll::Ready(Update::Lead { .. }))
                .then(|| subscriber.leader_guard());
            // Checked again: a detached call leaves the result before it publishes the response.
            if result.is_none() {
                result = this.slot.as_ref().and_then(ResultSlot::take);
            }
            if let Some(result) = result {
                match caller.on_result(result) {
                    Some(result) => return Poll::Ready(result),
                    None => continue,
                }
            }
            match update {
                Poll::Ready(Update::Lead { again }) => {
                    let (Some(guard), Some((request, params)), Some(service)) =
                        (guard, caller.call.launch(), caller.service.take())
                    else {
                        return Poll::Ready(caller.leader_failed(Kind::Transport));
                    };
                    let task = D::DETACHED.then(|| subscriber.for_task());
                    if again {
                        caller.call.config.record(CacheDecision::TakenOver, "");
                    }
                    caller.call.config.record(CacheDecision::Miss, "");
                    let slot = this.slot.insert(ResultSlot::default()).clone();
                    let leader_call =
                        LeaderCall::new(service, request, (guard, params), slot, task);
                    this.leader_call.set(this.detach.detach(leader_call));
                }
                Poll::Ready(Update::Response(response)) => {
                    return Poll::Ready(caller.on_response(response));
                }
                Poll::Ready(Update::LeaderFailed(kind)) => {
                    return Poll::Ready(caller.leader_failed(kind));
                }
                Poll::Ready(Update::NotShareable) => {
                    return Poll::Ready(caller.on_not_shareable());
                }
                // The inner layers enforce the deadline of the caller that drives the call.
                Poll::Pending if drives => return Poll::Pending,
                Poll::Pending => {
                    let Some(timer) = this.timer.as_mut().as_pin_mut() else {
                        return Poll::Pending;
                    };
                    ready!(timer.poll(cx));
                    return Poll::Ready(match caller.call.stale() {
                        Some(stale) => FetchResult::Cache(stale),
                        None => FetchResult::Rejected(caller.call.timed_out()),
                    });
                }
            }
        }
    }
}

impl<S, T: Store> Caller<S, T> {
    /// Handles the leader's own result. `None` if its head is held until more of the response is
    /// known.
    fn on_result<R, E>(&mut self, result: LeaderResult<R, E>) -> Option<FetchResult<S, R, E>> {
        let outage = match &result {
            LeaderResult::Error(_) => true,
            LeaderResult::Shared(parts, _) | LeaderResult::Own(parts, _) => calls_for_stale(parts),
        };
        if outage && let Some(stale) = self.call.stale() {
            return Some(FetchResult::Cache(stale));
        }
        Some(match result {
            LeaderResult::Error(error) => FetchResult::Error(error),
            LeaderResult::Own(parts, body) => FetchResult::Own(Response::from_parts(parts, body)),
            // The stream may still fail before its content.
            LeaderResult::Shared(parts, promised)
                if self.call.stale.is_some() && parts.status == StatusCode::OK =>
            {
                self.held = Some((parts, promised));
                return None;
            }
            LeaderResult::Shared(parts, promised) => self.own(parts, promised),
        })
    }

    /// Handles the shared response.
    fn on_response<R, E>(&mut self, response: SharedResponse) -> FetchResult<S, R, E> {
        if self.call.stale.is_some()
            && (response.failed || calls_for_stale(&response.head.parts()))
            && let Some(stale) = self.call.stale()
        {
            return FetchResult::Cache(stale);
        }
        if let Some((parts, promised)) = self.held.take() {
            return self.own(parts, promised);
        }
        if self.call.may_do_better(&response)
            && let Some(bypass) = self.bypass()
        {
            return bypass;
        }
        let subscriber = self.take_subscriber();
        FetchResult::Cache(self.call.joined(response, subscriber))
    }

    /// Handles a response that cannot be shared, or is too long to be held.
    fn on_not_shareable<R, E>(&mut self) -> FetchResult<S, R, E> {
        if let Some((parts, promised)) = self.held.take() {
            return self.own(parts, promised);
        }
        match self.bypass() {
            Some(bypass) => bypass,
            None => self.leader_failed(Kind::Transport),
        }
    }

    /// Handles a leader that got no response.
    fn leader_failed<R, E>(&mut self, kind: Kind) -> FetchResult<S, R, E> {
        let stale = self.call.stale();
        FetchResult::Cache(stale.unwrap_or_else(|| self.call.leader_failed(kind)))
    }

    /// Returns the leader's own response, whose body is shared.
    fn own<R, E>(&mut self, parts: Parts, promised: SizeHint) -> FetchResult<S, R, E> {
        let body = CacheBody::Shared(self.take_subscriber(), Some(promised));
        let mut response = Response::from_parts(parts, body);
        CacheStatus::Miss.label(response.headers_mut());
        FetchResult::Cache(response)
    }

    /// Returns the request for a call of its own, unless it was sent already.
    fn bypass<R, E>(&mut self) -> Option<FetchResult<S, R, E>> {
        let (service, request) = (self.service.take()?, self.call.request.take()?);
        self.call.config.record(CacheDecision::Bypass, "not_shared");
        Some(FetchResult::Bypass(service, request))
    }

    fn take_subscriber(&mut self) -> Subscriber {
        self.subscriber.take().expect("set until the response")
    }
}
