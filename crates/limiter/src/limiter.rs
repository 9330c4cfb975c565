//! The trait of limiters.

use std::{future::Future, pin::Pin, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{
    Call, Cost, Priority, Rejection, Scope, Tenant, Workload,
    toolkit::{AsScope, LimiterId},
};

use crate::{pool::request::QueuePlace, reservation::Reservation, snapshot::ScopeSnapshot};

/// A request to a limiter for a [`Reservation`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AcquireRequest {
    /// The scope whose limits apply.
    pub scope: Scope,
    /// The estimated cost.
    pub cost: Cost,
    /// The time of the first arrival of the call, which orders the queue and is kept across
    /// attempts. `None` is the time of the first poll.
    pub first_arrival: Option<Instant>,
    /// The time at which the caller stops waiting, `None` if there is none.
    pub deadline: Option<Instant>,
    /// The longest wait in the queue. `None` waits without end.
    pub max_wait: Option<Duration>,
    /// The priority. Its class has a share of its own while requests wait.
    pub priority: Priority,
    /// The tenant. Within a class, each tenant has a share of its own.
    pub tenant: Option<Tenant>,
    /// The bytes that the request holds while it waits.
    pub bytes: usize,
}

impl AcquireRequest {
    /// Creates a request that arrives at its first poll and waits without end.
    #[must_use]
    pub const fn new(scope: Scope, cost: Cost) -> Self {
        Self {
            scope,
            cost,
            first_arrival: None,
            deadline: None,
            max_wait: None,
            priority: Priority::Normal,
            tenant: None,
            bytes: 0,
        }
    }

    /// Sets the arrival, deadline, priority and tenant of the call, and its workload if the cost
    /// has none.
    #[must_use]
    pub fn with_context(mut self, call: &Call) -> Self {
        self.first_arrival = Some(call.first_arrival());
        self.deadline = call.deadline();
        self.priority = call.priority();
        self.tenant = call.tenant().cloned();
        if self.cost.workload == Workload::NONE {
            self.cost.workload = call.workload();
        }
        self
    }

    /// Sets the first arrival.
    #[must_use]
    pub const fn with_first_arrival(mut self, at: Instant) -> Self {
        self.first_arrival = Some(at);
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the longest wait in the queue.
    #[must_use]
    pub const fn with_max_wait(mut self, wait: Option<Duration>) -> Self {
        self.max_wait = wait;
        self
    }

    /// Sets the priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Option<Tenant>) -> Self {
        self.tenant = tenant;
        self
    }

    /// Sets the bytes that the request holds while it waits.
    #[must_use]
    pub const fn with_bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }
}

/// A limiter, which decides when a request may be sent. Clones share all state.
pub trait Limiter: Clone {
    /// The future of a reservation. Dropping it gives up the place in the queue. Layers move it
    /// between polls, so it must be `Unpin`.
    type Acquire: Future<Output = Result<Reservation, Rejection>> + Unpin;

    /// Returns a future that waits until the request may be sent. It does nothing before its first
    /// poll.
    fn acquire(&self, request: AcquireRequest) -> Self::Acquire;

    /// Admits the request at once if it need not wait.
    ///
    /// Returns `None` if the request would wait or be rejected, or if the limiter does not support
    /// this. The caller then uses [`acquire`](Self::acquire). Returns `None` by default.
    fn try_acquire(
        &self,
        scope: &dyn AsScope,
        cost: &Cost,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Option<Reservation> {
        let _ = (scope, cost, deadline, now);
        None
    }

    /// Returns true if it is worth a request of its own to count the input of a request with this
    /// estimated cost. That is so if what is left of a limit on input is less than the estimate and
    /// its usual error, which 5 % of requests exceed. Returns true by default, for limiters that
    /// know nothing of their errors.
    fn is_estimate_doubtful(&self, scope: &dyn AsScope, cost: &Cost, now: Instant) -> bool {
        let _ = (scope, cost, now);
        true
    }

    /// Returns the place in the queue of a request that has been polled. Returns `None` if it does
    /// not wait, and by default.
    fn place(&self, acquire: &Self::Acquire) -> Option<QueuePlace> {
        let _ = acquire;
        None
    }

    /// Replaces the cost of a waiting request, except for its workload. The caller polls the
    /// request afterwards. Does nothing by default.
    fn revise(&self, acquire: Pin<&mut Self::Acquire>, cost: Cost) {
        let _ = (acquire, cost);
    }

    /// Raises the priority of a waiting request, which keeps its arrival. A lower priority than its
    /// own changes nothing. The caller polls the request afterwards. Does nothing by default.
    fn raise_priority(&self, acquire: Pin<&mut Self::Acquire>, priority: Priority) {
        let _ = (acquire, priority);
    }

    /// Announces that a layer will report rate-limit headers. Until the first headers arrive, the
    /// limiter then admits only a few requests at once. Does nothing by default.
    fn expect_headers(&self) {}

    /// Returns the id that all clones of this limiter share.
    fn id(&self) -> LimiterId;

    /// Returns the state of every scope in use, in no particular order.
    fn snapshot(&self) -> Vec<ScopeSnapshot>;
}
