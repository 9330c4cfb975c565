//! The limiter of one process.

mod acquire;
mod scope_limiter;
mod scope_map;

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{
    Cost, Scope,
    toolkit::{AsScope, LimiterId},
};

pub use acquire::LocalAcquire;

use crate::{
    config::LimiterConfig,
    limiter::{AcquireRequest, Limiter},
    limits::Limits,
    local::scope_map::ScopeMap,
    pool::QueuePlace,
    reservation::Reservation,
    snapshot::ScopeSnapshot,
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

    /// Returns the state of one scope, or `None` before its first request.
    #[must_use]
    pub fn scope(&self, scope: &Scope) -> Option<ScopeSnapshot> {
        self.scopes.get(scope).map(|limiter| limiter.snapshot())
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

    fn place(&self, acquire: &LocalAcquire) -> Option<QueuePlace> {
        acquire.place()
    }

    fn revise(&self, acquire: Pin<&mut LocalAcquire>, cost: Cost) {
        acquire.get_mut().revise(cost);
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
