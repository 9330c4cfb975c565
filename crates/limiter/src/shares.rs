//! Who gets how much while requests wait.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use tower_claude_core::{Priority, Tenant};

use crate::pool::queue::key::{PRIORITIES, TenantKey, class};

const ONE: NonZeroU32 = NonZeroU32::MIN;

/// Who gets how much while requests wait: the weights of the priority classes, and within each class of
/// its tenants. A class or tenant of twice the weight gets twice the bottleneck's time as long as both
/// have requests waiting; what one does not use the others do.
///
/// Defaults: interactive 8, normal 4, batch 1, and all tenants 1.
#[derive(Clone, Debug, PartialEq)]
pub struct FairShares {
    classes: [NonZeroU32; PRIORITIES.len()],
    /// Shared by the pools of a limiter.
    tenants: Option<Arc<HashMap<TenantKey, NonZeroU32>>>,
}

impl FairShares {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        const EIGHT: NonZeroU32 = NonZeroU32::new(8).expect("8 is not 0");
        const FOUR: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");
        Self {
            classes: [ONE, FOUR, EIGHT],
            tenants: None,
        }
    }

    /// The weight of a priority class.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority, weight: NonZeroU32) -> Self {
        self.classes[class(priority)] = weight;
        self
    }

    /// The weight of a tenant in each class; 1 for those not named.
    #[must_use]
    pub fn with_tenant(mut self, tenant: &Tenant, weight: NonZeroU32) -> Self {
        let tenants = self.tenants.get_or_insert_default();
        Arc::make_mut(tenants).insert(TenantKey::of(tenant), weight);
        self
    }

    pub(crate) const fn class(&self, index: usize) -> NonZeroU32 {
        self.classes[index]
    }

    pub(crate) fn tenant(&self, tenant: TenantKey) -> NonZeroU32 {
        let weights = self.tenants.as_ref();
        weights
            .and_then(|weights| weights.get(&tenant))
            .copied()
            .unwrap_or(ONE)
    }
}

impl Default for FairShares {
    fn default() -> Self {
        Self::new()
    }
}
