//! One priority class, which schedules its tenants.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
};

use crate::{
    pool::{
        dimension::{Charge, NO_CHARGE},
        queue::key::{Position, TenantKey},
    },
    shares::FairShares,
};

/// The most idle flows that are kept. A flow is kept until virtual time has passed its tag. Over
/// the bound, the flows with the lowest tags are forgotten.
const MAX_IDLE: usize = 1_024;

/// The binary digits of virtual time below a nanosecond, so that weights divide it well.
const FRACTION_BITS: u32 = 16;

/// Returns the virtual time of this work for a flow of this weight.
pub(crate) fn step(work: u64, weight: NonZeroU32) -> u128 {
    if work >> (u64::BITS - FRACTION_BITS) == 0 {
        // The usual case, since division of 128-bit integers is slow.
        return u128::from((work << FRACTION_BITS) / u64::from(weight.get()));
    }
    (u128::from(work) << FRACTION_BITS) / u128::from(weight.get())
}

/// Returns a tag after work of `old` turned out to be `new`.
pub(crate) fn moved(tag: u128, weight: NonZeroU32, old: u64, new: u64) -> u128 {
    if new > old {
        tag + step(new - old, weight)
    } else {
        tag.saturating_sub(step(old - new, weight))
    }
}

/// One priority class.
#[derive(Debug)]
pub(crate) struct PriorityClass {
    /// The tag of this class among the classes.
    pub(crate) tag: u128,
    weight: NonZeroU32,
    now: u128,
    waiting: usize,
    charge: Charge,
    /// The sum of the weights of the busy tenants.
    weights: u64,
    flows: HashMap<TenantKey, Flow>,
    /// The busy tenants, by tag, then by arrival of their first request.
    heads: BTreeSet<(u128, Position, TenantKey)>,
    /// The idle tenants, by tag.
    idle: BTreeSet<(u128, TenantKey)>,
}

/// The requests of one tenant in one class.
#[derive(Debug)]
struct Flow {
    tag: u128,
    weight: NonZeroU32,
    waiting: u32,
    first: Position,
    charge: Charge,
}

impl PriorityClass {
    pub(crate) fn new(weight: NonZeroU32) -> Self {
        Self {
            tag: 0,
            weight,
            now: 0,
            waiting: 0,
            charge: NO_CHARGE,
            weights: 0,
            flows: HashMap::new(),
            heads: BTreeSet::new(),
            idle: BTreeSet::new(),
        }
    }

    pub(crate) const fn weight(&self) -> NonZeroU32 {
        self.weight
    }

    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns the sum of the charges of its queued requests.
    pub(crate) const fn charge(&self) -> &Charge {
        &self.charge
    }

    #[cfg(test)]
    pub(crate) fn flows(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn waiting_of(&self, tenant: TenantKey) -> usize {
        self.flows.get(&tenant).map_or(0, |f| f.waiting as usize)
    }

    pub(crate) fn charge_of(&self, tenant: TenantKey) -> Charge {
        self.flows.get(&tenant).map_or(NO_CHARGE, |f| f.charge)
    }

    /// Returns the factor by which the other busy tenants slow this one down.
    pub(crate) fn slowdown(&self, tenant: TenantKey, shares: &FairShares) -> f64 {
        let (own, waits) = match self.flows.get(&tenant) {
            Some(flow) => (flow.weight, flow.waiting > 0),
            None => (shares.tenant(tenant), false),
        };
        let own = u64::from(own.get());
        let others = if waits {
            self.weights - own
        } else {
            self.weights
        };
        1.0 + others as f64 / own as f64
    }

    pub(crate) fn head(&self) -> Option<(TenantKey, Position)> {
        let (_, position, tenant) = self.heads.first()?;
        Some((*tenant, *position))
    }

    pub(crate) fn would_be_next(&self, tenant: TenantKey, arrival: u64) -> bool {
        let Some((tag, position, first)) = self.heads.first() else {
            return true;
        };
        if *first == tenant {
            return arrival < position.arrival;
        }
        let (own, before) = match self.flows.get(&tenant) {
            Some(flow) if flow.waiting > 0 => (flow.tag, arrival < flow.first.arrival),
            Some(flow) => (flow.tag.max(self.now), true),
            None => (self.now, true),
        };
        before && (own, arrival) < (*tag, position.arrival)
    }

    pub(crate) fn on_enqueued(
        &mut self,
        tenant: TenantKey,
        weight: impl FnOnce() -> NonZeroU32,
        position: Position,
        charge: &Charge,
    ) {
        self.waiting += 1;
        add(&mut self.charge, charge);
        let now = self.now;
        let flow = self.flows.entry(tenant).or_insert_with(|| Flow {
            tag: 0,
            weight: weight(),
            waiting: 0,
            first: position,
            charge: NO_CHARGE,
        });
        add(&mut flow.charge, charge);
        flow.waiting += 1;
        if flow.waiting > 1 {
            if position < flow.first {
                self.heads.remove(&(flow.tag, flow.first, tenant));
                flow.first = position;
                self.heads.insert((flow.tag, position, tenant));
            }
            return;
        }
        self.idle.remove(&(flow.tag, tenant));
        flow.tag = flow.tag.max(now);
        flow.first = position;
        self.weights += u64::from(flow.weight.get());
        self.heads.insert((flow.tag, position, tenant));
    }

    pub(crate) fn on_removed(
        &mut self,
        tenant: TenantKey,
        charge: &Charge,
        next: Option<Position>,
        work: Option<u64>,
    ) {
        let Some(flow) = self.flows.get_mut(&tenant) else {
            return;
        };
        self.waiting -= 1;
        subtract(&mut self.charge, charge);
        subtract(&mut flow.charge, charge);
        flow.waiting -= 1;
        if next == Some(flow.first) && work.is_none() {
            return;
        }
        self.heads.remove(&(flow.tag, flow.first, tenant));
        if let Some(work) = work {
            self.now = self.now.max(flow.tag);
            flow.tag += step(work, flow.weight);
        }
        match next {
            Some(position) => {
                flow.first = position;
                self.heads.insert((flow.tag, position, tenant));
            }
            None => {
                self.weights -= u64::from(flow.weight.get());
                self.idle.insert((flow.tag, tenant));
            }
        }
        self.forget();
    }

    pub(crate) fn correct(&mut self, tenant: TenantKey, old: u64, new: u64) {
        let Some(flow) = self.flows.get_mut(&tenant) else {
            return;
        };
        let tag = moved(flow.tag, flow.weight, old, new);
        if flow.waiting > 0 {
            self.heads.remove(&(flow.tag, flow.first, tenant));
            flow.tag = tag.max(self.now);
            self.heads.insert((flow.tag, flow.first, tenant));
        } else {
            self.idle.remove(&(flow.tag, tenant));
            flow.tag = tag;
            self.idle.insert((tag, tenant));
            self.forget();
        }
    }

    /// Forgets idle flows that would start no later than a new flow, or all if the class is idle.
    fn forget(&mut self) {
        while let Some((tag, tenant)) = self.idle.first().copied() {
            if tag > self.now && self.waiting > 0 && self.idle.len() <= MAX_IDLE {
                break;
            }
            self.idle.pop_first();
            self.flows.remove(&tenant);
        }
        if self.flows.is_empty() && self.flows.capacity() > 2 * MAX_IDLE {
            self.flows = HashMap::new();
        }
    }
}

/// Adds a charge. Sums wrap, so that adding and subtracting any charge is exact.
fn add(sum: &mut Charge, charge: &Charge) {
    for (sum, charge) in sum.iter_mut().zip(charge) {
        *sum = sum.wrapping_add(*charge);
    }
}

fn subtract(sum: &mut Charge, charge: &Charge) {
    for (sum, charge) in sum.iter_mut().zip(charge) {
        *sum = sum.wrapping_sub(*charge);
    }
}
