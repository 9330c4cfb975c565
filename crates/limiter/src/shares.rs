//! The weights of priority classes and tenants.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use tower_claude_core::{Priority, Tenant};

use crate::pool::queue::key::{PRIORITIES, TenantKey, class};

const ONE: NonZeroU32 = NonZeroU32::MIN;

/// The weights of the priority classes, and of the tenants within each class.
///
/// A class or tenant of twice the weight gets twice the time of the bottleneck while both have
/// requests waiting. The others use the share that an idle class or tenant leaves.
///
/// Defaults: interactive 8, normal 4, batch 1, and each tenant 1.
#[derive(Clone, Debug, PartialEq)]
pub struct FairShares {
    classes: [NonZeroU32; PRIORITIES.len()],
    /// Shared by the pools of a limiter.
    tenants: Option<Arc<HashMap<TenantKey, NonZeroU32>>>,
}

impl FairShares {
    /// Returns the defaults.
    #[must_use]
    pub const fn new() -> Self {
        const EIGHT: NonZeroU32 = NonZeroU32::new(8).expect("8 is not 0");
        const FOUR: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");
        Self {
            classes: [ONE, FOUR, EIGHT],
            tenants: None,
        }
    }

    /// Sets the weight of a priority class.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority, weight: NonZeroU32) -> Self {
        self.classes[class(priority)] = weight;
        self
    }

    /// Sets the weight of a tenant in each class. The default is 1.
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
