//! What layers ask of a limiter.

use std::{future::Future, pin::Pin, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{
    AsScope, Call, Cost, LimiterId, Priority, Rejection, Scope, Tenant, Workload,
};

use crate::{QueuePlace, Reservation, ScopeSnapshot};

/// What a request asks of a limiter.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ask {
    /// The pool it draws on.
    pub scope: Scope,
    /// What it will use, by estimate.
    pub cost: Cost,
    /// When the call first arrived: its place in the queue, kept across attempts. `None` is when the
    /// limiter is asked.
    pub first_arrival: Option<Instant>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// The longest wait in the queue, from when the limiter is asked. `None` waits without end.
    pub max_wait: Option<Duration>,
    /// How much it matters: its class has a share of its own while requests wait.
    pub priority: Priority,
    /// Whose request it is: within a class each tenant has a share of its own.
    pub tenant: Option<Tenant>,
}

impl Ask {
    /// A request that arrives now and waits without end.
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
        }
    }

    /// The same request with the arrival, deadline, priority, tenant and workload of its call. A workload that
    /// the estimate names stays.
    #[must_use]
    pub fn with_context(mut self, context: &Call) -> Self {
        self.first_arrival = Some(context.first_arrival());
        self.deadline = context.deadline();
        self.priority = context.priority();
        self.tenant = context.tenant().cloned();
        if self.cost.workload == Workload::NONE {
            self.cost.workload = context.workload();
        }
        self
    }

    /// The same request with another arrival.
    #[must_use]
    pub const fn with_first_arrival(mut self, at: Instant) -> Self {
        self.first_arrival = Some(at);
        self
    }

    /// The same request with a deadline.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same request with a longest wait.
    #[must_use]
    pub const fn with_max_wait(mut self, wait: Option<Duration>) -> Self {
        self.max_wait = wait;
        self
    }

    /// The same request with a priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The same request with a tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Option<Tenant>) -> Self {
        self.tenant = tenant;
        self
    }
}

/// Decides when a request may be sent. Clones share everything.
pub trait Limiter: Clone {
    /// Waits until the request may be sent. Dropping it gives the place in the queue up.
    /// Layers move it after its first poll, when that was not the last.
    type Acquire: Future<Output = Result<Reservation, Rejection>> + Unpin;

    /// Asks to send one request. Nothing happens before the future is polled.
    fn acquire(&self, ask: Ask) -> Self::Acquire;

    /// Admits the request at once, where nothing keeps it; `None` where it would have to wait or be refused, or the limiter
    /// cannot tell: then it is to be [asked](Self::acquire).
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

    /// Where a request waits that has been polled; `None` when it does not wait, or the limiter does not
    /// tell.
    fn place(&self, acquire: &Self::Acquire) -> Option<QueuePlace> {
        let _ = acquire;
        None
    }

    /// Replaces the cost of a request that waits, its workload aside, before it is polled again: more is known
    /// of it by now. A limiter that cannot keeps the old one.
    fn revise(&self, acquire: Pin<&mut Self::Acquire>, cost: Cost) {
        let _ = (acquire, cost);
    }

    /// Says that a layer will tell what the rate-limit headers say, before the first request: until then it
    /// is careful. A limiter that is never told need not be.
    fn expect_headers(&self) {}

    /// Tells this limiter's reservations from others'.
    fn id(&self) -> LimiterId;

    /// What is known of every scope in use, in no particular order.
    fn snapshot(&self) -> Vec<ScopeSnapshot>;
}
