//! The settings of a limiter layer, and the requests to the limiter that they lead to.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderName, Request};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Cost, EstimateCost, Priority, RequestBody, Scope, Settle, Tenant, UsageBound, Workload,
    toolkit::{AsScope, PendingEstimate, ReservationHandle, ScopeRef, host},
};
use tower_claude_wire as wire;

use super::reporter::Reporter;
use crate::{
    limiter::{AcquireRequest, Limiter},
    reservation::Reservation,
};

pub(super) type ScopeOf = dyn Fn(&Request<RequestBody>) -> Scope + Send + Sync;

/// The settings of a limiter layer.
#[derive(Clone)]
pub(super) struct LimitSettings<L, E> {
    pub(super) limiter: L,
    pub(super) estimate: E,
    pub(super) max_wait: Duration,
    pub(super) scope_of: Option<Arc<ScopeOf>>,
    pub(super) label_headers: LabelHeaders,
    pub(super) reporter: Reporter,
}

impl<L, E> LimitSettings<L, E> {
    pub(super) fn with_estimate<E2>(self, estimate: E2) -> LimitSettings<L, E2> {
        LimitSettings {
            limiter: self.limiter,
            estimate,
            max_wait: self.max_wait,
            scope_of: self.scope_of,
            label_headers: self.label_headers,
            reporter: self.reporter,
        }
    }

    pub(super) fn scope(&self, request: &Request<RequestBody>, call: &Call) -> Scope {
        match &self.scope_of {
            Some(scope_of) => scope_of(request),
            None => Scope::of_call(request, call),
        }
    }
}

impl<L: Limiter, E: EstimateCost> LimitSettings<L, E> {
    /// Returns the reservation that an outer layer made with the same limiter, if it serves this
    /// layer as well. Reserving again would charge the request twice.
    ///
    /// Another scope is another limit, so the outer reservation must be in the scope of this layer.
    /// A layer that reads headers corrects the outer reservation in whichever scope it is, unless a
    /// layer between the two has sent the request to another host.
    /// `scope` is filled in if the reservation does not know its scope.
    pub(super) fn join(
        &self,
        request: &Request<RequestBody>,
        call: &Call,
        scope: &mut Option<Box<Scope>>,
    ) -> Option<ReservationHandle> {
        if !call.is_reserved() {
            return None;
        }
        let handle = call.reservation_of(self.limiter.id())?;
        match handle.scope() {
            Some(reserved) if self.reporter.reads_headers() => {
                let host = host(request.uri(), request.headers());
                if !reserved.host.is_empty() && *reserved.host != *host {
                    return None;
                }
            }
            Some(reserved) => {
                let known = match self.scope_of {
                    Some(_) => None,
                    None => ScopeRef::of_call(request, call),
                };
                let is_same = match known {
                    Some(known) => reserved.as_scope() == known,
                    None => *reserved == self.scope(request, call),
                };
                if !is_same {
                    return None;
                }
            }
            None if self.reporter.reads_headers() => {
                *scope = Some(Box::new(self.scope(request, call)));
            }
            None => return None,
        }
        Some(handle)
    }

    /// Estimates the cost of a request. `pending` is set if the estimator learns from its actual
    /// usage.
    // Inlined, so that the large cost is not copied.
    #[inline(always)]
    pub(super) fn estimate_cost(
        &self,
        request: &Request<RequestBody>,
        call: &Call,
        pending: &mut Option<Box<PendingEstimate>>,
    ) -> Cost {
        let mut cost = self.estimate.estimate(request);
        *pending = PendingEstimate::of(&self.estimate, &cost).map(Box::new);
        take_counted_input(&mut cost, call);
        if cost.bound == UsageBound::UNKNOWN && cost.settles_output() {
            cost.bound = UsageBound::of(request);
        }
        if cost.workload == Workload::NONE {
            cost.workload = call.workload();
        }
        self.label_headers.apply_workload(request, &mut cost);
        cost
    }

    /// Returns true if the input of a request should be counted. See
    /// [`Limiter::is_estimate_doubtful`].
    pub(super) fn is_estimate_doubtful(&self, request: &Request<RequestBody>) -> bool {
        let now = Instant::now();
        let owned;
        let call = match Call::of(request) {
            Some(call) => &**call,
            None => {
                owned = Call::new(request.extensions(), now);
                &owned
            }
        };
        // Dropped at the end, which discards what the estimator expects of this estimate.
        let mut pending = None;
        let cost = self.estimate_cost(request, call, &mut pending);
        let scope = self.scope(request, call);
        let limiter = &self.limiter;
        cost.settles_input() && limiter.is_estimate_doubtful(&scope, &cost, now)
    }

    /// Admits a request at once if it need not wait.
    #[inline]
    pub(super) fn try_acquire(
        &self,
        request: &Request<RequestBody>,
        call: &Call,
        cost: &Cost,
        now: Instant,
    ) -> Option<Reservation> {
        let deadline = call.deadline();
        if let Some(scope_of) = &self.scope_of {
            let scope = scope_of(request);
            return self.limiter.try_acquire(&scope, cost, deadline, now);
        }
        // Borrowed from the request, so that the common case allocates no scope.
        let scope = ScopeRef::of_call(request, call);
        let scope = scope.as_ref()?;
        self.limiter.try_acquire(scope, cost, deadline, now)
    }

    /// Starts to acquire a reservation for a request.
    pub(super) fn acquire(
        &self,
        request: &Request<RequestBody>,
        call: &Call,
        cost: Cost,
    ) -> L::Acquire {
        // A body that was too long to be buffered holds as much as a buffer may.
        let held = match request.body().bytes() {
            Some(body) => body.len(),
            None => RequestBody::DEFAULT_LIMIT,
        };
        let mut acquire = AcquireRequest::new(self.scope(request, call), cost)
            .with_context(call)
            .with_bytes(held)
            .with_max_wait(Some(self.max_wait));
        self.label_headers.apply(request, &mut acquire);
        if acquire.tenant.is_none() {
            acquire.tenant = user_of(request).or_else(|| workload_tenant(cost.workload));
        }
        self.limiter.acquire(acquire)
    }

    /// Estimates a waiting request again if its estimator is still learning: of many requests that
    /// arrive at once with one long prefix, only the first writes it to the prompt cache.
    pub(super) fn revise(
        &self,
        request: &Request<RequestBody>,
        call: &Call,
        acquire: Pin<&mut L::Acquire>,
        pending: &mut Option<Box<PendingEstimate>>,
    ) {
        let Some(estimate) = pending else { return };
        let before = *estimate.cost();
        let cost = match estimate.revise(Instant::now()) {
            Some(cost) if cost == before => return,
            Some(mut cost) => {
                take_counted_input(&mut cost, call);
                cost
            }
            None => {
                // Dropped first: an estimator that is full would evict another estimate for the new
                // one.
                *pending = None;
                self.estimate_cost(request, call, pending)
            }
        };
        self.limiter.revise(acquire, cost);
    }
}

/// Replaces the estimated input with the count of an outer layer, if there is one. The estimator's
/// own count, and a cost in other units than tokens, stay.
#[inline]
fn take_counted_input(cost: &mut Cost, call: &Call) {
    if cost.counted {
        cost.settle.get_or_insert(Settle::OutputByUsage);
    }
    if let Some(tokens) = call.counted_input()
        && cost.settles_input()
    {
        *cost = cost.with_counted_input(tokens);
    }
}

impl<L: fmt::Debug, E> fmt::Debug for LimitSettings<L, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitSettings")
            .field("limiter", &self.limiter)
            .field("max_wait", &self.max_wait)
            .finish_non_exhaustive()
    }
}

/// The names of the headers that label a request. Without a name, the label is not read.
#[derive(Clone, Debug, Default)]
pub(super) struct LabelHeaders {
    pub(super) priority: Option<HeaderName>,
    pub(super) tenant: Option<HeaderName>,
    pub(super) workload: Option<HeaderName>,
}

impl LabelHeaders {
    /// Fills in the priority and the tenant that the extensions of the request leave open.
    pub(super) fn apply<B>(&self, request: &Request<B>, acquire: &mut AcquireRequest) {
        if acquire.priority == Priority::Normal
            && let Some(value) = value(request, self.priority.as_ref())
            && request.extensions().get::<Priority>().is_none()
            && let Some(priority) = priority(value)
        {
            acquire.priority = priority;
        }
        if acquire.tenant.is_none()
            && let Some(value) = value(request, self.tenant.as_ref())
            && let Ok(tenant) = std::str::from_utf8(value)
            && !tenant.is_empty()
        {
            acquire.tenant = Some(Tenant(Arc::from(tenant)));
        }
    }

    /// Fills in the workload if neither the estimate nor the call has one.
    #[inline]
    pub(super) fn apply_workload<B>(&self, request: &Request<B>, cost: &mut Cost) {
        if self.workload.is_some()
            && cost.workload == Workload::NONE
            && let Some(value) = value(request, self.workload.as_ref())
            && let Ok(workload) = std::str::from_utf8(value)
        {
            cost.workload = Workload::named(workload);
        }
    }
}

/// Returns the user in `metadata.user_id` as a tenant. Only requests that wait are read for it.
fn user_of(request: &Request<RequestBody>) -> Option<Tenant> {
    let user = wire::user_id(request.body().bytes()?)?;
    Some(Tenant(Arc::from(format!("user:{user}"))))
}

fn workload_tenant(workload: Workload) -> Option<Tenant> {
    let is_named = workload != Workload::NONE;
    is_named.then(|| Tenant(Arc::from(format!("workload:{:x}", workload.to_bits()))))
}

fn value<'a, B>(request: &'a Request<B>, name: Option<&HeaderName>) -> Option<&'a [u8]> {
    Some(request.headers().get(name?)?.as_bytes())
}

/// Parses the name of a priority, in any case.
fn priority(value: &[u8]) -> Option<Priority> {
    let known = [
        ("interactive", Priority::Interactive),
        ("normal", Priority::Normal),
        ("batch", Priority::Batch),
    ];
    let value = value.trim_ascii();
    let found = known
        .into_iter()
        .find(|(name, _)| value.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, priority)| priority)
}
