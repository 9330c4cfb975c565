//! Start-time fair queuing, first between priority classes, then between the tenants of a class.
//!
//! Virtual time is work divided by weight. Each flow has one tag: the start of its next request
//! while it has requests queued, and the end of its last one otherwise. The lowest tag is next, and
//! virtual time is the tag of the flow that was served last. An idle flow resumes no earlier than
//! virtual time, so that idling earns no credit.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
};

use crate::pool::{
    bucket::{Charge, NO_CHARGE},
    queue::flow::{Excess, FairShares, FlowKey, FlowTag, PRIORITIES, Position, TenantKey, Waiter},
};

/// The scheduler of priority classes and tenants.
#[derive(Debug)]
pub(crate) struct FairQueue {
    classes: [PriorityClass; PRIORITIES.len()],
    shares: FairShares,
    now: u128,
    waiting: usize,
    /// The number of times at which the queue was empty. A tag of an earlier epoch is void.
    epoch: u32,
}

impl FairQueue {
    pub(crate) fn new(shares: FairShares) -> Self {
        Self {
            classes: std::array::from_fn(|index| PriorityClass::new(shares.class(index))),
            shares,
            now: 0,
            waiting: 0,
            epoch: 0,
        }
    }

    pub(crate) const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Returns the flow and the position that are next.
    pub(crate) fn head(&self) -> Option<(FlowKey, Position)> {
        let (index, class) = self.first_class()?;
        let (tenant, position) = class.head()?;
        Some((FlowKey::new(index, tenant), position))
    }

    /// Returns the class with the lowest tag. Between equal tags the more urgent class is first.
    fn first_class(&self) -> Option<(usize, &PriorityClass)> {
        let classes = self.classes.iter().enumerate().rev();
        classes
            .filter(|(_, class)| class.waiting() > 0)
            .min_by_key(|(_, class)| class.tag)
    }

    /// Returns true if a request of this flow with this arrival would be next.
    pub(crate) fn would_be_next(&self, key: FlowKey, arrival: u64) -> bool {
        let Some((first, head)) = self.first_class() else {
            return true;
        };
        let class = &self.classes[key.class()];
        if key.class() == first {
            return head.would_be_next(key.tenant(), arrival);
        }
        let tag = if class.waiting() > 0 {
            class.tag
        } else {
            class.tag.max(self.now)
        };
        let earlier = tag < head.tag || (tag == head.tag && key.class() > first);
        earlier && class.would_be_next(key.tenant(), arrival)
    }

    /// Records that a request was queued.
    pub(crate) fn on_enqueued(&mut self, key: FlowKey, position: Position, waiter: &Waiter) {
        let now = self.now;
        let class = &mut self.classes[key.class()];
        if class.waiting() == 0 {
            class.tag = class.tag.max(now);
        }
        let weight = || self.shares.tenant(key.tenant());
        class.on_enqueued(key.tenant(), weight, position, waiter);
        self.waiting += 1;
    }

    /// Records that a request left the queue. `next` is then the first of its flow. `work` is set
    /// if it was the head and was admitted.
    pub(crate) fn on_removed(
        &mut self,
        key: FlowKey,
        waiter: &Waiter,
        next: Option<Position>,
        work: Option<u64>,
    ) {
        let class = &mut self.classes[key.class()];
        class.on_removed(key.tenant(), waiter, next, work);
        if let Some(work) = work {
            self.now = self.now.max(class.tag);
            class.tag += step(work, class.weight());
        }
        self.waiting -= 1;
        if self.waiting == 0 {
            // Earlier admissions delayed no request that waits.
            let last = self.classes.iter().map(|class| class.tag).max();
            self.now = self.now.max(last.unwrap_or(0));
            self.epoch = self.epoch.wrapping_add(1);
        }
    }

    /// Moves the tag of a flow by the actual work of a request that was admitted in this epoch.
    pub(crate) fn correct(&mut self, tag: FlowTag, old: u64, new: u64) {
        if tag.epoch != self.epoch || old == new {
            return;
        }
        let now = self.now;
        let class = &mut self.classes[tag.flow.class()];
        class.tag = moved(class.tag, class.weight(), old, new);
        if class.waiting() > 0 {
            class.tag = class.tag.max(now);
        }
        class.correct(tag.flow.tenant(), old, new);
    }

    /// Returns the number of queued requests of this flow.
    pub(crate) fn waiting(&self, key: FlowKey) -> usize {
        self.classes[key.class()].waiting_of(key.tenant())
    }

    /// Returns the number of queued requests of this class.
    pub(crate) const fn waiting_in(&self, class: usize) -> usize {
        self.classes[class].waiting()
    }

    /// Returns the backlog ahead of a new request of this flow, if all other flows stay busy.
    pub(crate) fn backlog(&self, key: FlowKey) -> Backlog {
        let class = &self.classes[key.class()];
        Backlog {
            charge: class.charge_of(key.tenant()),
            slowdown: self.slowdown(key.class()) * class.slowdown(key.tenant(), &self.shares),
        }
    }

    /// Returns the backlog ahead of a new request behind all of this class.
    pub(crate) fn backlog_in(&self, class: usize) -> Backlog {
        Backlog {
            charge: *self.classes[class].charge(),
            slowdown: self.slowdown(class),
        }
    }

    /// Returns the flow that has the most of what is too much, in proportion to its share: of the
    /// estimated wait, or of the bytes. Between equal flows it is `newcomer`.
    ///
    /// It is `newcomer` as well if all other flows cannot give up enough without falling below it.
    /// A flow does not give up its only request.
    pub(crate) fn greediest(&self, excess: Excess, newcomer: FlowKey) -> FlowKey {
        let own = &self.classes[newcomer.class()];
        let least = own.flows.get(&newcomer.tenant()).map_or(0.0, |flow| {
            let slowdown = self.slowdown(newcomer.class()) * own.slowdown_of(flow);
            flow.amount(excess) as f64 * slowdown
        });
        let (mut greediest, mut most, mut available) = (newcomer, least, 0.0);
        for (index, class) in self.classes.iter().enumerate() {
            let slowdown = self.slowdown(index);
            for (_, _, tenant) in &class.heads {
                let Some(flow) = class.flows.get(tenant).filter(|flow| flow.waiting > 1) else {
                    continue;
                };
                let slowdown = slowdown * class.slowdown_of(flow);
                let amount = flow.amount(excess) as f64 * slowdown;
                available += (amount - least).max(0.0) / slowdown;
                if amount > most {
                    (greediest, most) = (FlowKey::new(index, *tenant), amount);
                }
            }
        }
        match excess {
            Excess::Bytes(bytes) if available < bytes as f64 => newcomer,
            _ => greediest,
        }
    }

    /// Returns the factor by which the other busy classes slow this one down.
    fn slowdown(&self, index: usize) -> f64 {
        let others = self.classes.iter().enumerate();
        let others: u64 = others
            .filter(|(other, class)| *other != index && class.waiting() > 0)
            .map(|(_, class)| u64::from(class.weight().get()))
            .sum();
        1.0 + others as f64 / f64::from(self.classes[index].weight().get())
    }

    #[cfg(test)]
    pub(crate) fn flows(&self) -> usize {
        self.classes.iter().map(PriorityClass::flows).sum()
    }
}

/// The charges ahead in a queue, and the factor by which other flows slow it down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog {
    charge: Charge,
    slowdown: f64,
}

impl Backlog {
    pub(crate) const NONE: Self = Self {
        charge: NO_CHARGE,
        slowdown: 1.0,
    };

    /// Returns the amount of all flows that is admitted until its end, at most `total`.
    pub(crate) fn amount(&self, index: usize, total: u128) -> u64 {
        let own = self.charge[index];
        let slowed = if self.slowdown > 1.0 {
            (own as f64 * self.slowdown) as u64
        } else {
            own
        };
        slowed.min(u64::try_from(total).unwrap_or(u64::MAX))
    }

    /// Returns the backlog without one request of it.
    pub(crate) fn without(mut self, charge: &Charge) -> Self {
        for (sum, charge) in self.charge.iter_mut().zip(charge) {
            *sum = sum.saturating_sub(*charge);
        }
        self
    }

    /// Returns the part of the backlog that `ahead` of its `of` requests make up.
    pub(crate) fn part(mut self, ahead: usize, of: usize) -> Self {
        let part = ahead as f64 / of.max(1) as f64;
        for sum in &mut self.charge {
            *sum = (*sum as f64 * part) as u64;
        }
        self
    }
}

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
    work: u128,
    bytes: u128,
}

impl Flow {
    const fn amount(&self, excess: Excess) -> u128 {
        match excess {
            Excess::Requests => self.work,
            Excess::Bytes(_) => self.bytes,
        }
    }
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

    /// Returns the same for a tenant that has requests waiting.
    fn slowdown_of(&self, flow: &Flow) -> f64 {
        self.weights as f64 / f64::from(flow.weight.get())
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
        waiter: &Waiter,
    ) {
        self.waiting += 1;
        add(&mut self.charge, &waiter.charge);
        let now = self.now;
        let flow = self.flows.entry(tenant).or_insert_with(|| Flow {
            tag: 0,
            weight: weight(),
            waiting: 0,
            first: position,
            charge: NO_CHARGE,
            work: 0,
            bytes: 0,
        });
        add(&mut flow.charge, &waiter.charge);
        flow.work += u128::from(waiter.work);
        flow.bytes += u128::from(waiter.bytes);
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
        waiter: &Waiter,
        next: Option<Position>,
        work: Option<u64>,
    ) {
        let Some(flow) = self.flows.get_mut(&tenant) else {
            return;
        };
        self.waiting -= 1;
        subtract(&mut self.charge, &waiter.charge);
        subtract(&mut flow.charge, &waiter.charge);
        flow.work -= u128::from(waiter.work);
        flow.bytes -= u128::from(waiter.bytes);
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

#[cfg(test)]
mod tests;
