//! What goes into a pool and what comes out.

use std::time::{Duration, SystemTime};

use tower_claude_core::{Cost, Priority, Tenant};
use tower_claude_wire::RateLimits;

use super::{ReservationId, TenantKey, WaiterId};

/// What a request asks of a pool. Times are nanoseconds, as everywhere here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolRequest {
    /// What it will use, by estimate.
    pub cost: Cost,
    /// When its call first arrived: its place in the queue.
    pub first_arrival: u64,
    /// When the caller stops waiting.
    pub deadline: Option<u64>,
    /// The longest wait from now.
    pub max_wait: Option<u64>,
    /// How much it matters.
    pub priority: Priority,
    /// Whose it is.
    pub tenant: TenantKey,
}

impl PoolRequest {
    /// A request that waits without end.
    #[must_use]
    pub const fn new(cost: Cost, first_arrival: u64) -> Self {
        Self {
            cost,
            first_arrival,
            deadline: None,
            max_wait: None,
            priority: Priority::Normal,
            tenant: TenantKey::NOBODY,
        }
    }

    /// The same request with a priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The same request in the name of a tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Option<&Tenant>) -> Self {
        self.tenant = tenant.map_or(TenantKey::NOBODY, TenantKey::of);
        self
    }

    /// The same request with a deadline.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Option<u64>) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same request with a longest wait.
    #[must_use]
    pub const fn with_max_wait(mut self, wait: Option<u64>) -> Self {
        self.max_wait = wait;
        self
    }
}

/// What became of an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It may be sent.
    Granted(ReservationId),
    /// It waits. The caller keeps its expiry.
    Waiting(WaiterId),
}

/// Where a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuePlace {
    /// Its place among the requests of its priority and tenant, from 1. Exact when it was asked for.
    pub position: usize,
    /// How long it will still wait: the work ahead of it, at the share of its priority and tenant while
    /// the others go on waiting. Waiting for requests in flight to end cannot be foreseen.
    pub estimated_wait: Duration,
}

/// When to poll again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At this time, or after any other call, whichever is first.
    At(u64),
    /// After another call: time alone changes nothing.
    OnChange,
    /// Nothing waits.
    Idle,
}

/// What the head of a response says.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ObservedHead<'a> {
    /// The rate-limit headers.
    pub limits: &'a RateLimits,
    /// The server's clock (`Date`).
    pub server_time: Option<SystemTime>,
    /// A 429 for rate: the server took nothing.
    pub rejected: bool,
    /// The used share of a limit, in percent, that is worth a warning.
    pub warn_percent: u8,
}

impl<'a> ObservedHead<'a> {
    /// An answer with these headers, worth a warning from 80 % on.
    #[must_use]
    pub const fn new(limits: &'a RateLimits, server_time: Option<SystemTime>) -> Self {
        Self {
            limits,
            server_time,
            rejected: false,
            warn_percent: 80,
        }
    }

    /// The same, for a 429 or not.
    #[must_use]
    pub const fn with_rejected(mut self, rejected: bool) -> Self {
        self.rejected = rejected;
        self
    }

    /// The same, with another share worth a warning.
    #[must_use]
    pub const fn with_warn_percent(mut self, percent: u8) -> Self {
        self.warn_percent = percent;
        self
    }
}
