//! The interface by which an inner layer corrects the reservations of an outer limiter.

use std::{
    fmt, ptr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tower_claude_wire::RateLimits;

use crate::{class::Class, dimension::Dimension, scope::Scope};

/// The id of a limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LimiterId(u64);

impl LimiterId {
    /// Creates an id that no other limiter of this process has.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The information about rate limits in the head of a response.
#[derive(Debug)]
#[non_exhaustive]
pub struct Observation<'a> {
    /// The rate-limit headers.
    pub limits: &'a RateLimits,
    /// The server's clock (`Date`). Reset timestamps are compared with it.
    pub server_time: Option<SystemTime>,
    /// The class of the response.
    pub class: Class,
    /// The time at which the response arrived.
    pub at: Instant,
    /// The used share of a limit, in percent, above which a warning is returned. 80 by default.
    pub warn_percent: u8,
}

impl<'a> Observation<'a> {
    /// Creates an observation of a response that arrived at `at`.
    #[must_use]
    pub const fn new(
        limits: &'a RateLimits,
        server_time: Option<SystemTime>,
        class: Class,
        at: Instant,
    ) -> Self {
        Self {
            limits,
            server_time,
            class,
            at,
            warn_percent: 80,
        }
    }

    /// Sets the used share of a limit, in percent, above which a warning is returned.
    #[must_use]
    pub const fn with_warn_percent(mut self, percent: u8) -> Self {
        self.warn_percent = percent;
        self
    }
}

/// A warning about a limit. Its used share has just risen above the configured share, or it differs
/// from the configured limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitWarning {
    /// The dimension of the limit.
    pub dimension: Dimension,
    /// The remaining amount.
    pub remaining: u64,
    /// The limit per minute.
    pub limit: u64,
    /// The configured limit, if the warning is that the server has another one.
    pub configured: Option<u64>,
}

impl LimitWarning {
    /// Creates a warning about this limit.
    #[must_use]
    pub const fn new(dimension: Dimension, remaining: u64, limit: u64) -> Self {
        Self {
            dimension,
            remaining,
            limit,
            configured: None,
        }
    }

    /// Makes it the warning that the server's limit differs from this configured limit.
    #[must_use]
    pub const fn with_configured(mut self, limit: u64) -> Self {
        self.configured = Some(limit);
        self
    }
}

/// The reservations of a limiter in one scope.
///
/// All methods are synchronous. The ids of settled reservations are ignored.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// Returns the id of the limiter.
    fn limiter(&self) -> LimiterId;

    /// Returns the scope, if the limiter reports it. `None` by default.
    fn scope(&self) -> Option<&Scope> {
        None
    }

    /// Returns true if the head of a success at `at` need not be read.
    ///
    /// That is so if the last head that was read is less than 100 ms old and all levels are at
    /// least half of their limits. False by default.
    fn can_skip_head(&self, at: Instant) -> bool {
        let _ = at;
        false
    }

    /// Corrects the levels by the response to the request with this reservation.
    ///
    /// Returns a warning if the used share of a limit has risen above the configured share, once
    /// each time that it rises. If this holds for several limits, the warning is about the
    /// tightest.
    fn observe(&self, reservation: u64, observation: &Observation<'_>) -> Option<LimitWarning>;

    /// Pauses admissions after a 429, and returns the length of the pause.
    ///
    /// Without `retry_after` the ledger chooses a pause, up to its documented maximum.
    fn pause(&self, reservation: u64, retry_after: Option<Duration>, now: Instant) -> Duration;
}

/// A handle to a reservation, for layers other than the limiter that made it.
///
/// It is cheap to clone, and it does not keep the reservation alive.
#[derive(Clone)]
pub struct ReservationHandle {
    ledger: Arc<dyn Ledger>,
    id: u64,
}

impl ReservationHandle {
    /// Creates a handle to reservation `id` in this ledger.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>, id: u64) -> Self {
        Self { ledger, id }
    }

    /// Returns true if this limiter made the reservation.
    #[must_use]
    pub fn is_of(&self, limiter: LimiterId) -> bool {
        self.ledger.limiter() == limiter
    }

    /// Returns true if the handle refers to this reservation in this ledger.
    ///
    /// Another ledger of the same limiter may use the same id, so ledgers are compared by address.
    #[must_use]
    pub fn is_to(&self, ledger: &dyn Ledger, reservation: u64) -> bool {
        self.id == reservation && ptr::addr_eq(Arc::as_ptr(&self.ledger), ledger)
    }

    /// Returns the scope. See [`Ledger::scope`].
    #[must_use]
    pub fn scope(&self) -> Option<&Scope> {
        self.ledger.scope()
    }

    /// Returns true if the head of a success need not be read. See [`Ledger::can_skip_head`].
    #[must_use]
    pub fn can_skip_head(&self, at: Instant) -> bool {
        self.ledger.can_skip_head(at)
    }

    /// Corrects the levels by a response. See [`Ledger::observe`].
    pub fn observe(&self, observation: &Observation<'_>) -> Option<LimitWarning> {
        self.ledger.observe(self.id, observation)
    }

    /// Pauses admissions after a 429. See [`Ledger::pause`].
    pub fn pause(&self, retry_after: Option<Duration>, now: Instant) -> Duration {
        self.ledger.pause(self.id, retry_after, now)
    }
}

impl fmt::Debug for ReservationHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReservationHandle")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
