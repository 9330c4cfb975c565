//! The queue of a pool.

pub(crate) mod fair;
pub(crate) mod flow;

use std::collections::BTreeMap;

use tower_claude_core::{Cost, Priority};

use crate::pool::{
    bucket::{Charge, DIMENSIONS},
    queue::{
        fair::{Backlog, FairQueue},
        flow::{Excess, FairShares, FlowKey, FlowTag, Position, Waiter, WaiterId},
    },
};

/// The requests that wait, in fair order, with running sums of their charges.
#[derive(Debug)]
pub(crate) struct Queue {
    waiters: BTreeMap<(FlowKey, Position), Waiter>,
    fair: FairQueue,
    total: [u128; DIMENSIONS.len()],
    /// The sum of the bytes that the requests hold.
    bytes: u64,
    sequence: u64,
}

impl Queue {
    pub(crate) fn new(shares: FairShares) -> Self {
        Self {
            waiters: BTreeMap::new(),
            fair: FairQueue::new(shares),
            total: [0; DIMENSIONS.len()],
            bytes: 0,
            sequence: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Returns the bytes that the queued requests hold.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) const fn fair(&self) -> &FairQueue {
        &self.fair
    }

    /// Returns the request that is next.
    pub(crate) fn head(&self) -> Option<(WaiterId, &Waiter)> {
        let (flow, position) = self.fair.head()?;
        let waiter = self.waiters.get(&(flow, position))?;
        Some((WaiterId { position, flow }, waiter))
    }

    /// Returns true if a request of this flow with this arrival would be next.
    pub(crate) fn would_be_next(&self, flow: FlowKey, arrival: u64) -> bool {
        self.waiters.is_empty() || self.fair.would_be_next(flow, arrival)
    }

    pub(crate) fn push(&mut self, flow: FlowKey, arrival: u64, waiter: Waiter) -> WaiterId {
        self.sequence += 1;
        let position = Position {
            arrival,
            sequence: self.sequence,
        };
        for (total, charge) in self.total.iter_mut().zip(waiter.charge) {
            *total += u128::from(charge);
        }
        self.bytes = self.bytes.saturating_add(waiter.bytes);
        self.fair.on_enqueued(flow, position, &waiter);
        self.waiters.insert((flow, position), waiter);
        WaiterId { position, flow }
    }

    /// Removes a request that is no longer to be admitted. Returns false if it is not queued.
    pub(crate) fn remove(&mut self, id: WaiterId) -> bool {
        self.take(id, None)
    }

    /// Returns the request to give up for an excess that the request `newcomer` has caused: the
    /// last one of the flow that has the most of it.
    pub(crate) fn surplus(&self, excess: Excess, newcomer: WaiterId) -> WaiterId {
        let flow = self.fair.greediest(excess, newcomer.flow);
        let last = self.of(flow).next_back();
        last.map_or(newcomer, |(position, _)| WaiterId { position, flow })
    }

    /// Removes the head for admission. `work` is its time of the bottleneck.
    pub(crate) fn dequeue(&mut self, id: WaiterId, work: u64) -> FlowTag {
        let tag = FlowTag {
            flow: id.flow,
            epoch: self.fair.epoch(),
        };
        self.take(id, Some(work));
        tag
    }

    fn take(&mut self, id: WaiterId, work: Option<u64>) -> bool {
        let flow = id.flow;
        let Some(waiter) = self.waiters.remove(&(flow, id.position)) else {
            return false;
        };
        for (total, charge) in self.total.iter_mut().zip(waiter.charge) {
            *total -= u128::from(charge);
        }
        self.bytes = self.bytes.saturating_sub(waiter.bytes);
        let next = self.of(flow).next().map(|(position, _)| position);
        self.fair.on_removed(flow, &waiter, next, work);
        true
    }

    /// Corrects the virtual time of a flow by the actual work of an admitted request.
    pub(crate) fn correct(&mut self, tag: FlowTag, old: u64, new: u64) {
        self.fair.correct(tag, old, new);
    }

    /// Moves a request to a class of higher priority. It keeps its arrival and gets another id.
    /// Returns `None` if it is not queued or its priority is as high.
    pub(crate) fn raise_priority(&mut self, id: WaiterId, priority: Priority) -> Option<WaiterId> {
        let flow = FlowKey::of(priority, id.flow.tenant());
        if flow.class() <= id.flow.class() {
            return None;
        }
        let waiter = *self.waiters.get(&(id.flow, id.position))?;
        self.remove(id);
        Some(self.push(flow, id.position.arrival, waiter))
    }

    /// Replaces the cost of a request, except for its workload and the charge at its arrival.
    pub(crate) fn revise(&mut self, id: WaiterId, cost: Cost) {
        if let Some(waiter) = self.waiters.get_mut(&(id.flow, id.position)) {
            waiter.cost = cost.with_workload(waiter.cost.workload);
        }
    }

    /// Returns the charge of this request at its arrival.
    pub(crate) fn charge(&self, id: WaiterId) -> Option<Charge> {
        let waiter = self.waiters.get(&(id.flow, id.position))?;
        Some(waiter.charge)
    }

    /// Returns the queued request of this id.
    pub(crate) fn get(&self, id: WaiterId) -> Option<&Waiter> {
        self.waiters.get(&(id.flow, id.position))
    }

    fn of(&self, flow: FlowKey) -> impl DoubleEndedIterator<Item = (Position, &Waiter)> {
        self.waiters
            .range((flow, Position::FIRST)..=(flow, Position::LAST))
            .map(|((_, position), waiter)| (*position, waiter))
    }

    /// Returns the charges that are admitted before the end of a backlog, at most all that wait.
    pub(crate) fn ahead(&self, backlog: &Backlog) -> Charge {
        std::array::from_fn(|index| backlog.amount(index, self.total[index]))
    }

    /// Returns the number of requests of the same flow ahead of this one, and the approximate
    /// backlog. Both ends of the flow are searched, since most requests that ask for their position
    /// have just arrived or are about to be admitted.
    pub(crate) fn ahead_of(&self, id: WaiterId) -> Option<(usize, Backlog)> {
        let waiter = self.waiters.get(&(id.flow, id.position))?;
        let waiting = self.fair.waiting(id.flow);
        let (mut front, mut back) = (self.of(id.flow), self.of(id.flow).rev());
        let mut steps = 0;
        let ahead = loop {
            match (front.next(), back.next()) {
                (Some((position, _)), _) if position == id.position => break steps,
                (_, Some((position, _))) if position == id.position => break waiting - 1 - steps,
                (None, _) | (_, None) => return None,
                _ => steps += 1,
            }
        };
        let others = self.fair.backlog(id.flow).without(&waiter.charge);
        Some((ahead, others.part(ahead, waiting - 1)))
    }

    /// Returns the sums of the charges at arrival.
    pub(crate) const fn total(&self) -> &[u128; DIMENSIONS.len()] {
        &self.total
    }
}
