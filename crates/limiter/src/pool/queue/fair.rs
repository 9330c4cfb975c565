//! Start-time fair queuing, first between priority classes, then between the tenants of a class.
//!
//! Virtual time is work divided by weight. Each flow has one tag: the start of its next request
//! while it has requests queued, and the end of its last one otherwise. The lowest tag is next, and
//! virtual time is the tag of the flow that was served last. An idle flow resumes no earlier than
//! virtual time, so that idling earns no credit.

use crate::{
    pool::{
        dimension::{Charge, NO_CHARGE},
        queue::{
            class::{PriorityClass, moved, step},
            key::{FlowKey, FlowTag, PRIORITIES, Position},
        },
    },
    shares::FairShares,
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
    pub(crate) fn on_enqueued(&mut self, key: FlowKey, position: Position, charge: &Charge) {
        let now = self.now;
        let class = &mut self.classes[key.class()];
        if class.waiting() == 0 {
            class.tag = class.tag.max(now);
        }
        let weight = || self.shares.tenant(key.tenant());
        class.on_enqueued(key.tenant(), weight, position, charge);
        self.waiting += 1;
    }

    /// Records that a request left the queue. `next` is then the first of its flow. `work` is set
    /// if it was the head and was admitted.
    pub(crate) fn on_removed(
        &mut self,
        key: FlowKey,
        charge: &Charge,
        next: Option<Position>,
        work: Option<u64>,
    ) {
        let class = &mut self.classes[key.class()];
        class.on_removed(key.tenant(), charge, next, work);
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

#[cfg(test)]
mod tests;
