//! Priority, tenant and workload from request headers, and where a request waits.

use std::sync::Arc;

use http::{HeaderName, Request};
use tower_claude_core::{
    Cost, Priority, Scope, Tenant, Workload,
    event::{Event, emit},
};

use super::Gate;
use crate::{Ask, Limiter};

/// Headers that name a request's priority, tenant and workload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    priority: Option<HeaderName>,
    tenant: Option<HeaderName>,
    workload: Option<HeaderName>,
}

impl Names {
    /// Fills in what the request's extensions do not say.
    pub(super) fn apply<B>(&self, request: &Request<B>, ask: &mut Ask) {
        if let Some(name) = &self.priority
            && ask.priority == Priority::Normal
            && request.extensions().get::<Priority>().is_none()
            && let Some(priority) = request
                .headers()
                .get(name)
                .and_then(|v| priority(v.as_bytes()))
        {
            ask.priority = priority;
        }
        if let Some(name) = &self.tenant
            && ask.tenant.is_none()
            && let Some(value) = request.headers().get(name)
            && let Ok(tenant) = std::str::from_utf8(value.as_bytes())
            && !tenant.is_empty()
        {
            ask.tenant = Some(Tenant(Arc::from(tenant)));
        }
    }

    /// Fills in the workload, where nothing else says it.
    pub(super) fn workload<B>(&self, request: &Request<B>, cost: &mut Cost) {
        if let Some(name) = &self.workload
            && cost.workload == Workload::NONE
            && let Some(value) = request.headers().get(name)
            && let Ok(workload) = std::str::from_utf8(value.as_bytes())
        {
            cost.workload = Workload::named(workload);
        }
    }
}

/// Priorities by their names, in any case. Anything else says nothing.
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

impl<L, E, C> Gate<L, E, C> {
    /// Takes the priority of a request from this header: `interactive`, `normal` or `batch`, in any case.
    /// Anything else counts as if the header were absent, and a [`Priority`] in the request's extensions
    /// wins. The header is passed on.
    #[must_use]
    pub fn with_priority_header(mut self, name: HeaderName) -> Self {
        Arc::make_mut(self.names.get_or_insert_default()).priority = Some(name);
        self
    }

    /// Takes the tenant of a request from this header; a [`Tenant`] in the request's extensions wins. The
    /// header is passed on.
    #[must_use]
    pub fn with_tenant_header(mut self, name: HeaderName) -> Self {
        Arc::make_mut(self.names.get_or_insert_default()).tenant = Some(name);
        self
    }

    /// Takes the workload of a request from this header; a [`Workload`] in the request's extensions wins. The
    /// header is passed on.
    #[must_use]
    pub fn with_workload_header(mut self, name: HeaderName) -> Self {
        Arc::make_mut(self.names.get_or_insert_default()).workload = Some(name);
        self
    }

    /// Says where a request waits.
    pub(super) fn queued(&self, acquire: &L::Acquire, scope: impl FnOnce() -> Scope)
    where
        L: Limiter,
    {
        if let Some(place) = self.limiter.place(acquire) {
            emit(
                &self.observers,
                &Event::Queued {
                    layer: self.layer,
                    scope: &scope(),
                    position: place.position,
                    estimated_wait: place.estimated_wait,
                },
            );
        }
    }
}
