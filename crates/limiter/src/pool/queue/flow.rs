//! The flows of a queue: priority classes and tenants with their weights, and the waiters in them.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    num::NonZeroU32,
    sync::Arc,
};

use tower_claude_core::{Cost, Priority, Tenant};

use crate::pool::bucket::Charge;

/// The priority classes, from the least urgent on.
pub(crate) const PRIORITIES: [Priority; 3] =
    [Priority::Batch, Priority::Normal, Priority::Interactive];

/// Returns the index of a priority class. An unknown priority is normal.
pub(crate) const fn class(priority: Priority) -> usize {
    match priority {
        Priority::Batch => 0,
        Priority::Interactive => 2,
        _ => 1,
    }
}

/// The key of a tenant: a hash of its name, the same in every process of one build. The default is
/// [`NONE`](Self::NONE).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantKey(u64);

impl TenantKey {
    /// The key of requests without a tenant.
    pub const NONE: Self = Self(0);

    /// Returns the key of this tenant.
    #[must_use]
    pub fn of(tenant: &Tenant) -> Self {
        // The hash keys are fixed. Two names with one hash would only share a queue.
        let mut hasher = std::hash::DefaultHasher::new();
        tenant.0.hash(&mut hasher);
        Self(hasher.finish().max(1))
    }
}

/// The requests of one tenant in one priority class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowKey {
    class: u8,
    tenant: TenantKey,
}

impl FlowKey {
    pub(crate) const fn new(class: usize, tenant: TenantKey) -> Self {
        Self {
            class: class as u8,
            tenant,
        }
    }

    pub(crate) const fn of(priority: Priority, tenant: TenantKey) -> Self {
        Self::new(class(priority), tenant)
    }

    pub(crate) const fn class(self) -> usize {
        self.class as usize
    }

    pub(crate) const fn tenant(self) -> TenantKey {
        self.tenant
    }
}

/// A position in a flow: by first arrival, then by order of enqueuing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) arrival: u64,
    pub(crate) sequence: u64,
}

impl Position {
    pub(crate) const FIRST: Self = Self {
        arrival: 0,
        sequence: 0,
    };

    pub(crate) const LAST: Self = Self {
        arrival: u64::MAX,
        sequence: u64::MAX,
    };
}

/// The id of a request in the queue of one pool. Ids of one flow are ordered by first arrival, then
/// by order of enqueuing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId {
    pub(crate) position: Position,
    pub(crate) flow: FlowKey,
}

impl Hash for WaiterId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Sequence numbers are unique in a pool.
        self.position.sequence.hash(state);
    }
}

/// A request in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) cost: Cost,
    /// The estimated charge at its arrival, so that the sums stay exact.
    pub(crate) charge: Charge,
    /// The time of the bottleneck that the charge took at its arrival.
    pub(crate) work: u64,
    /// The bytes that it holds.
    pub(crate) bytes: u64,
    /// The time at which its caller gives up, and true if that is its deadline.
    pub(crate) expiry: u64,
    pub(crate) has_deadline: bool,
}

/// The bound of a queue that is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// One request more than may wait.
    Requests,
    /// This many bytes more than may wait.
    Bytes(u64),
}

/// The flow of an admitted request, whose virtual time is corrected by the request's actual use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowTag {
    pub(crate) flow: FlowKey,
    pub(crate) epoch: u32,
}

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
