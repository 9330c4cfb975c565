//! What is refused at once, because it can never fit or would wait too long.

use std::time::Duration;

use tower_claude_core::{RejectReason, Rejection};

use super::{
    Pool, PoolRequest,
    admit::NAME,
    bucket::{refill, units},
    fair::Ahead,
    lane::{Charge, DIMENSIONS, INPUT, OUTPUT, TOTAL},
    queue::FlowKey,
};
use crate::OutputAccounting;

impl Pool {
    /// Refuses what a limit can never admit. A limit that only a header named must have been confirmed
    /// lately, so that one odd header cannot refuse for ever; output is but a guess and never refuses.
    pub(super) fn check_size(&self, now: u64, charge: &Charge) -> Result<(), Rejection> {
        let reserved = self.config.output_accounting == OutputAccounting::MaxTokensReserved;
        for (index, lane) in self.lanes.iter().enumerate() {
            let Some(bucket) = &lane.bucket else { continue };
            let cost = match index {
                OUTPUT if !reserved => continue,
                TOTAL if !reserved => charge[INPUT],
                _ => charge[index],
            };
            let fresh = lane
                .confirmed
                .is_none_or(|at| now.saturating_sub(at) <= self.max_pause);
            if cost > bucket.limit() && fresh {
                return Err(Rejection::new(
                    NAME,
                    RejectReason::Oversized {
                        dimension: DIMENSIONS[index],
                        cost,
                        limit: bucket.limit(),
                    },
                ));
            }
        }
        self.check_more_sizes(charge)
    }

    pub(super) fn check_wait(
        &self,
        now: u64,
        ask: &PoolRequest,
        flow: FlowKey,
        charge: &Charge,
        leads: bool,
    ) -> Result<(), Rejection> {
        if ask.deadline.is_none() && ask.max_wait.is_none() {
            return Ok(());
        }
        let estimated = self.estimate(now, flow, charge, leads);
        let position = Some(self.queue.fair().waiting(flow) + 1);
        let remaining = ask
            .deadline
            .map(|deadline| Duration::from_nanos(deadline.saturating_sub(now)));
        if let Some(remaining) = remaining
            && (remaining.is_zero() || estimated > remaining)
        {
            let reason = RejectReason::DeadlineWouldPass {
                estimated,
                remaining,
            };
            return Err(Rejection::new(NAME, reason)
                .with_retry_after(foreseen(estimated))
                .with_queue_position(position));
        }
        if let Some(max_wait) = ask.max_wait.map(Duration::from_nanos)
            && (max_wait.is_zero() || estimated > max_wait)
        {
            let reason = RejectReason::WaitTooLong {
                estimated,
                max_wait,
            };
            return Err(Rejection::new(NAME, reason)
                .with_retry_after(foreseen(estimated))
                .with_queue_position(position));
        }
        Ok(())
    }

    /// How long a request behind this work waits: the pause, then the work ahead and its own at the rate
    /// of the tightest lane. Waiting for requests in flight to end cannot be foreseen and counts as
    /// nothing.
    pub(super) fn estimate_behind(&self, now: u64, work: &Ahead, charge: &Charge) -> Duration {
        let pause = self.pause.until().saturating_sub(now);
        let guards = self.guards(charge[INPUT]);
        let mut longest = 0;
        for (index, lane) in self.lanes.iter().enumerate() {
            let Some(bucket) = &lane.bucket else { continue };
            let need = units(charge[index])
                .saturating_add(guards[index])
                .min(bucket.capacity());
            let ahead = units(work.of(index, self.queue.work()[index]));
            // What is refilled during the pause, as far as it fits.
            let level = bucket.level().saturating_add(refill(bucket.limit(), pause));
            let lacking = bucket.level() - level.min(bucket.capacity());
            let wait = bucket.wait(need.saturating_add(ahead).saturating_add(lacking));
            longest = longest.max(wait);
        }
        let ahead = std::array::from_fn(|lane| work.of(lane, self.queue.work()[lane]));
        longest = longest.max(self.pace_wait(&ahead).saturating_sub(pause));
        longest = longest.max(self.estimate_more(now, work, charge, &guards, pause));
        Duration::from_nanos(pause.saturating_add(longest))
    }
}

/// A wait of nothing is one that cannot be foreseen: told as it is, it would have everyone back at once.
pub(super) fn foreseen(wait: Duration) -> Option<Duration> {
    (!wait.is_zero()).then_some(wait)
}
