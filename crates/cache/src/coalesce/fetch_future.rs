//! A caller's part in a shared fetch: it waits for the response, or leads and makes the call.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, response::Parts};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_core::{Call, Kind, Rejection, RequestBody, event::CacheDecision};
use tower_service::Service;

use crate::{
    answer::head::calls_for_stale,
    body::CacheBody,
    call::{CacheStatus, CacheableCall, Lookup},
    coalesce::{
        leader_call::{LeaderCall, LeaderResult, Member},
        shared_fetch::Subscriber,
        state::{SharedResponse, Update},
    },
    detach::Detach,
    store::Store,
};

/// The time after which another caller makes a new call, if the leader's call has woken and no
/// caller polls it. Callers of the same service poll it themselves.
const LEADER_GRACE: Duration = Duration::from_secs(1);

pin_project! {
    /// The future of a caller in a shared fetch.
    pub(crate) struct FetchFuture<S, D, T>
    where
        S: Service<Request<RequestBody>>,
        T: Store,
    {
        #[pin]
        timer: Option<Sleep>,
        // The wake-up after which the leader's call was not polled, and the time at which this
        // caller noticed it.
        unpolled: Option<(u64, Instant)>,
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
struct Caller<S, T>
where
    S: Service<Request<RequestBody>>,
{
    /// The leader's own head, held until it is clear that no stale response is better.
    held: Option<(Parts, SizeHint)>,
    // Dropped before the subscriber, with which the fetch ends.
    member: Member<S>,
    /// Set until the response is returned.
    subscriber: Option<Subscriber>,
    /// Set until a call is made.
    service: Option<S>,
    call: CacheableCall<T>,
}

impl<S, D, T> FetchFuture<S, D, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    pub(crate) fn new(subscriber: Subscriber, lookup: Lookup<S, D, T>) -> Self {
        Self {
            timer: None,
            unpolled: None,
            caller: Caller {
                held: None,
                member: lookup.calls.join(&subscriber),
                subscriber: Some(subscriber),
                service: Some(lookup.service),
                call: lookup.call,
            },
            detach: lookup.detach,
        }
    }
}

impl<S, R, D, T> Future for FetchFuture<S, D, T>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Send + 'static,
    D: Detach<LeaderCall<S>>,
    T: Store,
{
    type Output = FetchResult<S, R, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let caller = this.caller;
        loop {
            let subscriber = caller.subscriber.as_ref();
            let subscriber = subscriber.expect("polled after completion");
            let unkeyed = &caller.call.unkeyed;
            let mut result = caller.member.take_result(unkeyed);
            let until_content = caller.call.stale.is_some();
            let mut update = match result {
                Some(_) => Poll::Pending,
                None => subscriber.poll_update(until_content, cx),
            };
            if update.is_pending()
                && let Some((unpolled, since)) = *this.unpolled
                && since.elapsed() >= LEADER_GRACE
                && let Some(lead) = subscriber.take_over(unpolled)
            {
                update = Poll::Ready(lead);
            }
            // Its drop gives the leadership to another subscriber, if this caller cannot lead.
            let guard = matches!(update, Poll::Ready(Update::Lead { .. }))
                .then(|| subscriber.leader_guard());
            // Checked again: the result is left before the response is published.
            if result.is_none() {
                result = caller.member.take_result(unkeyed);
            }
            if let Some(result) = result {
                match caller.on_result(result) {
                    Some(result) => return Poll::Ready(result),
                    None => continue,
                }
            }
            match update {
                Poll::Ready(Update::Lead { again }) => {
                    // The response may have been stored since the lookup.
                    if let Some(entry) = caller.call.stored() {
                        return Poll::Ready(FetchResult::Cache(caller.call.hit(entry)));
                    }
                    let (Some(guard), Some((request, params)), Some(service)) =
                        (guard, caller.call.launch(), caller.service.take())
                    else {
                        return Poll::Ready(caller.leader_failed(Kind::Transport));
                    };
                    if let Some(call) = Call::of(&request) {
                        guard.launch(call.clone());
                    }
                    let task = D::DETACHED.then(|| subscriber.for_task());
                    if again {
                        caller.call.config.record(CacheDecision::TakenOver, "");
                    }
                    caller.call.config.record(CacheDecision::Miss, "");
                    let call = caller.member.lead(service, request, (guard, params), task);
                    if let Some(call) = this.detach.detach(call) {
                        caller.member.keep(Box::pin(call));
                    }
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
                Poll::Ready(Update::Again) => {
                    if let Some(result) = caller.join_again() {
                        return Poll::Ready(result);
                    }
                }
                Poll::Pending if caller.member.poll(subscriber.wakers()) => {}
                // The inner layers enforce the deadline of the caller that drives the call.
                Poll::Pending if caller.member.drives() => return Poll::Pending,
                Poll::Pending => {
                    let now = Instant::now();
                    let deadline = caller.call.deadline;
                    if deadline.is_some_and(|deadline| deadline <= now) {
                        return Poll::Ready(match caller.call.stale() {
                            Some(stale) => FetchResult::Cache(stale),
                            None => FetchResult::Rejected(caller.call.timed_out()),
                        });
                    }
                    let stalls_at = subscriber.stalls_at();
                    let stalls_at = stalls_at.filter(|_| caller.call.request.is_some());
                    if stalls_at.is_some_and(|at| at <= now) {
                        match caller.join_again() {
                            Some(result) => return Poll::Ready(result),
                            None => continue,
                        }
                    }
                    let since = match (subscriber.unpolled(), *this.unpolled) {
                        (Some(unpolled), Some((known, since))) if unpolled == known => Some(since),
                        (unpolled, _) => {
                            *this.unpolled = unpolled.map(|unpolled| (unpolled, now));
                            unpolled.map(|_| now)
                        }
                    };
                    let takes_over_at = since.and_then(|since| since.checked_add(LEADER_GRACE));
                    let times = [deadline, stalls_at, takes_over_at];
                    let Some(at) = times.into_iter().flatten().min() else {
                        return Poll::Pending;
                    };
                    match this.timer.as_mut().as_pin_mut() {
                        Some(timer) if timer.deadline() == at => {}
                        Some(timer) => timer.reset(at),
                        None => this.timer.set(Some(sleep_until(at))),
                    }
                    if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                        ready!(timer.poll(cx));
                    }
                }
            }
        }
    }
}

impl<S, T> Caller<S, T>
where
    S: Service<Request<RequestBody>>,
    T: Store,
{
    /// Handles the leader's own result. `None` if its head is held until more of the response is
    /// known.
    fn on_result<R, E>(
        &mut self,
        result: LeaderResult<Response<R>, E>,
    ) -> Option<FetchResult<S, R, E>> {
        match result {
            LeaderResult::Error(error) => Some(match self.call.stale() {
                Some(stale) => FetchResult::Cache(stale),
                None => FetchResult::Error(error),
            }),
            LeaderResult::Own(response) => {
                let (parts, body) = response.into_parts();
                Some(match self.stale_for(&parts) {
                    Some(stale) => stale,
                    None => FetchResult::Own(Response::from_parts(parts, body)),
                })
            }
            LeaderResult::Shared(parts, promised) => {
                if let Some(stale) = self.stale_for(&parts) {
                    return Some(stale);
                }
                if self.call.stale.is_some() && parts.status == StatusCode::OK {
                    // The stream may still fail before its content.
                    self.held = Some((parts, promised));
                    return None;
                }
                Some(self.own(parts, promised))
            }
        }
    }

    /// Returns the stale response, if there is one and it is better than this response.
    fn stale_for<R, E>(&mut self, head: &Parts) -> Option<FetchResult<S, R, E>> {
        let stale = calls_for_stale(head).then(|| self.call.stale()).flatten();
        stale.map(FetchResult::Cache)
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
        if self.call.may_differ(&response)
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
        match stale {
            Some(stale) => FetchResult::Cache(stale),
            None => FetchResult::Rejected(self.call.leader_failed(kind)),
        }
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

    /// Joins another fetch. Returns a result if that is not possible.
    fn join_again<R, E>(&mut self) -> Option<FetchResult<S, R, E>> {
        if self.call.request.is_none() {
            return Some(self.leader_failed(Kind::Timeout));
        }
        let Some(subscriber) = self.call.join() else {
            return self.bypass();
        };
        self.member = self.member.join(&subscriber);
        self.subscriber = Some(subscriber);
        None
    }

    fn take_subscriber(&mut self) -> Subscriber {
        self.subscriber.take().expect("set until the response")
    }
}
