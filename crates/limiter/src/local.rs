//! The limiter of one process: a bounded map of the scopes in use, and the future of an admission.

mod hub;
mod scope_limiter;

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_core::{
    Cost, Priority, RejectReason, Rejection, Scope,
    toolkit::{AsScope, LimiterId, get_by_scope},
};

use crate::{
    config::LimiterConfig,
    limiter::{AcquireRequest, Limiter},
    limits::Limits,
    local::{
        hub::Hub,
        scope_limiter::{PollOutcome, ScopeLimiter},
    },
    pool::{
        admission::NAME,
        bucket::nanos,
        queue::flow::WaiterId,
        request::{Enqueued, QueuePlace},
        share_message::{ShareMessage, SharePolicy, ShareReply},
    },
    reservation::Reservation,
    snapshot::ScopeSnapshot,
    sync::{self, RwLock, Sleep, sleep_until},
};

/// The limiter of one process: a [`Pool`](crate::Pool) per scope, driven by tokio's clock. Clones
/// share all state.
///
/// Immediate admission takes one short lock and does not allocate. Only requests that wait need a
/// tokio runtime with time enabled. A waiting future must be polled when it is woken, or dropped. A
/// head of a queue that is kept but not polled holds back the requests behind it until a response
/// arrives.
#[derive(Clone)]
pub struct LocalLimiter {
    scopes: Arc<ScopeMap>,
}

impl LocalLimiter {
    /// Returns a limiter with these limits and the recommended configuration. It starts with full
    /// buckets.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::with_config(limits, LimiterConfig::new())
    }

    /// Returns a limiter with these limits and this configuration.
    #[must_use]
    pub fn with_config(limits: Limits, config: LimiterConfig) -> Self {
        Self {
            scopes: Arc::new(ScopeMap::new(limits, config)),
        }
    }

    /// Returns a limiter whose levels are those of a store, which several processes share, and the
    /// queue of its messages.
    ///
    /// A driver must exchange the messages with the store. Without it, requests are admitted by a
    /// local share of the limits.
    #[must_use]
    pub fn shared(
        limits: Limits,
        config: LimiterConfig,
        policy: SharePolicy,
    ) -> (Self, ShareQueue) {
        let hub = Arc::new(Hub::new(policy));
        let mut scopes = ScopeMap::new(limits, config);
        scopes.hub = Some(hub.clone());
        let scopes = Arc::new(scopes);
        let queue = ShareQueue {
            hub,
            scopes: Arc::downgrade(&scopes),
        };
        (Self { scopes }, queue)
    }

    /// Returns the state of one scope, or `None` before its first request.
    #[must_use]
    pub fn scope(&self, scope: &Scope) -> Option<ScopeSnapshot> {
        self.scopes.get(scope).map(|limiter| limiter.snapshot())
    }
}

/// The scopes of a shared limiter that have a message to its store, for the driver of the store.
///
/// The driver takes messages, sends them and reports the answers. Dropping the queue sets the store
/// down for good. The queue does not keep the limiter alive, and ends when the last clone of the
/// limiter is dropped.
pub struct ShareQueue {
    hub: Arc<Hub<ScopeLimiter>>,
    scopes: Weak<ScopeMap>,
}

impl ShareQueue {
    /// Returns the next scope that has a message, or `None` once the limiter is dropped.
    pub fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<SharedScope>> {
        let scope = ready!(self.hub.poll_next(cx));
        Poll::Ready(scope.map(SharedScope))
    }

    /// Sets the reachability of the store. While it is down, there are no messages, and each scope
    /// admits by its local share. When it is up again, each scope that has used its share has a
    /// message.
    pub fn set_down(&self, down: bool) {
        self.hub.set_down(down);
        if let Some(scopes) = self.scopes.upgrade() {
            for scope in scopes.all() {
                scope.set_store_down(down);
            }
        }
    }
}

impl Drop for ShareQueue {
    fn drop(&mut self) {
        self.hub.close();
        self.set_down(true);
    }
}

impl fmt::Debug for ShareQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShareQueue")
            .field("is_down", &self.hub.is_down())
            .finish_non_exhaustive()
    }
}

/// A scope of a shared limiter that has a message to its store.
pub struct SharedScope(Arc<ScopeLimiter>);

impl SharedScope {
    /// Returns the scope.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        self.0.name()
    }

    /// Returns a number that no other scope of this process has, nor the same scope after its
    /// eviction.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number()
    }

    /// Takes the message. Returns `None` if another message is under way, or if there is none any
    /// more.
    #[must_use]
    pub fn take_message(&self) -> Option<ShareMessage> {
        self.0.take_message()
    }

    /// Reports the answer to message `id`, or `None` if there was none.
    pub fn on_reply(&self, id: u64, reply: Option<&ShareReply>) {
        self.0.on_reply(id, reply);
    }
}

impl fmt::Debug for SharedScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedScope").field(self.scope()).finish()
    }
}

impl Limiter for LocalLimiter {
    type Acquire = LocalAcquire;

    fn acquire(&self, ask: AcquireRequest) -> LocalAcquire {
        LocalAcquire::new(&self.scopes, ask)
    }

    fn try_acquire(
        &self,
        scope: &dyn AsScope,
        cost: &Cost,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Option<Reservation> {
        let limiter = self.scopes.get(scope)?;
        let id = limiter.grant(now, cost, deadline)?;
        Some(Reservation::new(limiter, id.to_bits(), Duration::ZERO))
    }

    fn is_estimate_doubtful(&self, scope: &dyn AsScope, cost: &Cost, now: Instant) -> bool {
        // Without an earlier request, no limit is used.
        let limiter = self.scopes.get(scope);
        limiter.is_some_and(|limiter| limiter.is_estimate_doubtful(now, cost))
    }

    fn place(&self, acquire: &LocalAcquire) -> Option<QueuePlace> {
        acquire.place()
    }

    fn revise(&self, acquire: Pin<&mut LocalAcquire>, cost: Cost) {
        acquire.get_mut().revise(cost);
    }

    fn raise_priority(&self, acquire: Pin<&mut LocalAcquire>, priority: Priority) {
        acquire.get_mut().raise_priority(priority);
    }

    fn expect_headers(&self) {
        self.scopes.expect_headers();
    }

    fn id(&self) -> LimiterId {
        self.scopes.id
    }

    fn snapshot(&self) -> Vec<ScopeSnapshot> {
        let limiters = self.scopes.all();
        limiters.iter().map(|limiter| limiter.snapshot()).collect()
    }
}

impl fmt::Debug for LocalLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLimiter")
            .field("id", &self.scopes.id)
            .field("limits", &self.scopes.limits)
            .field("config", &self.scopes.config)
            .finish_non_exhaustive()
    }
}

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
    fn new(scopes: &Arc<ScopeMap>, ask: AcquireRequest) -> Self {
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

    /// Raises the priority of the request until it is admitted. A lower priority than its own
    /// changes nothing. Poll afterwards.
    pub fn raise_priority(&mut self, priority: Priority) {
        match &mut self.state {
            State::New { ask, .. } => ask.priority = ask.priority.max(priority),
            State::Waiting(queued) => {
                queued.id = queued.limiter.raise_priority(queued.id, priority);
            }
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
                PollOutcome::Shed(rejection) => {
                    self.taken = true;
                    return Poll::Ready(Err(rejection));
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

/// The limiters by scope. The hash keys are random for every map, since a client may choose the
/// name of a rate group. The hash is fast, since every request looks its scope up once.
type Limiters = HashMap<Scope, Arc<ScopeLimiter>, RandomState>;

/// One copy of the map, in cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct MapCopy(RwLock<Limiters>);

/// The most copies. Further threads share them.
const MAX_COPIES: usize = 16;

/// A bounded map of scopes. Over the bound, idle scopes are evicted: first those whose limits are
/// the least spent, since a scope that returns begins with full limits, then the longest unused.
///
/// Every thread reads its own copy of the map, so that readers do not contend for one lock. A
/// change locks all copies, in order.
struct ScopeMap {
    id: LimiterId,
    limits: Limits,
    config: LimiterConfig,
    start: Instant,
    /// A layer reports response headers.
    expects_headers: AtomicBool,
    /// Set if the limits are shared through a store.
    hub: Option<Arc<Hub<ScopeLimiter>>>,
    copies: Box<[MapCopy]>,
}

impl ScopeMap {
    fn new(limits: Limits, config: LimiterConfig) -> Self {
        // Shuttle explores all orders of all locks in unit tests.
        let copies = if cfg!(test) {
            2
        } else {
            std::thread::available_parallelism().map_or(1, |threads| threads.get().min(MAX_COPIES))
        };
        Self {
            id: LimiterId::unique(),
            limits,
            config,
            start: sync::now(),
            expects_headers: AtomicBool::new(false),
            hub: None,
            copies: (0..copies).map(|_| MapCopy::default()).collect(),
        }
    }

    fn get(&self, scope: &dyn AsScope) -> Option<Arc<ScopeLimiter>> {
        let copy = &self.copies[thread_number() % self.copies.len()];
        let limiters = copy.0.read().unwrap_or_else(PoisonError::into_inner);
        get_by_scope(&limiters, scope).cloned()
    }

    /// Returns the limiter of this scope, which is created if it is missing.
    fn get_or_create(&self, scope: &Scope) -> Arc<ScopeLimiter> {
        let max = self.config.max_scopes.max(1);
        let locked = self.copies.iter().map(|copy| copy.0.write());
        let mut locked: Vec<_> = locked
            .map(|limiters| limiters.unwrap_or_else(PoisonError::into_inner))
            .collect();
        if let Some(limiter) = locked[0].get(scope) {
            return limiter.clone();
        }
        if locked[0].len() >= max {
            for scope in to_evict(&locked[0], max, locked.len()) {
                for limiters in &mut locked {
                    limiters.remove(&scope);
                }
            }
        }
        let limiter = self.create(scope);
        for limiters in &mut locked {
            limiters.insert(scope.clone(), limiter.clone());
        }
        limiter
    }

    fn create(&self, scope: &Scope) -> Arc<ScopeLimiter> {
        let limits = self.limits.for_scope(scope);
        let mut config = self.config.clone();
        if config.initial_concurrency.is_none() && self.expects_headers.load(Ordering::Relaxed) {
            config.initial_concurrency = Some(LimiterConfig::INITIAL_CONCURRENCY);
        }
        let (id, start, scope) = (self.id, self.start, scope.clone());
        match &self.hub {
            Some(hub) => ScopeLimiter::shared(id, start, scope, &limits, config, hub),
            None => Arc::new(ScopeLimiter::new(id, start, scope, &limits, config)),
        }
    }

    fn expect_headers(&self) {
        self.expects_headers.store(true, Ordering::Relaxed);
    }

    fn all(&self) -> Vec<Arc<ScopeLimiter>> {
        let limiters = self.copies[0].0.read();
        let limiters = limiters.unwrap_or_else(PoisonError::into_inner);
        limiters.values().cloned().collect()
    }
}

impl Drop for ScopeMap {
    fn drop(&mut self) {
        if let Some(hub) = &self.hub {
            hub.close();
        }
    }
}

/// Returns a number of the current thread.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(0) };
    }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// Returns the scopes to evict: an eighth more than necessary, so that evictions are rare.
fn to_evict(limiters: &Limiters, max: usize, copies: usize) -> Vec<Scope> {
    // A scope that only the map refers to is unused, and stays so while the map is locked.
    let unused = limiters
        .iter()
        .filter(|(_, limiter)| Arc::strong_count(limiter) == copies);
    let mut idle: Vec<_> = unused
        .filter_map(|(scope, limiter)| Some((limiter.idle()?, scope.clone())))
        .collect();
    let excess = limiters.len() + 1 + max / 8;
    let count = excess.saturating_sub(max).min(idle.len());
    if count == 0 {
        return Vec::new();
    }
    idle.select_nth_unstable_by_key(count - 1, |(idle, _)| *idle);
    idle.truncate(count);
    idle.into_iter().map(|(_, scope)| scope).collect()
}
