//! The future of one admission.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tower_claude_core::{Cost, RejectReason, Rejection};

use crate::{
    limiter::AcquireRequest,
    local::{
        scope_limiter::{PollOutcome, ScopeLimiter},
        scope_map::ScopeMap,
    },
    nanos::nanos,
    pool::{Enqueued, QueuePlace, WaiterId, admission::NAME},
    reservation::Reservation,
    sync::{self, Sleep, sleep_until},
};

/// Future of an admission by a [`LocalLimiter`](crate::LocalLimiter).
///
/// It does nothing before its first poll, and panics if it is polled after completion. Dropping it
/// removes the request from the queue, or gives back its reservation, and wakes the next request.
#[must_use = "futures do nothing unless polled"]
pub struct LocalAcquire {
    state: State,
}

enum State {
    New { target: Target, ask: AcquireRequest },
    Waiting(Queued),
    Done,
}

enum Target {
    /// The first request of a scope creates its limiter, at its first poll.
    Missing(Arc<ScopeMap>),
    Found(Arc<ScopeLimiter>),
}

/// A request in the queue. Dropping it removes the request.
struct Queued {
    limiter: Arc<ScopeLimiter>,
    id: WaiterId,
    since: u64,
    expiry: u64,
    max_wait: Option<Duration>,
    by_deadline: bool,
    taken: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl LocalAcquire {
    pub(super) fn new(scopes: &Arc<ScopeMap>, ask: AcquireRequest) -> Self {
        // Most requests find their scope, and do not contend for the reference count of the map.
        let target = match scopes.get(&ask.scope) {
            Some(limiter) => Target::Found(limiter),
            None => Target::Missing(scopes.clone()),
        };
        Self {
            state: State::New { target, ask },
        }
    }

    /// Replaces the cost of the request, except for its workload, until it is admitted. Poll
    /// afterwards.
    pub fn revise(&mut self, cost: Cost) {
        match &mut self.state {
            State::New { ask, .. } => {
                ask.cost = cost.with_workload(ask.cost.workload);
            }
            State::Waiting(queued) => queued.limiter.revise(queued.id, cost),
            State::Done => {}
        }
    }

    /// Returns the position in the queue, or `None` if the request does not wait.
    ///
    /// It is counted from the nearer end of the queue of its priority and tenant, under the lock of
    /// its scope, so the cost is linear in the middle of a long queue.
    #[must_use]
    pub fn place(&self) -> Option<QueuePlace> {
        match &self.state {
            State::Waiting(queued) => queued.limiter.place(queued.id),
            State::New { .. } | State::Done => None,
        }
    }
}

impl Future for LocalAcquire {
    type Output = Result<Reservation, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let State::Waiting(queued) = &mut self.state {
                let result = ready!(queued.poll(cx));
                self.state = State::Done;
                return Poll::Ready(result);
            }
            let State::New { target, ask } = mem::replace(&mut self.state, State::Done) else {
                panic!("polled after completion");
            };
            let limiter = match target {
                Target::Missing(scopes) => scopes.get_or_create(&ask.scope),
                Target::Found(limiter) => limiter,
            };
            let now = limiter.nanos(sync::now());
            match limiter.enqueue(now, &ask)? {
                Enqueued::Granted(id) => {
                    let reservation = Reservation::new(limiter, id.to_bits(), Duration::ZERO);
                    return Poll::Ready(Ok(reservation));
                }
                Enqueued::Waiting(id) => {
                    self.state = State::Waiting(Queued::new(limiter, id, now, &ask));
                }
            }
        }
    }
}

impl Queued {
    fn new(limiter: Arc<ScopeLimiter>, id: WaiterId, now: u64, ask: &AcquireRequest) -> Self {
        let longest = ask
            .max_wait
            .map_or(u64::MAX, |wait| now.saturating_add(nanos(wait)));
        let deadline = ask.deadline.map_or(u64::MAX, |at| limiter.nanos(at));
        Self {
            limiter,
            id,
            since: now,
            expiry: longest.min(deadline),
            max_wait: ask.max_wait,
            by_deadline: deadline <= longest,
            taken: false,
            sleep: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reservation, Rejection>> {
        loop {
            let now = self.limiter.nanos(sync::now());
            match self.limiter.poll(now, self.id, self.expiry, cx) {
                PollOutcome::Granted(id) => {
                    self.taken = true;
                    let waited = Duration::from_nanos(now.saturating_sub(self.since));
                    let reservation = Reservation::new(self.limiter.clone(), id.to_bits(), waited);
                    return Poll::Ready(Ok(reservation));
                }
                PollOutcome::Expired(next) => {
                    self.taken = true;
                    return Poll::Ready(Err(self.rejection(now, next)));
                }
                PollOutcome::Wait(at) => {
                    let Some(at) = self.limiter.instant(at).filter(|_| at < u64::MAX) else {
                        self.sleep = None;
                        return Poll::Pending;
                    };
                    let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
                    if sleep.deadline() != at || sleep.is_elapsed() {
                        sleep.as_mut().reset(at);
                    }
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn rejection(&self, now: u64, next: Option<u64>) -> Rejection {
        let estimated = Duration::from_nanos(now.saturating_sub(self.since));
        let reason = match self.max_wait {
            Some(max_wait) if !self.by_deadline => RejectReason::WaitTooLong {
                estimated,
                max_wait,
            },
            _ => RejectReason::DeadlineWouldPass {
                estimated,
                remaining: Duration::ZERO,
            },
        };
        let wait = next.map(|at| Duration::from_nanos(at.saturating_sub(now)));
        Rejection::new(NAME, reason).with_retry_after(wait)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if !self.taken {
            let now = self.limiter.nanos(sync::now());
            self.limiter.cancel(now, self.id);
        }
    }
}

impl fmt::Debug for LocalAcquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::New { .. } => "new",
            State::Waiting(_) => "waiting",
            State::Done => "done",
        };
        f.debug_struct("LocalAcquire")
            .field("state", &state)
            .finish()
    }
}
