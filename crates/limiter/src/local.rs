//! The limiter of one process.

mod acquire;
mod desk;
mod map;
mod wakes;

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tower_claude_core::{AsScope, Cost, LimiterId, Scope};

pub use acquire::LocalAcquire;

use crate::{Ask, Limiter, LimiterConfig, Limits, QueuePlace, Reservation, ScopeSnapshot, sync};
use desk::Desk;
use map::Map;

/// The limiter of one process: a [`Pool`](crate::Pool) per scope, driven by tokio's clock. Clones share
/// everything.
///
/// Admission without a wait takes one short lock and allocates nothing; only requests that wait need a
/// tokio runtime with time enabled. A waiting future must be polled when woken or be dropped: the first
/// of a queue that is kept but not polled holds back those behind it until a response arrives.
#[derive(Clone)]
pub struct LocalLimiter {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    id: LimiterId,
    start: Instant,
    limits: Limits,
    config: LimiterConfig,
    /// A layer reads headers.
    hears: AtomicBool,
    map: Map,
}

impl LocalLimiter {
    /// A limiter with these limits that starts with full buckets.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::with_config(limits, LimiterConfig::new())
    }

    /// A limiter with these limits that behaves like this.
    #[must_use]
    pub fn with_config(limits: Limits, config: LimiterConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                id: LimiterId::unique(),
                start: sync::now(),
                limits,
                hears: AtomicBool::new(false),
                map: Map::new(config.max_scopes),
                config,
            }),
        }
    }

    /// What is known of one scope; `None` before its first request.
    #[must_use]
    pub fn scope(&self, scope: &Scope) -> Option<ScopeSnapshot> {
        self.shared.map.get(scope).map(|desk| desk.snapshot())
    }
}

impl Shared {
    fn desk(&self, scope: &Scope) -> Arc<Desk> {
        self.map.insert(scope, || {
            let limits = self.limits.for_scope(scope);
            let mut config = self.config.clone();
            if config.initial_concurrency.is_none() && self.hears.load(Ordering::Relaxed) {
                config.initial_concurrency = Some(LimiterConfig::INITIAL_CONCURRENCY);
            }
            Desk::new(self.id, self.start, scope.clone(), &limits, config)
        })
    }
}

impl Limiter for LocalLimiter {
    type Acquire = LocalAcquire;

    fn acquire(&self, ask: Ask) -> LocalAcquire {
        LocalAcquire::new(&self.shared, ask)
    }

    fn try_acquire(
        &self,
        scope: &dyn AsScope,
        cost: &Cost,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Option<Reservation> {
        let desk = self.shared.map.get(scope)?;
        let id = desk.grant(now, cost, deadline)?;
        Some(Reservation::new(desk, id.to_bits(), Duration::ZERO))
    }

    fn place(&self, acquire: &LocalAcquire) -> Option<QueuePlace> {
        acquire.place()
    }

    fn revise(&self, acquire: Pin<&mut LocalAcquire>, cost: Cost) {
        acquire.get_mut().revise(cost);
    }

    fn expect_headers(&self) {
        self.shared.hears.store(true, Ordering::Relaxed);
    }

    fn id(&self) -> LimiterId {
        self.shared.id
    }

    fn snapshot(&self) -> Vec<ScopeSnapshot> {
        let desks = self.shared.map.all();
        desks.iter().map(|desk| desk.snapshot()).collect()
    }
}

impl fmt::Debug for LocalLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLimiter")
            .field("id", &self.shared.id)
            .field("limits", &self.shared.limits)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}
