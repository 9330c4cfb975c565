//! Whose turn it is: start-time fair queuing, first between priority classes, then between the tenants
//! of a class.
//!
//! Virtual time is work done divided by weight. Each flow has one tag: while it waits, where its next
//! request starts; while it does not, where its last one ended. The least tag is next, and virtual time
//! is the tag of who was picked last. A flow that comes back starts no earlier than virtual time, so that
//! nobody saves turns up.

use super::{
    class::{Class, scaled, step},
    lane::{Charge, LANES},
    queue::{FlowKey, Place},
};
use crate::FairShares;

/// Priority classes: batch, normal, interactive.
pub(crate) const CLASSES: usize = 3;

/// Whose turn it is.
#[derive(Debug)]
pub(crate) struct Fair {
    classes: [Class; CLASSES],
    shares: FairShares,
    now: u128,
    waiting: usize,
    /// Counts the times at which nobody waited: tags of before mean nothing after.
    epoch: u32,
}

impl Fair {
    pub(crate) fn new(shares: FairShares) -> Self {
        Self {
            classes: std::array::from_fn(|index| Class::new(shares.class(index))),
            shares,
            now: 0,
            waiting: 0,
            epoch: 0,
        }
    }

    pub(crate) const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The flow and the request that are next.
    pub(crate) fn head(&self) -> Option<(FlowKey, Place)> {
        let (index, class) = self.first_class()?;
        let (tenant, place) = class.head()?;
        Some((FlowKey::new(index, tenant), place))
    }

    /// Between equals the more urgent class is first.
    fn first_class(&self) -> Option<(usize, &Class)> {
        let classes = self.classes.iter().enumerate().rev();
        classes
            .filter(|(_, class)| class.waiting() > 0)
            .min_by_key(|(_, class)| class.tag)
    }

    /// Whether a request of this flow that arrived then would be next.
    pub(crate) fn would_lead(&self, key: FlowKey, arrival: u64) -> bool {
        let Some((first, head)) = self.first_class() else {
            return true;
        };
        let class = &self.classes[key.class()];
        if key.class() == first {
            return head.would_lead(key.tenant(), arrival);
        }
        let tag = if class.waiting() > 0 {
            class.tag
        } else {
            class.tag.max(self.now)
        };
        let earlier = tag < head.tag || (tag == head.tag && key.class() > first);
        earlier && class.would_lead(key.tenant(), arrival)
    }

    /// A request has come to wait.
    pub(crate) fn pushed(&mut self, key: FlowKey, place: Place, charge: &Charge) {
        let now = self.now;
        let class = &mut self.classes[key.class()];
        if class.waiting() == 0 {
            class.tag = class.tag.max(now);
        }
        let shares = &self.shares;
        class.pushed(key.tenant(), || shares.tenant(key.tenant()), place, charge);
        self.waiting += 1;
    }

    /// A request waits no more; `next` is then the first of its flow. With `work` it was the head and
    /// has been let out, else it gave up.
    pub(crate) fn left(
        &mut self,
        key: FlowKey,
        charge: &Charge,
        next: Option<Place>,
        work: Option<u64>,
    ) {
        let class = &mut self.classes[key.class()];
        class.left(key.tenant(), charge, next, work);
        if let Some(work) = work {
            self.now = self.now.max(class.tag);
            class.tag += step(work, class.weight());
        }
        self.waiting -= 1;
        if self.waiting == 0 {
            // Nobody was kept waiting by what was let out before.
            let last = self.classes.iter().map(|class| class.tag).max();
            self.now = self.now.max(last.unwrap_or(0));
            self.epoch = self.epoch.wrapping_add(1);
        }
    }

    /// What a request let out in this epoch really took is known: its flow's turn moves.
    pub(crate) fn correct(&mut self, key: FlowKey, epoch: u32, old: u64, new: u64) {
        if epoch != self.epoch || old == new {
            return;
        }
        let now = self.now;
        let class = &mut self.classes[key.class()];
        class.tag = scaled(class.tag, class.weight(), old, new);
        if class.waiting() > 0 {
            class.tag = class.tag.max(now);
        }
        class.correct(key.tenant(), old, new);
    }

    /// Requests of this flow that wait.
    pub(crate) fn waiting(&self, key: FlowKey) -> usize {
        self.classes[key.class()].waiting_of(key.tenant())
    }

    /// Requests of this class that wait.
    pub(crate) const fn waiting_in(&self, class: usize) -> usize {
        self.classes[class].waiting()
    }

    /// What waits in one lane before a newcomer of this flow is let out, given the share of its flow
    /// while all others keep on waiting; the caller knows that it is at most what waits in all.
    pub(crate) fn ahead(&self, key: FlowKey) -> Ahead {
        let class = &self.classes[key.class()];
        Ahead {
            work: class.work_of(key.tenant()),
            slower: self.slower(key.class()) * class.slower(key.tenant(), &self.shares),
        }
    }

    /// The same for a newcomer behind everybody of this class.
    pub(crate) fn ahead_in(&self, class: usize) -> Ahead {
        Ahead {
            work: *self.classes[class].work(),
            slower: self.slower(class),
        }
    }

    /// By how much the classes that wait slow this one down: 1 when it is alone.
    fn slower(&self, index: usize) -> f64 {
        let others = self.classes.iter().enumerate();
        let others: u64 = others
            .filter(|(other, class)| *other != index && class.waiting() > 0)
            .map(|(_, class)| u64::from(class.weight().get()))
            .sum();
        1.0 + others as f64 / f64::from(self.classes[index].weight().get())
    }

    /// Flows remembered.
    #[cfg(test)]
    pub(crate) fn flows(&self) -> usize {
        self.classes.iter().map(Class::flows).sum()
    }
}

/// The work ahead in a queue, and by how much others slow it down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    work: Charge,
    slower: f64,
}

impl Ahead {
    pub(crate) const NOTHING: Self = Self {
        work: [0; LANES],
        slower: 1.0,
    };

    /// Everybody's work until then, of the work that waits in all.
    pub(crate) fn of(&self, lane: usize, all: u128) -> u64 {
        let own = self.work[lane];
        let slowed = if self.slower > 1.0 {
            (own as f64 * self.slower) as u64
        } else {
            own
        };
        slowed.min(u64::try_from(all).unwrap_or(u64::MAX))
    }

    /// The same without this one.
    pub(crate) fn without(mut self, charge: &Charge) -> Self {
        for (work, charge) in self.work.iter_mut().zip(charge) {
            *work = work.saturating_sub(*charge);
        }
        self
    }

    /// The same for the part of the flow's work that is ahead of one in its middle.
    pub(crate) fn part(mut self, ahead: usize, of: usize) -> Self {
        let part = ahead as f64 / of.max(1) as f64;
        for work in &mut self.work {
            *work = (*work as f64 * part) as u64;
        }
        self
    }
}

#[cfg(test)]
mod tests;
