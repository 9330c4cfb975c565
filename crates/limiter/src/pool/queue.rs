//! Who waits, in order.

use std::collections::BTreeMap;

use tower_claude_core::Cost;

use super::lane::LANES;

/// A place in the queue of one pool: by first arrival, then by order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    arrival: u64,
    sequence: u64,
}

/// What waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) cost: Cost,
    /// What it was reckoned to take when it came, so that the sums stay exact.
    pub(crate) charge: [u64; LANES],
}

/// The queue, with running sums of the work in it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiters: BTreeMap<Ticket, Waiter>,
    work: [u128; LANES],
    sequence: u64,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn work(&self) -> &[u128; LANES] {
        &self.work
    }

    pub(crate) fn head(&self) -> Option<(Ticket, &Waiter)> {
        self.waiters.first_key_value().map(|(t, w)| (*t, w))
    }

    /// Whether a request that arrived then would be first.
    pub(crate) fn would_lead(&self, arrival: u64) -> bool {
        self.head().is_none_or(|(head, _)| arrival < head.arrival)
    }

    pub(crate) fn push(&mut self, arrival: u64, waiter: Waiter) -> Ticket {
        self.sequence += 1;
        let ticket = Ticket {
            arrival,
            sequence: self.sequence,
        };
        for (work, charge) in self.work.iter_mut().zip(waiter.charge) {
            *work += u128::from(charge);
        }
        self.waiters.insert(ticket, waiter);
        ticket
    }

    pub(crate) fn remove(&mut self, ticket: Ticket) -> bool {
        let Some(waiter) = self.waiters.remove(&ticket) else {
            return false;
        };
        for (work, charge) in self.work.iter_mut().zip(waiter.charge) {
            *work -= u128::from(charge);
        }
        true
    }
}
