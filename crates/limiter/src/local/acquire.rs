//! The future of one request that asks to be sent.

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

use super::{
    Shared,
    desk::{Desk, Look},
};
use crate::{
    Ask, Reservation,
    pool::{Enqueued, QueuePlace, WaiterId, admission::NAME},
    sync::{self, Sleep, sleep_until},
};

/// Waits until one request may be sent; made by [`LocalLimiter`](crate::LocalLimiter).
///
/// It does nothing before its first poll, and panics when it is polled after completion. Dropping it gives its place up, or what was granted to it
/// meanwhile, and wakes whoever comes next.
#[must_use = "futures do nothing unless polled"]
pub struct LocalAcquire {
    step: Step,
}

enum Step {
    Ask { whom: Whom, ask: Ask },
    Wait(Queued),
    Done,
}

enum Whom {
    /// The first of its scope makes the desk, at its first poll.
    Nobody(Arc<Shared>),
    Desk(Arc<Desk>),
    /// It has been asked.
    Asked,
}

/// A place in a queue; dropping it gives the place up.
struct Queued {
    desk: Arc<Desk>,
    ticket: WaiterId,
    since: u64,
    expiry: u64,
    max_wait: Option<Duration>,
    by_deadline: bool,
    taken: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl LocalAcquire {
    pub(super) fn new(shared: &Arc<Shared>, ask: Ask) -> Self {
        // A desk that is there is all it takes: threads do not meet in the count of `shared` too.
        let whom = match shared.map.get(&ask.scope) {
            Some(desk) => Whom::Desk(desk),
            None => Whom::Nobody(shared.clone()),
        };
        Self {
            step: Step::Ask { whom, ask },
        }
    }

    /// Replaces the cost of the request, its workload aside, as long as it is not admitted. To be polled
    /// afterwards.
    pub fn revise(&mut self, cost: Cost) {
        match &mut self.step {
            Step::Ask { ask, .. } => {
                ask.cost = cost.with_workload(ask.cost.workload);
            }
            Step::Wait(queued) => queued.desk.revise(queued.ticket, cost),
            Step::Done => {}
        }
    }

    /// Where the request waits; `None` when it does not wait yet, or no more.
    ///
    /// It is counted from the nearer end of the queue of its priority and tenant, under the lock of its
    /// scope: quick for who has just come or is about to be let out, and linear in the middle.
    #[must_use]
    pub fn place(&self) -> Option<QueuePlace> {
        match &self.step {
            Step::Wait(queued) => queued.desk.place(queued.ticket),
            Step::Ask { .. } | Step::Done => None,
        }
    }
}

impl Future for LocalAcquire {
    type Output = Result<Reservation, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let result = match &mut self.step {
                Step::Ask { whom, ask } => {
                    let desk = match mem::replace(whom, Whom::Asked) {
                        Whom::Nobody(shared) => shared.desk(&ask.scope),
                        Whom::Desk(desk) => desk,
                        Whom::Asked => panic!("polled after completion"),
                    };
                    let now = desk.nanos(sync::now());
                    match desk.enqueue(now, ask) {
                        Ok(Enqueued::Granted(id)) => {
                            Ok(Reservation::new(desk, id.to_bits(), Duration::ZERO))
                        }
                        Ok(Enqueued::Waiting(ticket)) => {
                            self.step = Step::Wait(Queued::new(desk, ticket, now, ask));
                            continue;
                        }
                        Err(refusal) => Err(refusal),
                    }
                }
                Step::Wait(queued) => ready!(queued.poll(cx)),
                Step::Done => panic!("polled after completion"),
            };
            self.step = Step::Done;
            return Poll::Ready(result);
        }
    }
}

impl Queued {
    fn new(desk: Arc<Desk>, ticket: WaiterId, now: u64, ask: &Ask) -> Self {
        let longest = ask
            .max_wait
            .and_then(|wait| u64::try_from(wait.as_nanos()).ok())
            .map_or(u64::MAX, |wait| now.saturating_add(wait));
        let deadline = ask.deadline.map_or(u64::MAX, |at| desk.nanos(at));
        Self {
            desk,
            ticket,
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
            let now = self.desk.nanos(sync::now());
            match self.desk.look(now, self.ticket, self.expiry, cx) {
                Look::Granted(id) => {
                    self.taken = true;
                    let waited = Duration::from_nanos(now.saturating_sub(self.since));
                    let reservation = Reservation::new(self.desk.clone(), id.to_bits(), waited);
                    return Poll::Ready(Ok(reservation));
                }
                Look::Expired(next) => {
                    self.taken = true;
                    return Poll::Ready(Err(self.refusal(now, next)));
                }
                Look::Wait(at) => {
                    let Some(at) = self.desk.instant(at).filter(|_| at < u64::MAX) else {
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

    fn refusal(&self, now: u64, next: Option<u64>) -> Rejection {
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
            let now = self.desk.nanos(sync::now());
            self.desk.give_up(now, self.ticket);
        }
    }
}

impl fmt::Debug for LocalAcquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Ask { .. } => "asking",
            Step::Wait(_) => "waiting",
            Step::Done => "done",
        };
        f.debug_struct("LocalAcquire").field("step", &step).finish()
    }
}
