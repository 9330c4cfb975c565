//! One scope: its pool behind a lock, and those who wait for it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::{Duration, SystemTime},
};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_core::{Cost, Ledger, LimitWarning, LimiterId, Observation, Rejection, Scope};

use super::wakes::Wakes;
use crate::{
    Ask, Books, LimiterConfig, Pool, PoolLimits, ScopeSnapshot, Settlement,
    pool::{Enqueued, Next, ObservedHead, PoolRequest, QueuePlace, ReservationId, WaiterId},
    sync::{self, Mutex, MutexGuard},
};

/// One scope: its pool behind a lock, and those who wait for it.
pub(super) struct Desk {
    limiter: LimiterId,
    scope: Scope,
    start: Instant,
    /// Until when heads need not be read.
    calm: AtomicU64,
    state: Mutex<State>,
}

struct State {
    pool: Pool,
    /// Tickets are numbers of our own making.
    waiting: HashMap<WaiterId, Waiting, RandomState>,
    granted: Vec<(WaiterId, ReservationId)>,
    used_at: u64,
}

/// One who waits.
struct Waiting {
    /// Taken when woken: until it polls again, another wake is not needed.
    waker: Option<Waker>,
    /// When its own timer wakes it.
    armed: u64,
    granted: Option<ReservationId>,
}

/// What a waiting future finds when it looks.
pub(super) enum Look {
    Granted(ReservationId),
    /// Time alone changes nothing before this.
    Wait(u64),
    /// When the queue moves next, if time moves it. Not where it stood: of many that expire in one pause
    /// each would be searched for, under the lock.
    Expired(Option<u64>),
}

impl Desk {
    pub(super) fn new(
        limiter: LimiterId,
        start: Instant,
        scope: Scope,
        limits: &PoolLimits,
        config: LimiterConfig,
    ) -> Self {
        let now = since(start, sync::now());
        Self {
            limiter,
            scope: scope.clone(),
            start,
            calm: AtomicU64::new(0),
            state: Mutex::new(State {
                pool: Pool::new(scope, limits, config, now).with_wall_time(now, SystemTime::now()),
                waiting: HashMap::default(),
                granted: Vec::new(),
                used_at: now,
            }),
        }
    }

    /// Nanoseconds since the limiter's start; none before it.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        since(self.start, at)
    }

    /// The instant of a pool time, `None` if it is too far to name.
    pub(super) fn instant(&self, nanos: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(nanos))
    }

    pub(super) fn enqueue(&self, now: u64, ask: &Ask) -> Result<Enqueued, Rejection> {
        let arrival = ask.first_arrival.map_or(now, |at| self.nanos(at).min(now));
        let ask = PoolRequest::new(ask.cost, arrival)
            .with_deadline(ask.deadline.map(|at| self.nanos(at)))
            .with_max_wait(ask.max_wait.map(whole_nanos))
            .with_priority(ask.priority)
            .with_tenant(ask.tenant.as_ref());
        let mut state = self.lock();
        state.used_at = state.used_at.max(now);
        let enqueued = state.pool.enqueue(now, ask)?;
        if self.calm.load(Ordering::Relaxed) > now && !state.pool.has_plenty() {
            self.calm.store(0, Ordering::Relaxed);
        }
        if let Enqueued::Waiting(ticket) = enqueued {
            let waiting = Waiting {
                waker: None,
                armed: u64::MAX,
                granted: None,
            };
            state.waiting.insert(ticket, waiting);
        } else if state.pool.queued() > 0 {
            // It overtook those who wait: by its turn another may be the first of them now.
            let mut wakes = Wakes::default();
            state.turn(now, &mut wakes);
            drop(state);
            wakes.wake();
        }
        Ok(enqueued)
    }

    /// Admits a request that nothing keeps.
    pub(super) fn grant(
        &self,
        now: Instant,
        cost: &Cost,
        deadline: Option<Instant>,
    ) -> Option<ReservationId> {
        let now = self.nanos(now);
        let deadline = deadline.map(|at| self.nanos(at));
        let mut state = self.lock();
        let id = state.pool.grant_now(now, cost, deadline)?;
        state.used_at = state.used_at.max(now);
        if self.calm.load(Ordering::Relaxed) > now && !state.pool.has_plenty() {
            self.calm.store(0, Ordering::Relaxed);
        }
        Some(id)
    }

    /// Looks whether `ticket` was granted, moves the queue, and leaves the waker.
    pub(super) fn look(&self, now: u64, ticket: WaiterId, expiry: u64, cx: &Context<'_>) -> Look {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        // Whoever looks needs no wake. The old waker goes after the lock: anything may go with it.
        let waiting = state.waiting.get_mut(&ticket);
        let _old = waiting.and_then(|waiting| waiting.waker.take());
        let next = state.turn(now, &mut wakes);
        let leads = state.pool.head() == Some(ticket);
        let look = match state.waiting.get_mut(&ticket) {
            Some(waiting) => {
                if let Some(id) = waiting.granted {
                    state.waiting.remove(&ticket);
                    Look::Granted(id)
                } else if now >= expiry {
                    state.leave(now, ticket, &mut wakes);
                    Look::Expired(match next {
                        Next::At(at) => Some(at),
                        Next::OnChange | Next::Idle => None,
                    })
                } else {
                    let at = match next {
                        Next::At(at) if leads => at.min(expiry),
                        _ => expiry,
                    };
                    waiting.armed = at;
                    waiting.waker = Some(cx.waker().clone());
                    Look::Wait(at)
                }
            }
            None => Look::Expired(None),
        };
        drop(state);
        wakes.wake();
        look
    }

    /// Replaces the cost of a request that waits; whoever does so looks next.
    pub(super) fn revise(&self, ticket: WaiterId, cost: Cost) {
        self.lock().pool.revise(ticket, cost);
    }

    /// Where a request waits.
    pub(super) fn place(&self, ticket: WaiterId) -> Option<QueuePlace> {
        let now = self.nanos(sync::now());
        self.lock().pool.place(now, ticket)
    }

    /// Gives up a place, or what was granted to it meanwhile.
    pub(super) fn give_up(&self, now: u64, ticket: WaiterId) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        // It goes after the lock: anything may go with it.
        let _waker = state.leave(now, ticket, &mut wakes);
        drop(state);
        wakes.wake();
    }

    pub(super) fn snapshot(&self) -> ScopeSnapshot {
        let now = self.nanos(sync::now());
        self.lock().pool.snapshot(now)
    }

    /// If nothing is in flight, waits or is paused: how much of its limits is spent, and when it was last
    /// asked.
    pub(super) fn idle(&self) -> Option<(u64, u64)> {
        let now = self.nanos(sync::now());
        let state = self.lock();
        let idle = state.pool.is_idle(now);
        idle.then(|| (state.pool.spent(now), state.used_at))
    }

    /// The same where an answer came, from which the estimator of the head may have learned.
    fn answered(&self, now: u64, id: ReservationId, change: impl FnOnce(&mut Pool)) {
        let mut state = self.lock();
        let has_listener = state.pool.has_listener(id);
        change(&mut state.pool);
        if state.pool.queued() == 0 {
            return;
        }
        let mut wakes = Wakes::default();
        state.turn(now, &mut wakes);
        if has_listener
            && state.pool.head_is_revisable()
            && let Some(head) = state.pool.head()
            && let Some(waiting) = state.waiting.get_mut(&head)
        {
            wakes.add(waiting.waker.take());
        }
        drop(state);
        wakes.wake();
    }

    /// Changes the pool and lets whoever became admissible know.
    fn change<T>(&self, now: u64, change: impl FnOnce(&mut Pool) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state.pool);
        if state.pool.queued() == 0 {
            return result;
        }
        let mut wakes = Wakes::default();
        state.turn(now, &mut wakes);
        drop(state);
        wakes.wake();
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Moves the queue: hands grants to their tickets, and sees to it that the head wakes in time.
    fn turn(&mut self, now: u64, wakes: &mut Wakes) -> Next {
        let next = self.pool.poll(now, &mut self.granted);
        for (ticket, id) in self.granted.drain(..) {
            if let Some(waiting) = self.waiting.get_mut(&ticket) {
                waiting.granted = Some(id);
                wakes.add(waiting.waker.take());
            } else {
                // Nobody is there to take it; cannot happen, but must not leak.
                self.pool.settle(now, id, &Settlement::NotSent);
            }
        }
        if let (Next::At(at), Some(head)) = (next, self.pool.head())
            && let Some(waiting) = self.waiting.get_mut(&head)
            && waiting.armed > at
        {
            wakes.add(waiting.waker.take());
        }
        next
    }

    /// Returns the waker that was left.
    fn leave(&mut self, now: u64, ticket: WaiterId, wakes: &mut Wakes) -> Option<Waker> {
        let waiting = self.waiting.remove(&ticket)?;
        match waiting.granted {
            Some(id) => self.pool.settle(now, id, &Settlement::NotSent),
            None => {
                self.pool.cancel(ticket);
            }
        }
        self.turn(now, wakes);
        waiting.waker
    }
}

impl Ledger for Desk {
    fn limiter(&self) -> LimiterId {
        self.limiter
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }

    fn is_calm(&self, at: Instant) -> bool {
        self.calm.load(Ordering::Relaxed) > self.nanos(at)
    }

    fn observe(&self, reservation: u64, seen: &Observation<'_>) -> Option<LimitWarning> {
        let now = self.nanos(seen.at);
        let rejected = seen.class.is_rate_limit() && !seen.class.local;
        let seen = ObservedHead::new(seen.limits, seen.server_time)
            .with_rejected(rejected)
            .with_warn_percent(seen.warn_percent);
        let (crossing, calm) = self.change(now, |pool| {
            let crossing = pool.observe(now, ReservationId::from_bits(reservation), &seen);
            (crossing, pool.skip_heads_until())
        });
        self.calm.store(calm, Ordering::Relaxed);
        crossing
    }

    fn pause(&self, reservation: u64, retry_after: Option<Duration>, now: Instant) -> Duration {
        let now = self.nanos(now);
        let id = ReservationId::from_bits(reservation);
        let jitter = fastrand::f64();
        self.calm.store(0, Ordering::Relaxed);
        self.lock().pool.rate_limited(now, id, retry_after, jitter)
    }
}

impl Books for Desk {
    fn true_up_input(&self, reservation: u64, actual: u64, now: Instant) {
        let now = self.nanos(now);
        let id = ReservationId::from_bits(reservation);
        self.answered(now, id, |pool| pool.true_up_input(now, id, actual));
    }

    fn produced(&self, reservation: u64, output: u64, now: Instant) {
        let now = self.nanos(now);
        let id = ReservationId::from_bits(reservation);
        self.change(now, |pool| pool.produced(now, id, output));
    }

    fn settle(&self, reservation: u64, settlement: Settlement, now: Instant) {
        let now = self.nanos(now);
        let id = ReservationId::from_bits(reservation);
        self.answered(now, id, |pool| pool.settle(now, id, &settlement));
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("limiter", &self.limiter)
            .finish_non_exhaustive()
    }
}

fn since(start: Instant, at: Instant) -> u64 {
    whole_nanos(at.saturating_duration_since(start))
}

fn whole_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
