//! What a 429 says beside how long to wait.

use tower_claude_wire::RateLimits;

use super::{
    Pool, ReservationId,
    book::Record,
    bucket::{refill, units},
    guard::{HALF_ROUNDING, SIGMAS},
    lane::{INPUT, OUTPUT, REQUESTS},
};
use crate::OutputAccounting;

impl Pool {
    /// Decides once what the 429 for `id` means. Where a level explains it that we thought we knew,
    /// others draw on it. Where none does, it is a limit that no header shows.
    pub(super) fn refused(&mut self, now: u64, id: ReservationId, limits: Option<&RateLimits>) {
        let Some(record) = self.book.get_mut(id) else {
            return;
        };
        // Settled as rejected without a pause: a spend limit, which is about neither.
        if record.judged || (limits.is_none() && !record.paused) {
            return;
        }
        record.judged = true;
        let record = record.clone();
        let exhausted = limits.and_then(|limits| self.exhausted(now, &record, limits));
        if let Some(index) = exhausted {
            let young = index == INPUT && self.input.is_young();
            if !young && self.lanes[index].drift.known_at(record.sent_at) {
                self.drained(now);
            }
        }
    }

    /// The lane that had too little left for this request, by the headers of its 429.
    fn exhausted(&self, now: u64, record: &Record, limits: &RateLimits) -> Option<usize> {
        let flight = now.saturating_sub(record.sent_at);
        let gauges = self.gauges(limits).into_iter().enumerate();
        let mut known = gauges.filter_map(|(index, gauge)| Some((index, gauge?)));
        let found = known.find(|(index, gauge)| {
            let Some(left) = gauge.remaining else {
                return false;
            };
            let limit = gauge.limit.unwrap_or(0);
            let charge = record.charge[*index];
            let (charge, rounding) = match *index {
                REQUESTS => (charge.max(1), 0),
                OUTPUT if self.config.output_accounting == OutputAccounting::AsProduced => {
                    (1, HALF_ROUNDING)
                }
                _ => {
                    let error = SIGMAS * self.input.error();
                    let most = (charge as f64 * (1.0 + error)) as u64;
                    (most.min(limit.max(1)), HALF_ROUNDING)
                }
            };
            // It may have been refilled on the way.
            units(left) < units(charge + rounding) + refill(limit, flight)
        });
        found.map(|(index, _)| index)
    }
}
