//! The replay of demand through the limiter of the layers, in virtual time.

use std::{collections::VecDeque, num::NonZeroU64, time::Duration};

use serde::Serialize;
use tower_claude_core::{Cost, Scope};
use tower_claude_limiter::{
    Dimension, LimiterConfig, Limits, Pool, Settlement, Sharing,
    pool::{Enqueued, Next, PoolRequest, ReservationId, WaiterId},
};

use crate::{
    bucket::{self, Quota, Wait, scale},
    demand::Demand,
    rolling::percentile,
};

/// The dimensions in the order of [`Quota::limits`].
const DIMENSIONS: [Dimension; 3] = [
    Dimension::Requests,
    Dimension::InputTokens,
    Dimension::OutputTokens,
];

/// Replays demand through a [`Pool`] whose estimates are right, and returns the wait of each
/// request. `progress` gets the number of requests done, now and then.
///
/// With `paces`, a request that does not fit waits in the queue of the pool. Without, it is refused
/// like by the server, takes nothing, and has no wait. Output is charged at admission, before the
/// server counts it.
pub fn replay(
    demand: &[Demand],
    quota: &Quota,
    paces: bool,
    mut progress: impl FnMut(usize),
) -> Vec<Option<Wait>> {
    let mut replay = Replay {
        demand,
        quota,
        pool: pool(quota, paces),
        queue: VecDeque::new(),
        binding: None,
        timer: None,
        granted: Vec::new(),
        waits: vec![None; demand.len()],
    };
    for index in 0..demand.len() {
        replay.arrive(index);
        if index % 4_096 == 0 {
            progress(index);
        }
    }
    while let Some(at) = replay.timer {
        replay.poll(at);
    }
    progress(demand.len());
    replay.waits
}

struct Replay<'a> {
    demand: &'a [Demand],
    quota: &'a Quota,
    pool: Pool,
    /// The requests that wait, first in, first out like the pool's own queue.
    queue: VecDeque<usize>,
    /// The binding dimension of the first of them.
    binding: Option<usize>,
    /// The time of the next poll.
    timer: Option<u64>,
    granted: Vec<(WaiterId, ReservationId)>,
    waits: Vec<Option<Wait>>,
}

impl Replay<'_> {
    /// Returns the nanoseconds from the first arrival.
    fn nanos(&self, index: usize) -> u64 {
        let first = self.demand.first().map_or(0, |first| first.at);
        (self.demand[index].at - first).max(0) as u64 * 1_000
    }

    fn arrive(&mut self, index: usize) {
        let now = self.nanos(index);
        while let Some(at) = self.timer.filter(|at| *at <= now) {
            self.poll(at);
        }
        let asked = PoolRequest::new(cost(&self.demand[index]), now);
        match self.pool.enqueue(now, asked) {
            Ok(Enqueued::Granted(id)) => {
                self.pool.settle(now, id, &Settlement::dropped());
                self.waits[index] = Some(Wait {
                    nanos: 0,
                    binding: None,
                });
            }
            Ok(Enqueued::Waiting(_)) => {
                self.queue.push_back(index);
                if self.timer.is_none() {
                    self.poll(now);
                }
            }
            Err(_) => {}
        }
    }

    fn poll(&mut self, now: u64) {
        let next = self.pool.poll(now, &mut self.granted);
        for (_, id) in std::mem::take(&mut self.granted) {
            self.pool.settle(now, id, &Settlement::dropped());
            let Some(index) = self.queue.pop_front() else {
                continue;
            };
            self.waits[index] = Some(Wait {
                nanos: now - self.nanos(index),
                binding: self.binding.take(),
            });
        }
        self.timer = match next {
            Next::At(at) => Some(at),
            Next::OnChange | Next::Idle => None,
        };
        if let Some(first) = self.queue.front() {
            self.binding = binding(&self.pool, now, &self.demand[*first], self.quota);
        }
    }
}

fn pool(quota: &Quota, paces: bool) -> Pool {
    let [requests, input, output] = quota.limits;
    let limit = |limit: Option<u64>, dimension| {
        NonZeroU64::new(limit?.max(1).saturating_mul(scale(dimension)))
    };
    let mut limits = Limits::new().with_burst(quota.burst);
    if let Some(limit) = limit(requests, 0) {
        limits = limits.with_requests_per_minute(limit);
    }
    if let Some(limit) = limit(input, 1) {
        limits = limits.with_input_tokens_per_minute(limit);
    }
    if let Some(limit) = limit(output, 2) {
        limits = limits.with_output_tokens_per_minute(limit);
    }
    // The costs are known, so there is nothing to learn.
    let mut config = LimiterConfig::new()
        .with_sharing(Sharing::Exclusive)
        .with_calibrate_input(false)
        .with_learn_output(false)
        .with_learn_limits(false)
        .with_queue_limit(if paces { usize::MAX } else { 0 });
    config.queue_bytes = u64::MAX;
    let scope = Scope::named("replay");
    let limits = limits.for_scope(&scope);
    Pool::new(scope, &limits, config, 0)
}

fn cost(request: &Demand) -> Cost {
    let [requests, input, output] = request.limited();
    let mut cost = Cost::new(input, output).with_settle(tower_claude_core::Settle::AsCharged);
    cost.requests = requests;
    cost
}

/// Returns the dimension that delays a request for the longest time.
fn binding(pool: &Pool, now: u64, request: &Demand, quota: &Quota) -> Option<usize> {
    let snapshot = pool.snapshot(now);
    let amounts = request.limited();
    let wait = |index: usize| {
        let of = |dimension: &&tower_claude_limiter::DimensionSnapshot| {
            dimension.dimension == DIMENSIONS[index]
        };
        let state = snapshot.dimensions.iter().find(of)?;
        let need = amounts[index].min(state.capacity) as f64;
        let missing = need - state.available as f64;
        let rate = quota.limits[index]?.max(1) * scale(index);
        Some(missing / rate as f64)
    };
    let waits = (0..3).filter_map(|index| Some((index, wait(index)?)));
    let longest = waits.max_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(longest.0)
}

/// The result of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The number of requests.
    pub requests: u64,
    /// The share of delayed requests.
    pub delayed: f64,
    /// The share of refused requests. 0 with pacing.
    pub refused: f64,
    /// The median of the waits in seconds.
    pub wait_p50: f64,
    /// The 95th percentile of the waits in seconds.
    pub wait_p95: f64,
    /// The 99th percentile of the waits in seconds.
    pub wait_p99: f64,
    /// The longest wait in seconds.
    pub wait_max: f64,
    /// The number of delayed requests by their binding dimension.
    pub binding: [u64; 3],
}

impl Summary {
    /// Sums up waits.
    #[must_use]
    pub fn of(waits: &[Option<Wait>]) -> Self {
        let mut nanos: Vec<u64> = waits.iter().flatten().map(|wait| wait.nanos).collect();
        nanos.sort_unstable();
        let all = waits.len().max(1) as f64;
        let mut binding = [0; 3];
        let mut last = None;
        for wait in waits.iter().flatten() {
            // A request that is admitted together with the one before it has waited only for that
            // one, so it has the same cause.
            last = wait.binding.or(last);
            if let Some(dimension) = last.filter(|_| wait.nanos > 0) {
                binding[dimension] += 1;
            }
        }
        let seconds = |share| Duration::from_nanos(percentile(&nanos, share)).as_secs_f64();
        Self {
            requests: waits.len() as u64,
            delayed: nanos.iter().filter(|wait| **wait > 0).count() as f64 / all,
            refused: waits.iter().filter(|wait| wait.is_none()).count() as f64 / all,
            wait_p50: seconds(0.50),
            wait_p95: seconds(0.95),
            wait_p99: seconds(0.99),
            wait_max: seconds(1.0),
            binding,
        }
    }

    /// Returns the dimension that delays the most requests.
    #[must_use]
    pub fn binding_dimension(&self) -> Option<usize> {
        let most = (0..3).max_by_key(|index| (self.binding[*index], std::cmp::Reverse(*index)))?;
        (self.binding[most] > 0).then_some(most)
    }
}

/// Returns the waits with pacing, by the fast arithmetic.
pub(crate) fn paced(demand: &[Demand], quota: &Quota) -> Summary {
    let mut waits = Vec::with_capacity(demand.len());
    bucket::replay(demand, quota, true, |_, wait| {
        waits.push(wait);
        true
    });
    Summary::of(&waits)
}
