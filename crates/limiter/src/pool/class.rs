//! One priority class: its tenants in turn.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
};

use super::{
    lane::{Charge, LANES},
    queue::{Place, TenantKey},
};
use crate::FairShares;

/// Flows that do not wait are remembered until virtual time has passed them, and no more than these: then
/// those are forgotten that took least.
const MOST_IDLE: usize = 1_024;

/// Virtual time is finer than nanoseconds, so that weights divide them well.
const FINE: u32 = 16;

/// How far this work moves a flow of this weight.
pub(crate) fn step(work: u64, weight: NonZeroU32) -> u128 {
    if work >> (u64::BITS - FINE) == 0 {
        // Nearly always: division of wide integers is slow.
        return u128::from((work << FINE) / u64::from(weight.get()));
    }
    (u128::from(work) << FINE) / u128::from(weight.get())
}

/// A tag after the work behind it turned out to be `new` instead of `old`.
pub(crate) fn scaled(tag: u128, weight: NonZeroU32, old: u64, new: u64) -> u128 {
    if new > old {
        tag + step(new - old, weight)
    } else {
        tag.saturating_sub(step(old - new, weight))
    }
}

/// One priority class.
#[derive(Debug)]
pub(crate) struct Class {
    /// Its own turn among the classes.
    pub(crate) tag: u128,
    weight: NonZeroU32,
    now: u128,
    waiting: usize,
    work: Charge,
    /// Weights of the tenants that wait.
    weights: u64,
    flows: HashMap<TenantKey, Flow>,
    /// Tenants that wait, by tag, then by arrival of their first.
    heads: BTreeSet<(u128, Place, TenantKey)>,
    /// Tenants that do not, by tag.
    idle: BTreeSet<(u128, TenantKey)>,
}

/// The requests of one tenant in one class.
#[derive(Debug)]
struct Flow {
    tag: u128,
    weight: NonZeroU32,
    waiting: u32,
    first: Place,
    work: Charge,
}

impl Class {
    pub(crate) fn new(weight: NonZeroU32) -> Self {
        Self {
            tag: 0,
            weight,
            now: 0,
            waiting: 0,
            work: [0; LANES],
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

    pub(crate) const fn work(&self) -> &Charge {
        &self.work
    }

    #[cfg(test)]
    pub(crate) fn flows(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn waiting_of(&self, tenant: TenantKey) -> usize {
        self.flows.get(&tenant).map_or(0, |f| f.waiting as usize)
    }

    pub(crate) fn work_of(&self, tenant: TenantKey) -> Charge {
        self.flows.get(&tenant).map_or([0; LANES], |f| f.work)
    }

    /// By how much the tenants that wait slow this one down.
    pub(crate) fn slower(&self, tenant: TenantKey, shares: &FairShares) -> f64 {
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

    pub(crate) fn head(&self) -> Option<(TenantKey, Place)> {
        let (_, place, tenant) = self.heads.first()?;
        Some((*tenant, *place))
    }

    pub(crate) fn would_lead(&self, tenant: TenantKey, arrival: u64) -> bool {
        let Some((tag, place, first)) = self.heads.first() else {
            return true;
        };
        if *first == tenant {
            return arrival < place.arrival();
        }
        let (own, before) = match self.flows.get(&tenant) {
            Some(flow) if flow.waiting > 0 => (flow.tag, arrival < flow.first.arrival()),
            Some(flow) => (flow.tag.max(self.now), true),
            None => (self.now, true),
        };
        before && (own, arrival) < (*tag, place.arrival())
    }

    pub(crate) fn pushed(
        &mut self,
        tenant: TenantKey,
        weight: impl FnOnce() -> NonZeroU32,
        place: Place,
        charge: &Charge,
    ) {
        self.waiting += 1;
        add(&mut self.work, charge);
        let now = self.now;
        let flow = self.flows.entry(tenant).or_insert_with(|| Flow {
            tag: 0,
            weight: weight(),
            waiting: 0,
            first: place,
            work: [0; LANES],
        });
        add(&mut flow.work, charge);
        flow.waiting += 1;
        if flow.waiting > 1 {
            if place < flow.first {
                self.heads.remove(&(flow.tag, flow.first, tenant));
                flow.first = place;
                self.heads.insert((flow.tag, place, tenant));
            }
            return;
        }
        self.idle.remove(&(flow.tag, tenant));
        flow.tag = flow.tag.max(now);
        flow.first = place;
        self.weights += u64::from(flow.weight.get());
        self.heads.insert((flow.tag, place, tenant));
    }

    pub(crate) fn left(
        &mut self,
        tenant: TenantKey,
        charge: &Charge,
        next: Option<Place>,
        work: Option<u64>,
    ) {
        let Some(flow) = self.flows.get_mut(&tenant) else {
            return;
        };
        self.waiting -= 1;
        subtract(&mut self.work, charge);
        subtract(&mut flow.work, charge);
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
            Some(place) => {
                flow.first = place;
                self.heads.insert((flow.tag, place, tenant));
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
        let tag = scaled(flow.tag, flow.weight, old, new);
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

    /// Forgets flows that would start no later than a new one; all when nobody waits.
    fn forget(&mut self) {
        while let Some((tag, tenant)) = self.idle.first().copied() {
            if tag > self.now && self.waiting > 0 && self.idle.len() <= MOST_IDLE {
                break;
            }
            self.idle.pop_first();
            self.flows.remove(&tenant);
        }
        if self.flows.is_empty() && self.flows.capacity() > 2 * MOST_IDLE {
            self.flows = HashMap::new();
        }
    }
}

/// Wrapping, so that taking out what was put in is exact whatever it is.
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
