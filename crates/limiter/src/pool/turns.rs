//! The fair queue and the further limits, as the pool uses them.

use std::time::Duration;

use tower_claude_core::{RejectReason, Rejection};

use super::{
    Pool, PoolRequest, QueuePlace, WaiterId,
    admit::NAME,
    bucket::UNIT,
    fair::Ahead,
    lane::{Charge, INPUT, LANES, OUTPUT, TOTAL},
    queue::{FlowKey, Turn, Waiter},
};
use crate::{ClassSnapshot, OutputAccounting, shares::PRIORITIES};

/// The work of a request where no rate is known.
const EQUAL_WORK: u64 = 1_000_000_000;

impl Pool {
    /// A newcomer is let out ahead of those who wait: it has its turn, as if it had waited.
    pub(super) fn overtake(
        &mut self,
        flow: FlowKey,
        ask: &PoolRequest,
        charge: Charge,
    ) -> Option<Turn> {
        if self.queue.len() == 0 {
            return None;
        }
        let cost = ask.cost;
        let waiter = Waiter { cost, charge };
        let ticket = self.queue.push(flow, ask.first_arrival, waiter);
        let work = self.turn_work(&charge);
        Some(self.queue.let_out(ticket, work))
    }

    /// What a request takes of the tightest rate's time, in nanoseconds. Where no rate is known, all
    /// requests are equal. Limits per day do not count: they rarely are what one waits for.
    pub(super) fn turn_work(&self, charge: &Charge) -> u64 {
        let lanes = self.lanes.iter().enumerate();
        let lanes = lanes.filter_map(|(index, lane)| Some((index, lane.bucket.as_ref()?.limit())));
        let extras = self.extras.iter();
        let extras = extras.filter_map(|extra| Some((extra.lane(), extra.per_minute()?)));
        let work = lanes.chain(extras).map(|(lane, limit)| {
            // A share need not be exact, and division of wide integers is slow.
            (charge[lane] as f64 * (UNIT as f64 / limit.max(1) as f64)) as u64
        });
        work.max().unwrap_or_else(|| {
            let nothing = charge.iter().all(|charge| *charge == 0);
            if nothing { 0 } else { EQUAL_WORK }
        })
    }

    /// Refuses what a further limit can never admit.
    pub(super) fn check_more_sizes(&self, charge: &Charge) -> Result<(), Rejection> {
        let reserved = self.config.output_accounting == OutputAccounting::MaxTokensReserved;
        for extra in &self.extras {
            let cost = match extra.lane() {
                OUTPUT if !reserved => continue,
                TOTAL if !reserved => charge[INPUT],
                lane => charge[lane],
            };
            if cost > extra.limit() {
                let reason = RejectReason::Oversized {
                    dimension: extra.dimension(),
                    cost,
                    limit: extra.limit(),
                };
                return Err(Rejection::new(NAME, reason));
            }
        }
        Ok(())
    }

    /// How long a newcomer would wait; nobody is ahead of one that leads.
    pub(super) fn estimate(
        &self,
        now: u64,
        flow: FlowKey,
        charge: &Charge,
        leads: bool,
    ) -> Duration {
        let ahead = if leads {
            Ahead::NOTHING
        } else {
            self.queue.fair().ahead(flow)
        };
        self.estimate_behind(now, &ahead, charge)
    }

    /// How long the further limits make wait after the pause.
    pub(super) fn estimate_more(
        &self,
        now: u64,
        work: &Ahead,
        charge: &Charge,
        guards: &[i128; LANES],
        pause: u64,
    ) -> u64 {
        let mut longest = 0;
        for extra in &self.extras {
            let lane = extra.lane();
            let ahead = work.of(lane, self.queue.work()[lane]);
            let wait = extra.wait_behind(now, ahead, charge[lane], guards[lane]);
            longest = longest.max(wait.saturating_sub(pause));
        }
        longest
    }

    /// Where a request waits; `None` when it does not. It is counted from the nearer end of the queue of its
    /// priority and tenant, so that it is quick for the first and the last of them and linear in the middle.
    #[must_use]
    pub fn place(&self, now: u64, ticket: WaiterId) -> Option<QueuePlace> {
        let (ahead, work) = self.queue.ahead_of(ticket)?;
        let charge = self.queue.charge(ticket)?;
        Some(QueuePlace {
            position: ahead + 1,
            estimated_wait: self.estimate_behind(now.max(self.now), &work, &charge),
        })
    }

    /// The classes that wait, the most urgent first.
    pub(super) fn classes(&self, now: u64) -> Vec<ClassSnapshot> {
        let fair = self.queue.fair();
        let classes = PRIORITIES.into_iter().enumerate().rev();
        classes
            .filter(|(class, _)| fair.waiting_in(*class) > 0)
            .map(|(class, priority)| ClassSnapshot {
                priority,
                queued: fair.waiting_in(class),
                estimated_wait: self.estimate_behind(now, &fair.ahead_in(class), &[0; LANES]),
            })
            .collect()
    }
}
