//! The size of the server's buckets, as far as the traffic shows it.
//!
//! A limit per minute may be enforced over a shorter time. The size of the bucket changes the limit
//! that is needed by several times, so it is found from what the server has admitted and refused,
//! or all sizes are reported.

use std::time::Duration;

use serde::Serialize;

use crate::{
    limits::{self, PoolLimits},
    time::{MINUTE, SECOND},
    traffic::{NameId, Outcome, Traffic},
};

/// The sizes that are considered, as the time in which a bucket fills.
pub const CAPACITIES: [Duration; 3] = [
    Duration::from_secs(60),
    Duration::from_secs(10),
    Duration::from_secs(1),
];

/// The difference between the time of sending and the server's time that is tolerated, in seconds
/// of refill.
const SLACK: f64 = 0.5;

/// The size of the buckets, as far as the traffic shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CapacityEvidence {
    /// The lower bound of the size of the bucket, in seconds of its limit: the server has admitted
    /// that much at once. `None` if the traffic shows none.
    pub at_least_seconds: Option<f64>,
    /// The upper bound of the size of the bucket, in seconds of its limit: the server has refused
    /// that much at once. `None` if no refusal shows it.
    pub below_seconds: Option<f64>,
    /// The sizes that fit, in seconds, the largest first.
    pub possible_seconds: Vec<u64>,
}

impl CapacityEvidence {
    /// Finds the evidence in the traffic of a pool under these limits.
    fn of(traffic: &Traffic, pool: NameId, limits: &PoolLimits) -> Self {
        let mut used = [0.0_f64; 3];
        let mut at = i64::MIN;
        let (mut least, mut below) = (None, None::<f64>);
        let mut rows: Vec<_> = traffic
            .rows
            .iter()
            .filter(|row| row.pool == pool && !row.is_local)
            .collect();
        rows.sort_by_key(|row| row.sent);
        for row in rows {
            if row.is_sum || row.is_unmeasured {
                continue;
            }
            let passed = if at == i64::MIN { 0 } else { row.sent - at };
            at = row.sent;
            let amounts = [1, row.limited_input(), row.output];
            let mut most = 0.0_f64;
            for ((used, limit), amount) in used.iter_mut().zip(limits).zip(amounts) {
                let Some(limit) = limit.filter(|limit| *limit > 0) else {
                    continue;
                };
                // In seconds of refill.
                *used = (*used - passed as f64 / SECOND as f64).max(0.0);
                let seconds = *used + amount as f64 / limit as f64 * (MINUTE / SECOND) as f64;
                most = most.max(seconds);
                if row.outcome == Outcome::Answered {
                    *used = seconds;
                }
            }
            match row.outcome {
                Outcome::Answered => least = Some(least.map_or(most, |least: f64| least.max(most))),
                Outcome::RateLimited if !row.is_concurrency && !row.is_estimated => {
                    below = Some(below.map_or(most, |below| below.min(most)));
                }
                _ => {}
            }
        }
        let fits = |seconds: u64| {
            let seconds = seconds as f64;
            least.is_none_or(|least| seconds >= least - SLACK)
                && below.is_none_or(|below| seconds <= below + SLACK)
        };
        let all = CAPACITIES.map(|capacity| capacity.as_secs());
        let possible: Vec<u64> = all.into_iter().filter(|seconds| fits(*seconds)).collect();
        Self {
            at_least_seconds: least,
            below_seconds: below,
            // Contradictions come from other users of the limit. They show nothing.
            possible_seconds: if possible.is_empty() {
                all.to_vec()
            } else {
                possible
            },
        }
    }

    /// Finds the evidence in the traffic of a pool whose limits the response headers show. Limits
    /// that are only supposed show nothing about the server.
    #[must_use]
    pub fn of_pool(traffic: &Traffic, pool: NameId) -> Self {
        limits::shown(traffic, pool)
            .map_or_else(Self::none, |known| Self::of(traffic, pool, &known.limits))
    }

    /// Returns all sizes, for traffic under unknown limits.
    fn none() -> Self {
        Self {
            at_least_seconds: None,
            below_seconds: None,
            possible_seconds: CAPACITIES.map(|capacity| capacity.as_secs()).to_vec(),
        }
    }
}
