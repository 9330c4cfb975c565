//! A request for admission by a pool, and its answers.

use std::time::Duration;

use tower_claude_core::{Cost, Priority, Tenant};

use crate::pool::{
    in_flight::ReservationId,
    queue::flow::{TenantKey, WaiterId},
};

/// A request for admission by a pool. Times are nanoseconds since the start of the pool's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolRequest {
    /// The estimated cost.
    pub cost: Cost,
    /// The first arrival of the call, which orders the queue of its flow.
    pub first_arrival: u64,
    /// The time at which the caller stops waiting.
    pub deadline: Option<u64>,
    /// The longest wait from now, in nanoseconds.
    pub max_wait: Option<u64>,
    /// The priority class.
    pub priority: Priority,
    /// The tenant.
    pub tenant: TenantKey,
    /// The bytes that the request holds while it waits.
    pub bytes: u64,
}

impl PoolRequest {
    /// Returns a request of normal priority without tenant that waits without limit.
    #[must_use]
    pub const fn new(cost: Cost, first_arrival: u64) -> Self {
        Self {
            cost,
            first_arrival,
            deadline: None,
            max_wait: None,
            priority: Priority::Normal,
            tenant: TenantKey::NONE,
            bytes: 0,
        }
    }

    /// Returns the request with the bytes that it holds while it waits.
    #[must_use]
    pub const fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Returns the request with a priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Returns the request with a tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Option<&Tenant>) -> Self {
        self.tenant = tenant.map_or(TenantKey::NONE, TenantKey::of);
        self
    }

    /// Returns the request with a deadline.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Option<u64>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Returns the request with a longest wait.
    #[must_use]
    pub const fn with_max_wait(mut self, wait: Option<u64>) -> Self {
        self.max_wait = wait;
        self
    }
}

/// The result of a request for admission that was not rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The request is admitted.
    Granted(ReservationId),
    /// The request is queued. The caller cancels it when its wait or deadline has passed.
    Waiting(WaiterId),
}

/// The position of a request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuePlace {
    /// The position among the requests of the same priority and tenant, from 1.
    pub position: usize,
    /// The estimated remaining wait: the work ahead, at the share of the priority and tenant while
    /// all others stay busy. A wait for requests in flight to end cannot be estimated and counts as
    /// 0.
    pub estimated_wait: Duration,
}

/// The time of the next poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At this time, or after any other call, whichever is first.
    At(u64),
    /// After another call. Time alone changes nothing.
    OnChange,
    /// No request is queued.
    Idle,
}
