//! Who waits, in order.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
};

use tower_claude_core::{Cost, Priority, Tenant};

use super::{
    fair::{Ahead, Fair},
    lane::{Charge, LANES},
};
use crate::{FairShares, shares};

/// A place in one flow: by first arrival, then by order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    arrival: u64,
    sequence: u64,
}

impl Place {
    const FIRST: Self = Self {
        arrival: 0,
        sequence: 0,
    };

    const LAST: Self = Self {
        arrival: u64::MAX,
        sequence: u64::MAX,
    };

    pub(crate) const fn arrival(self) -> u64 {
        self.arrival
    }
}

/// Requests of one tenant in one priority class.
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

    pub(crate) fn of(priority: Priority, tenant: TenantKey) -> Self {
        Self::new(shares::class(priority), tenant)
    }

    pub(crate) const fn class(self) -> usize {
        self.class as usize
    }

    pub(crate) const fn tenant(self) -> TenantKey {
        self.tenant
    }
}

/// A tenant as pools know it: a hash of the name, the same in every process of one build. The default is
/// [`NOBODY`](Self::NOBODY).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantKey(u64);

impl TenantKey {
    /// Those without a tenant.
    pub const NOBODY: Self = Self(0);

    /// The key of this tenant.
    #[must_use]
    pub fn of(tenant: &Tenant) -> Self {
        // Fixed keys: whoever finds two names with one hash has two names for one queue.
        let mut hasher = std::hash::DefaultHasher::new();
        tenant.0.hash(&mut hasher);
        Self(hasher.finish().max(1))
    }
}

/// A place in the queue of one pool: of its flow, by first arrival, then by order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId {
    place: Place,
    flow: FlowKey,
}

impl Hash for WaiterId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // No two of a pool have the same.
        self.place.sequence.hash(state);
    }
}

/// What waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) cost: Cost,
    /// What it was reckoned to take when it came, so that the sums stay exact.
    pub(crate) charge: Charge,
}

/// The queue, with running sums of the work in it.
#[derive(Debug)]
pub(crate) struct Queue {
    waiters: BTreeMap<(FlowKey, Place), Waiter>,
    fair: Fair,
    work: [u128; LANES],
    sequence: u64,
}

impl Queue {
    pub(crate) fn new(shares: FairShares) -> Self {
        Self {
            waiters: BTreeMap::new(),
            fair: Fair::new(shares),
            work: [0; LANES],
            sequence: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn work(&self) -> &[u128; LANES] {
        &self.work
    }

    pub(crate) const fn fair(&self) -> &Fair {
        &self.fair
    }

    pub(crate) const fn fair_mut(&mut self) -> &mut Fair {
        &mut self.fair
    }

    /// The one that is next, of all flows.
    pub(crate) fn head(&self) -> Option<(WaiterId, &Waiter)> {
        let (flow, place) = self.fair.head()?;
        let waiter = self.waiters.get(&(flow, place))?;
        Some((WaiterId { place, flow }, waiter))
    }

    /// Whether a request of this flow that arrived then would be next.
    pub(crate) fn would_lead(&self, flow: FlowKey, arrival: u64) -> bool {
        self.waiters.is_empty() || self.fair.would_lead(flow, arrival)
    }

    pub(crate) fn push(&mut self, flow: FlowKey, arrival: u64, waiter: Waiter) -> WaiterId {
        self.sequence += 1;
        let place = Place {
            arrival,
            sequence: self.sequence,
        };
        for (work, charge) in self.work.iter_mut().zip(waiter.charge) {
            *work += u128::from(charge);
        }
        self.fair.pushed(flow, place, &waiter.charge);
        self.waiters.insert((flow, place), waiter);
        WaiterId { place, flow }
    }

    /// Gives a place up.
    pub(crate) fn remove(&mut self, ticket: WaiterId) -> bool {
        self.take(ticket, None)
    }

    /// Lets the head out, which takes so much of the bottleneck's time. Returns where its flow's turn is
    /// kept.
    pub(crate) fn let_out(&mut self, ticket: WaiterId, work: u64) -> Turn {
        let turn = Turn {
            flow: ticket.flow,
            epoch: self.fair.epoch(),
        };
        self.take(ticket, Some(work));
        turn
    }

    fn take(&mut self, ticket: WaiterId, work: Option<u64>) -> bool {
        let flow = ticket.flow;
        let Some(waiter) = self.waiters.remove(&(flow, ticket.place)) else {
            return false;
        };
        for (work, charge) in self.work.iter_mut().zip(waiter.charge) {
            *work -= u128::from(charge);
        }
        let next = self.of(flow).next().map(|(place, _)| place);
        self.fair.left(flow, &waiter.charge, next, work);
        true
    }

    /// Its cost is reckoned anew; its workload stays, and so does what it was reckoned to take when it came.
    pub(crate) fn revise(&mut self, ticket: WaiterId, cost: Cost) {
        if let Some(waiter) = self.waiters.get_mut(&(ticket.flow, ticket.place)) {
            waiter.cost = cost.with_workload(waiter.cost.workload);
        }
    }

    /// What this one was reckoned to take when it came.
    pub(crate) fn charge(&self, ticket: WaiterId) -> Option<Charge> {
        let waiter = self.waiters.get(&(ticket.flow, ticket.place))?;
        Some(waiter.charge)
    }

    fn of(&self, flow: FlowKey) -> impl DoubleEndedIterator<Item = (Place, &Waiter)> {
        self.waiters
            .range((flow, Place::FIRST)..=(flow, Place::LAST))
            .map(|((_, place), waiter)| (*place, waiter))
    }

    /// How many of its flow are ahead of this one, and the work in them, about. Looked for from both ends:
    /// who asks has just come, or is about to be let out.
    pub(crate) fn ahead_of(&self, ticket: WaiterId) -> Option<(usize, Ahead)> {
        let waiter = self.waiters.get(&(ticket.flow, ticket.place))?;
        let waiting = self.fair.waiting(ticket.flow);
        let (mut front, mut back) = (self.of(ticket.flow), self.of(ticket.flow).rev());
        let mut steps = 0;
        let ahead = loop {
            match (front.next(), back.next()) {
                (Some((place, _)), _) if place == ticket.place => break steps,
                (_, Some((place, _))) if place == ticket.place => break waiting - 1 - steps,
                (None, _) | (_, None) => return None,
                _ => steps += 1,
            }
        };
        let others = self.fair.ahead(ticket.flow).without(&waiter.charge);
        Some((ahead, others.part(ahead, waiting - 1)))
    }
}

/// Where the turn of a flow is kept that let a request out, to be corrected by what the request took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) flow: FlowKey,
    pub(crate) epoch: u32,
}
