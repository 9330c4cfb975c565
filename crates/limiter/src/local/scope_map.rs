//! A bounded map of the scopes in use, with the settings that they share.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_core::{
    Scope,
    toolkit::{AsScope, LimiterId},
};

use crate::{
    config::LimiterConfig,
    limits::Limits,
    local::scope_limiter::ScopeLimiter,
    sync::{self, RwLock},
};

/// The limiters by scope. The hash keys are random for every map, since a client may choose the
/// name of a rate group. The hash is fast, since every request looks its scope up once.
type Limiters = HashMap<Scope, Arc<ScopeLimiter>, RandomState>;

/// One copy of the map, in cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Copy(RwLock<Limiters>);

/// The most copies. Further threads share them.
const MAX_COPIES: usize = 16;

/// A bounded map of scopes. Over the bound, idle scopes are evicted: first those whose limits are
/// the least spent, since a scope that returns begins with full limits, then the longest unused.
///
/// Every thread reads its own copy of the map, so that readers do not contend for one lock. A
/// change locks all copies, in order.
pub(super) struct ScopeMap {
    pub(super) id: LimiterId,
    pub(super) limits: Limits,
    pub(super) config: LimiterConfig,
    start: Instant,
    /// A layer reports response headers.
    expects_headers: AtomicBool,
    copies: Box<[Copy]>,
}

impl ScopeMap {
    pub(super) fn new(limits: Limits, config: LimiterConfig) -> Self {
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
            copies: (0..copies).map(|_| Copy::default()).collect(),
        }
    }

    pub(super) fn get(&self, scope: &dyn AsScope) -> Option<Arc<ScopeLimiter>> {
        let copy = &self.copies[thread_number() % self.copies.len()];
        let limiters = copy.0.read().unwrap_or_else(PoisonError::into_inner);
        limiters.get(scope).cloned()
    }

    /// Returns the limiter of this scope, which is created if it is missing.
    pub(super) fn get_or_create(&self, scope: &Scope) -> Arc<ScopeLimiter> {
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
        let limiter = Arc::new(self.create(scope));
        for limiters in &mut locked {
            limiters.insert(scope.clone(), limiter.clone());
        }
        limiter
    }

    fn create(&self, scope: &Scope) -> ScopeLimiter {
        let limits = self.limits.for_scope(scope);
        let mut config = self.config.clone();
        if config.initial_concurrency.is_none() && self.expects_headers.load(Ordering::Relaxed) {
            config.initial_concurrency = Some(LimiterConfig::INITIAL_CONCURRENCY);
        }
        ScopeLimiter::new(self.id, self.start, scope.clone(), &limits, config)
    }

    pub(super) fn expect_headers(&self) {
        self.expects_headers.store(true, Ordering::Relaxed);
    }

    pub(super) fn all(&self) -> Vec<Arc<ScopeLimiter>> {
        let limiters = self.copies[0].0.read();
        let limiters = limiters.unwrap_or_else(PoisonError::into_inner);
        limiters.values().cloned().collect()
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
