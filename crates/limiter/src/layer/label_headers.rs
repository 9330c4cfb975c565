//! Request headers that label a request with its priority, tenant and workload.

use std::sync::Arc;

use http::{HeaderName, Request};
use tower_claude_core::{Cost, Priority, Tenant, Workload};

use crate::limiter::AcquireRequest;

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
    pub(super) fn apply_workload<B>(&self, request: &Request<B>, cost: &mut Cost) {
        if cost.workload == Workload::NONE
            && let Some(value) = value(request, self.workload.as_ref())
            && let Ok(workload) = std::str::from_utf8(value)
        {
            cost.workload = Workload::named(workload);
        }
    }
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
