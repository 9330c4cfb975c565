//! A bucket for each limit and one queue, as fast arithmetic: the same as a replay through the
//! limiter itself, for searches that need hundreds of replays.
//!
//! `tests/replay.rs` checks that both give the same waits.

use std::time::Duration;

use crate::demand::Demand;

/// Units of one token: the nanoseconds of a minute. A limit then refills its own number of units in
/// each nanosecond.
const UNIT: i128 = 60_000_000_000;

/// The shortest wait of a queued request: the resolution of the limiter's timers.
pub(crate) const TICK: u64 = 1_000_000;

/// The longest debt, in nanoseconds of refill, that one request over the limit takes.
const MAX_DEBT: i128 = 300_000_000_000;

/// The names of the dimensions, in their order.
pub const DIMENSIONS: [&str; 3] = ["requests", "input tokens", "output tokens"];

/// Limits per minute on requests, input and output tokens, and the size of their buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The limits. `None` is unlimited.
    pub limits: [Option<u64>; 3],
    /// The time in which an empty bucket fills.
    pub burst: Duration,
}

impl Quota {
    /// Returns the quota with one limit only.
    #[must_use]
    pub fn only(dimension: usize, limit: u64, burst: Duration) -> Self {
        let mut limits = [None; 3];
        limits[dimension] = Some(limit.max(1));
        Self { limits, burst }
    }
}

/// The wait of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The wait in nanoseconds.
    pub nanos: u64,
    /// The index of the dimension that was short for the longest time when the request became the
    /// first of the queue. `None` if nothing was short.
    pub binding: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// The refill per nanosecond. Requests are counted in thousandths.
    rate: i128,
    capacity: i128,
    level: i128,
}

impl Level {
    fn full(dimension: usize, limit: u64, burst: Duration) -> Self {
        let rate = i128::from(limit.max(1)) * i128::from(scale(dimension));
        let capacity = (rate * burst.as_nanos() as i128).max(UNIT);
        Self {
            rate,
            capacity,
            level: capacity,
        }
    }

    /// Returns the charge of an amount. One over the limit is a guess for the limiter, so it takes
    /// the bucket no deeper than five minutes of refill below zero.
    fn charge(&self, amount: u64) -> i128 {
        let amount = i128::from(amount);
        // The rate in units for each nanosecond is the limit per minute.
        if amount <= self.rate {
            return amount;
        }
        amount.min((self.capacity + self.rate * MAX_DEBT) / UNIT)
    }
}

/// Returns the parts into which one unit of the dimension is divided.
pub(crate) const fn scale(dimension: usize) -> u64 {
    if dimension == 0 { 1_000 } else { 1 }
}

/// Replays demand through the buckets of a quota. With `paces`, a request that does not fit waits,
/// first in first out. Without, it is refused and takes nothing, and its wait is `None`.
///
/// `each` gets the index and the wait of every request, and returns false to stop.
pub fn replay(
    demand: &[Demand],
    quota: &Quota,
    paces: bool,
    mut each: impl FnMut(usize, Option<Wait>) -> bool,
) {
    let mut levels: Vec<(usize, Level)> = (0..3)
        .filter_map(|dimension| {
            let limit = quota.limits[dimension]?;
            Some((dimension, Level::full(dimension, limit, quota.burst)))
        })
        .collect();
    let Some(first) = demand.first() else { return };
    let nanos = |at: i64| (at - first.at).max(0) as u64 * 1_000;
    let mut now = 0;
    for (index, request) in demand.iter().enumerate() {
        let arrival = nanos(request.at);
        // The request is the first of the queue from here on.
        let first_since = arrival.max(now);
        let passed = i128::from(first_since - now);
        now = first_since;
        let amounts = request.limited();
        let (mut wait, mut binding) = (0_u64, None);
        for (dimension, level) in &mut levels {
            level.level = (level.level + level.rate * passed).min(level.capacity);
            let need = (i128::from(amounts[*dimension]) * UNIT).min(level.capacity);
            let missing = need - level.level;
            if missing > 0 {
                let time = missing / level.rate + i128::from(missing % level.rate != 0);
                let time = u64::try_from(time).unwrap_or(u64::MAX / 4);
                if binding.is_none() || time > wait {
                    (wait, binding) = (time, Some(*dimension));
                }
            }
        }
        if binding.is_some() && !paces {
            if !each(index, None) {
                return;
            }
            continue;
        }
        if binding.is_some() {
            wait = wait.max(TICK);
            now = now.saturating_add(wait);
        }
        for (dimension, level) in &mut levels {
            level.level = (level.level + level.rate * i128::from(wait)).min(level.capacity);
            level.level -= level.charge(amounts[*dimension]) * UNIT;
        }
        let nanos = now - arrival;
        if !each(index, Some(Wait { nanos, binding })) {
            return;
        }
    }
}
