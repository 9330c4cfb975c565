//! The limiter of one scope: its pool behind a lock, and the futures that wait for it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::{Duration, SystemTime},
};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_core::{
    Cost, EstimatedTokens, Outcome, Priority, Reach, Rejection, Scope,
    toolkit::{Ledger, LimitWarning, LimiterId, Observation},
};

use crate::{
    config::LimiterConfig,
    limiter::AcquireRequest,
    limits::PoolLimits,
    local::hub::Hub,
    pool::{
        Pool,
        bucket::nanos,
        header_observer::ObservedHead,
        in_flight::ReservationId,
        queue::flow::WaiterId,
        request::{Enqueued, Next, PoolRequest, QueuePlace},
        share_message::{ShareMessage, ShareReply},
    },
    reservation::{ReservationBackend, Settlement},
    snapshot::ScopeSnapshot,
    sync::{self, Mutex, MutexGuard},
};

/// The limiter of one scope.
pub(crate) struct ScopeLimiter {
    limiter: LimiterId,
    scope: Scope,
    start: Instant,
    /// The time until which response heads need not be read.
    skip_heads_until: AtomicU64,
    /// Set if the limits are shared through a store.
    store: Option<StoreLink>,
    state: Mutex<State>,
}

/// The way of messages from a pool to the driver of its store.
struct StoreLink {
    hub: Arc<Hub<ScopeLimiter>>,
    this: Weak<ScopeLimiter>,
    number: u64,
}

impl StoreLink {
    fn announce(&self, state: &mut State) {
        if !state.is_announced
            && state.pool.has_message()
            && let Some(this) = self.this.upgrade()
        {
            state.is_announced = true;
            self.hub.push(this);
        }
    }
}

struct State {
    pool: Pool,
    /// The driver of the store has this scope in its queue.
    is_announced: bool,
    waiting: HashMap<WaiterId, Waiting, RandomState>,
    granted: Vec<(WaiterId, ReservationId)>,
    used_at: u64,
}

/// A future that waits.
struct Waiting {
    /// Taken when it is woken. A second wake before the next poll is not needed.
    waker: Option<Waker>,
    /// The time at which its own timer wakes it.
    timer_at: u64,
    result: Option<Result<ReservationId, Box<Rejection>>>,
}

/// Wakers collected under the lock, to be woken after its release.
type WakeList = Vec<Waker>;

fn wake_all(list: WakeList) {
    list.into_iter().for_each(Waker::wake);
}

/// The result of a poll by a waiting future.
pub(crate) enum PollOutcome {
    Granted(ReservationId),
    /// The request was removed from a full queue.
    Shed(Rejection),
    /// The state cannot change before this time unless another call is made.
    Wait(u64),
    /// The wait expired. The time is that of the queue's next admission, if time causes it. The
    /// position is not computed, since many requests may expire in one pause.
    Expired(Option<u64>),
}

impl ScopeLimiter {
    pub(crate) fn new(
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
            skip_heads_until: AtomicU64::new(0),
            store: None,
            state: Mutex::new(State {
                pool: Pool::new(scope, limits, config, now).with_wall_time(now, SystemTime::now()),
                is_announced: false,
                waiting: HashMap::default(),
                granted: Vec::new(),
                used_at: now,
            }),
        }
    }

    /// Returns the limiter of a scope whose limits are shared through the store of this hub.
    pub(crate) fn shared(
        limiter: LimiterId,
        start: Instant,
        scope: Scope,
        limits: &PoolLimits,
        config: LimiterConfig,
        hub: &Arc<Hub<Self>>,
    ) -> Arc<Self> {
        let now = since(start, sync::now());
        let mut pool = Pool::shared(scope.clone(), limits, config, hub.policy(), now)
            .with_wall_time(now, SystemTime::now());
        if hub.is_down() {
            pool.set_store_down(now, true);
        }
        Arc::new_cyclic(|this| Self {
            limiter,
            scope,
            start,
            skip_heads_until: AtomicU64::new(0),
            store: Some(StoreLink {
                hub: hub.clone(),
                this: this.clone(),
                number: hub.next_number(),
            }),
            state: Mutex::new(State {
                pool,
                is_announced: false,
                waiting: HashMap::default(),
                granted: Vec::new(),
                used_at: now,
            }),
        })
    }

    /// Announces a message of the pool to the driver of the store.
    #[inline]
    fn announce(&self, state: &mut State) {
        if let Some(store) = &self.store {
            store.announce(state);
        }
    }

    pub(crate) const fn name(&self) -> &Scope {
        &self.scope
    }

    /// Returns the number of this scope among the shared scopes of the process.
    pub(crate) fn number(&self) -> u64 {
        self.store.as_ref().map_or(0, |store| store.number)
    }

    /// Takes the message to the store.
    pub(crate) fn take_message(&self) -> Option<ShareMessage> {
        let now = self.nanos(sync::now());
        let mut state = self.lock();
        state.is_announced = false;
        state.pool.take_message(now)
    }

    /// Applies the answer to a message, or `None` if there was none.
    pub(crate) fn on_reply(&self, id: u64, reply: Option<&ShareReply>) {
        let now = self.nanos(sync::now());
        self.exchange(now, |pool| match reply {
            Some(reply) => pool.on_reply(now, id, reply),
            None => pool.on_no_reply(now, id),
        });
    }

    pub(crate) fn set_store_down(&self, down: bool) {
        let now = self.nanos(sync::now());
        self.exchange(now, |pool| pool.set_store_down(now, down));
    }

    fn exchange(&self, now: u64, change: impl FnOnce(&mut Pool)) {
        let mut wakes = WakeList::new();
        let mut state = self.lock();
        change(&mut state.pool);
        state.poll_pool(now, &mut wakes);
        self.announce(&mut state);
        drop(state);
        self.skip_heads_until.store(0, Ordering::Relaxed);
        wake_all(wakes);
    }

    /// Returns the nanoseconds since the limiter's start, or 0 before it.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        since(self.start, at)
    }

    /// Returns the instant of a pool time, or `None` if it overflows.
    pub(crate) fn instant(&self, nanos: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(nanos))
    }

    pub(crate) fn enqueue(&self, now: u64, ask: &AcquireRequest) -> Result<Enqueued, Rejection> {
        let arrival = ask.first_arrival.map_or(now, |at| self.nanos(at).min(now));
        let request = PoolRequest::new(ask.cost, arrival)
            .with_deadline(ask.deadline.map(|at| self.nanos(at)))
            .with_max_wait(ask.max_wait.map(nanos))
            .with_priority(ask.priority)
            .with_tenant(ask.tenant.as_ref())
            .with_bytes(ask.bytes as u64);
        let mut state = self.lock();
        state.used_at = state.used_at.max(now);
        let enqueued = state.pool.enqueue(now, request);
        self.update_skip_heads(now, &state.pool);
        let mut wakes = WakeList::new();
        if let Ok(Enqueued::Waiting(id)) = enqueued {
            let waiting = Waiting {
                waker: None,
                timer_at: u64::MAX,
                result: None,
            };
            state.waiting.insert(id, waiting);
        }
        let is_shed = state.reject_shed(&mut wakes);
        // An admission ahead of the queue, or a request that was given up, may change its head.
        let has_new_head = matches!(enqueued, Ok(Enqueued::Granted(_))) || is_shed;
        if has_new_head && state.pool.queued() > 0 {
            state.poll_pool(now, &mut wakes);
        }
        self.announce(&mut state);
        drop(state);
        wake_all(wakes);
        enqueued
    }

    /// Admits a request if no other waits and all levels suffice.
    pub(crate) fn grant(
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
        if state.pool.skip_heads_until() == 0 {
            self.skip_heads_until.store(0, Ordering::Relaxed);
        }
        Some(id)
    }

    /// See [`Pool::is_estimate_doubtful`].
    pub(crate) fn is_estimate_doubtful(&self, now: Instant, cost: &Cost) -> bool {
        let now = self.nanos(now);
        self.lock().pool.is_estimate_doubtful(now, cost)
    }

    fn update_skip_heads(&self, now: u64, pool: &Pool) {
        if self.skip_heads_until.load(Ordering::Relaxed) > now && !pool.has_plenty() {
            self.skip_heads_until.store(0, Ordering::Relaxed);
        }
    }

    /// Returns the grant of `id`, or polls the queue and registers the waker.
    pub(crate) fn poll(
        &self,
        now: u64,
        id: WaiterId,
        expiry: u64,
        cx: &Context<'_>,
    ) -> PollOutcome {
        let mut wakes = WakeList::new();
        // Wakers are cloned before the lock is taken and dropped after it is released, since both
        // may run any code.
        let mut waker = Some(cx.waker().clone());
        let mut state = self.lock();
        // A waiter that is being polled does not need to be woken.
        let waiting = state.waiting.get_mut(&id);
        let _old = waiting.and_then(|waiting| waiting.waker.take());
        let next = state.poll_pool(now, &mut wakes);
        let is_head = state.pool.head() == Some(id);
        let is_asking = is_head && state.pool.is_asking_for(id);
        let outcome = match state.waiting.get_mut(&id) {
            Some(waiting) => {
                if let Some(result) = waiting.result.take() {
                    state.waiting.remove(&id);
                    match result {
                        Ok(reservation) => PollOutcome::Granted(reservation),
                        Err(rejection) => PollOutcome::Shed(*rejection),
                    }
                } else if now >= expiry && !is_asking {
                    state.leave(now, id, &mut wakes);
                    PollOutcome::Expired(match next {
                        Next::At(at) => Some(at),
                        Next::OnChange | Next::Idle => None,
                    })
                } else {
                    let at = match next {
                        Next::At(at) if is_asking => at,
                        Next::At(at) if is_head => at.min(expiry),
                        _ => expiry,
                    };
                    waiting.timer_at = at;
                    waiting.waker = waker.take();
                    PollOutcome::Wait(at)
                }
            }
            None => PollOutcome::Expired(None),
        };
        self.announce(&mut state);
        drop(state);
        wake_all(wakes);
        outcome
    }

    /// Replaces the cost of a request that waits. The caller polls next.
    pub(crate) fn revise(&self, id: WaiterId, cost: Cost) {
        self.lock().pool.revise(id, cost);
    }

    /// Raises the priority of a request that waits, and returns its new id. The caller polls next.
    pub(crate) fn raise_priority(&self, id: WaiterId, priority: Priority) -> WaiterId {
        let mut state = self.lock();
        let Some(raised) = state.pool.raise_priority(id, priority) else {
            return id;
        };
        if let Some(waiting) = state.waiting.remove(&id) {
            state.waiting.insert(raised, waiting);
        }
        raised
    }

    /// Returns the position of a request in the queue.
    pub(crate) fn place(&self, id: WaiterId) -> Option<QueuePlace> {
        let now = self.nanos(sync::now());
        self.lock().pool.place(now, id)
    }

    /// Removes a request from the queue, or gives back its grant.
    pub(crate) fn cancel(&self, now: u64, id: WaiterId) {
        let mut wakes = WakeList::new();
        let mut state = self.lock();
        // Dropped after the lock is released, since dropping a waker may run any code.
        let _waker = state.leave(now, id, &mut wakes);
        self.announce(&mut state);
        drop(state);
        wake_all(wakes);
    }

    pub(crate) fn snapshot(&self) -> ScopeSnapshot {
        let now = self.nanos(sync::now());
        self.lock().pool.snapshot(now)
    }

    /// Returns the spent part of the limits and the time of last use, if the pool is idle.
    pub(crate) fn idle(&self) -> Option<(u64, u64)> {
        let now = self.nanos(sync::now());
        let state = self.lock();
        let idle = state.pool.is_idle(now);
        idle.then(|| (state.pool.spent(now), state.used_at))
    }

    /// Changes the pool and wakes the requests that became admissible. If the change is a report
    /// for `report`, also wakes the head of the queue if its cost estimate may have improved.
    fn change<T>(
        &self,
        now: u64,
        report: Option<ReservationId>,
        change: impl FnOnce(&mut Pool) -> T,
    ) -> T {
        let mut state = self.lock();
        if state.pool.queued() == 0 {
            let result = change(&mut state.pool);
            self.announce(&mut state);
            return result;
        }
        let has_listener = report.is_some_and(|id| state.pool.has_listener(id));
        let result = change(&mut state.pool);
        let mut wakes = WakeList::new();
        state.poll_pool(now, &mut wakes);
        if has_listener
            && state.pool.head_is_revisable()
            && let Some(head) = state.pool.head()
            && let Some(waiting) = state.waiting.get_mut(&head)
        {
            wakes.extend(waiting.waker.take());
        }
        self.announce(&mut state);
        drop(state);
        wake_all(wakes);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Polls the pool, hands grants to the waiting futures, and ensures that the head wakes in
    /// time.
    fn poll_pool(&mut self, now: u64, wakes: &mut WakeList) -> Next {
        let next = self.pool.poll(now, &mut self.granted);
        self.reject_shed(wakes);
        for (id, reservation) in self.granted.drain(..) {
            if let Some(waiting) = self.waiting.get_mut(&id) {
                waiting.result = Some(Ok(reservation));
                wakes.extend(waiting.waker.take());
            } else {
                // Unreachable, but a reservation must not leak.
                self.pool.settle(now, reservation, &Settlement::NotSent);
            }
        }
        if let (Next::At(at), Some(head)) = (next, self.pool.head())
            && let Some(waiting) = self.waiting.get_mut(&head)
            && waiting.timer_at > at
        {
            wakes.extend(waiting.waker.take());
        }
        next
    }

    /// Hands rejections to the waiting futures that the pool has given up. Returns true if there
    /// are any.
    fn reject_shed(&mut self, wakes: &mut WakeList) -> bool {
        let shed = self.pool.take_shed();
        let is_any = !shed.is_empty();
        for (id, rejection) in shed {
            if let Some(waiting) = self.waiting.get_mut(&id) {
                waiting.result = Some(Err(Box::new(rejection)));
                wakes.extend(waiting.waker.take());
            }
        }
        is_any
    }

    /// Removes a waiting future and returns its waker.
    fn leave(&mut self, now: u64, id: WaiterId, wakes: &mut WakeList) -> Option<Waker> {
        let waiting = self.waiting.remove(&id)?;
        match waiting.result {
            Some(Ok(reservation)) => self.pool.settle(now, reservation, &Settlement::NotSent),
            Some(Err(_)) => {}
            None => {
                self.pool.cancel(id);
            }
        }
        self.poll_pool(now, wakes);
        waiting.waker
    }
}

impl Ledger for ScopeLimiter {
    fn limiter(&self) -> LimiterId {
        self.limiter
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }

    fn can_skip_head(&self, at: Instant) -> bool {
        let until = self.skip_heads_until.load(Ordering::Relaxed);
        until > 0 && until > self.nanos(at)
    }

    fn observe(&self, reservation: u64, seen: &Observation<'_>) -> Option<LimitWarning> {
        let now = self.nanos(seen.at);
        let class = &seen.class;
        let rejected = class.is_rate_limit() && !class.local && class.reach > Reach::Request;
        let head = ObservedHead::new(seen.limits, seen.server_time)
            .with_accepted(class.is_success())
            .with_rejected(rejected)
            .with_warn_percent(seen.warn_percent);
        let (warning, skip_heads_until) = self.change(now, None, |pool| {
            let warning = pool.observe(now, ReservationId::from_bits(reservation), &head);
            (warning, pool.skip_heads_until())
        });
        self.skip_heads_until
            .store(skip_heads_until, Ordering::Relaxed);
        warning
    }

    fn pause(&self, reservation: u64, retry_after: Option<Duration>, now: Instant) -> Duration {
        let now = self.nanos(now);
        let id = ReservationId::from_bits(reservation);
        let jitter = fastrand::f64();
        self.skip_heads_until.store(0, Ordering::Relaxed);
        let mut state = self.lock();
        let pause = state.pool.rate_limited(now, id, retry_after, jitter);
        self.announce(&mut state);
        pause
    }
}

impl ReservationBackend for ScopeLimiter {
    fn estimated(&self, reservation: u64) -> EstimatedTokens {
        let state = self.lock();
        state.pool.estimated(ReservationId::from_bits(reservation))
    }

    fn true_up_input(&self, reservation: u64, actual: u64, now: Instant) {
        let now = self.nanos(now);
        let id = ReservationId::from_bits(reservation);
        self.change(now, Some(id), |pool| pool.true_up_input(now, id, actual));
    }

    fn produced(&self, reservation: u64, output: u64, now: Instant) {
        let now = self.nanos(now);
        let id = ReservationId::from_bits(reservation);
        self.change(now, None, |pool| pool.produced(now, id, output));
    }

    fn settle(&self, reservation: u64, settlement: Settlement, now: Instant) {
        let now = self.nanos(now);
        let id = ReservationId::from_bits(reservation);
        self.change(now, Some(id), |pool| pool.settle(now, id, &settlement));
    }

    fn settle_outcome(&self, reservation: u64, outcome: &Outcome<'_>, now: Instant) {
        let now = self.nanos(now);
        let id = ReservationId::from_bits(reservation);
        let (usage, is_complete) = (outcome.usage(), matches!(outcome, Outcome::Complete { .. }));
        self.change(now, Some(id), |pool| {
            pool.settle_usage(now, id, usage, is_complete);
        });
    }
}

impl fmt::Debug for ScopeLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeLimiter")
            .field("limiter", &self.limiter)
            .finish_non_exhaustive()
    }
}

fn since(start: Instant, at: Instant) -> u64 {
    at.checked_duration_since(start).map_or(0, nanos)
}

#[cfg(test)]
mod tests;
