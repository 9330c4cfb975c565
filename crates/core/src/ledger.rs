//! How an inner layer corrects what an outer one reserved.

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

use crate::{Class, Dimension, Scope};

/// Which limiter a ledger belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LimiterId(u64);

impl LimiterId {
    /// An id that no other limiter of this process has.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What the head of a response says about the limits.
#[derive(Debug)]
#[non_exhaustive]
pub struct Observation<'a> {
    /// The rate-limit headers.
    pub limits: &'a RateLimits,
    /// The server's clock (`Date`), which reset stamps are compared with.
    pub server_time: Option<SystemTime>,
    /// What the head means.
    pub class: Class,
    /// When it arrived.
    pub at: Instant,
    /// The used share of a limit, in percent, that is worth a warning.
    pub warn_percent: u8,
}

impl<'a> Observation<'a> {
    /// An observation made at `at`.
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

    /// The same observation with another share worth a warning, in percent.
    #[must_use]
    pub const fn with_warn_percent(mut self, percent: u8) -> Self {
        self.warn_percent = percent;
        self
    }
}

/// A limit whose used share has just risen over the share worth a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitWarning {
    /// Which limit.
    pub dimension: Dimension,
    /// What is left of it.
    pub remaining: u64,
    /// The limit per minute.
    pub limit: u64,
}

impl LimitWarning {
    /// A crossing of this limit.
    #[must_use]
    pub const fn new(dimension: Dimension, remaining: u64, limit: u64) -> Self {
        Self {
            dimension,
            remaining,
            limit,
        }
    }
}

/// The books of a limiter for one scope. Synchronous; ids that are settled are ignored.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// The limiter these books belong to.
    fn limiter(&self) -> LimiterId;

    /// The pool of limits these books are of, if the limiter tells.
    fn scope(&self) -> Option<&Scope> {
        None
    }

    /// Whether the head of a success at `at` could tell nothing that matters: the levels are known, far from empty, and
    /// were looked at a moment ago. It need not be read then.
    fn is_calm(&self, at: Instant) -> bool {
        let _ = at;
        false
    }

    /// Corrects the levels by what the server said in answer to this reservation. Returns the
    /// tightest limit that newly crossed the warning share, once per crossing.
    fn observe(&self, reservation: u64, seen: &Observation<'_>) -> Option<LimitWarning>;

    /// Stops admissions for a while after a 429, and returns for how long. Without `retry_after`
    /// the ledger infers a pause, never longer than its documented maximum.
    fn pause(&self, reservation: u64, retry_after: Option<Duration>, now: Instant) -> Duration;
}

/// A cheap handle to a reservation, for layers that did not make it. It keeps nothing reserved.
#[derive(Clone)]
pub struct ReservationHandle {
    ledger: Arc<dyn Ledger>,
    id: u64,
}

impl ReservationHandle {
    /// A handle to reservation `id` in this ledger.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>, id: u64) -> Self {
        Self { ledger, id }
    }

    /// Whether this limiter made the reservation.
    #[must_use]
    pub fn is_of(&self, limiter: LimiterId) -> bool {
        self.ledger.limiter() == limiter
    }

    /// Whether it is to this reservation in this very ledger. Another ledger of the same limiter may have
    /// given out the same id.
    #[must_use]
    pub fn is_to(&self, ledger: &dyn Ledger, reservation: u64) -> bool {
        self.id == reservation && ptr::addr_eq(Arc::as_ptr(&self.ledger), ledger)
    }

    /// See [`Ledger::scope`].
    #[must_use]
    pub fn scope(&self) -> Option<&Scope> {
        self.ledger.scope()
    }

    /// See [`Ledger::is_calm`].
    #[must_use]
    pub fn is_calm(&self, at: Instant) -> bool {
        self.ledger.is_calm(at)
    }

    /// See [`Ledger::observe`].
    pub fn observe(&self, seen: &Observation<'_>) -> Option<LimitWarning> {
        self.ledger.observe(self.id, seen)
    }

    /// See [`Ledger::pause`].
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
