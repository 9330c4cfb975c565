//! The replay through the limiter, the fast arithmetic, and an obvious model give the same waits.

use std::time::Duration;

use proptest::prelude::*;
use tower_claude_planner::{
    bucket::{self, Quota, Wait},
    demand::Demand,
    replay,
};

/// The resolution of the limiter's timers.
const TICK: u64 = 1_000_000;

/// A request that was admitted, in nanoseconds, with its amounts.
struct Admitted {
    at: u64,
    amounts: [u64; 3],
}

/// Returns the level of one bucket at a time, from the whole history, in tokens per `60e9`.
fn level(history: &[Admitted], dimension: usize, quota: &Quota, now: u64) -> i128 {
    let scale = if dimension == 0 { 1_000 } else { 1 };
    let rate = i128::from(quota.limits[dimension].unwrap() * scale);
    let capacity = capacity(dimension, quota);
    let (mut level, mut at) = (capacity, 0);
    for admitted in history {
        level = capacity.min(level + rate * i128::from(admitted.at - at));
        let amount = i128::from(admitted.amounts[dimension]);
        // A request over the limit takes at most five minutes of debt.
        let most = (capacity + rate * 300_000_000_000) / 60_000_000_000;
        level -= if amount > rate {
            amount.min(most)
        } else {
            amount
        } * 60_000_000_000;
        at = admitted.at;
    }
    capacity.min(level + rate * i128::from(now - at))
}

fn capacity(dimension: usize, quota: &Quota) -> i128 {
    let scale: u64 = if dimension == 0 { 1_000 } else { 1 };
    let rate = i128::from(quota.limits[dimension].unwrap() * scale);
    // A bucket holds at least one token.
    (rate * quota.burst.as_nanos() as i128).max(60_000_000_000)
}

fn fits(history: &[Admitted], amounts: [u64; 3], quota: &Quota, now: u64) -> bool {
    (0..3)
        .filter(|dimension| quota.limits[*dimension].is_some())
        .all(|dimension| {
            let need = i128::from(amounts[dimension]) * 60_000_000_000;
            level(history, dimension, quota, now) >= need.min(capacity(dimension, quota))
        })
}

/// Returns the waits of a queue whose first request is tried at every nanosecond.
fn brute_force(demand: &[Demand], quota: &Quota, paces: bool) -> Vec<Option<u64>> {
    let mut history: Vec<Admitted> = Vec::new();
    let mut waits = Vec::new();
    for request in demand {
        let arrival = (request.at - demand[0].at) as u64 * 1_000;
        let first_since = arrival.max(history.last().map_or(0, |last| last.at));
        let amounts = request.limited();
        let at = if fits(&history, amounts, quota, first_since) {
            first_since
        } else if !paces {
            waits.push(None);
            continue;
        } else {
            // Levels only rise while nothing is admitted, so bisection finds the first nanosecond.
            let (mut low, mut high) = (first_since, first_since + (1 << 50));
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                match fits(&history, amounts, quota, middle) {
                    true => high = middle,
                    false => low = middle,
                }
            }
            high.max(first_since + TICK)
        };
        history.push(Admitted { at, amounts });
        waits.push(Some(at - arrival));
    }
    waits
}

fn logs() -> impl Strategy<Value = Vec<Demand>> {
    let request = (0_i64..4_000_000, 1_u64..=1_000, 0_u64..4_000, 0_u64..600);
    prop::collection::vec(request, 1..60).prop_map(|requests| {
        let mut at = 1_700_000_000_000_000;
        let demand = requests
            .into_iter()
            .map(|(gap, millirequests, input, output)| {
                // Half of the requests come at the same time as the one before.
                at += if gap % 2 == 0 { gap } else { 0 };
                Demand {
                    at,
                    millirequests,
                    input,
                    cache_read: 10,
                    cache_write: 0,
                    output,
                    tag: 0,
                    model: 0,
                }
            });
        demand.collect()
    })
}

fn quotas() -> impl Strategy<Value = Quota> {
    let limit = |range| prop::option::of(range);
    let limits = (
        limit(1_u64..200),
        limit(1_u64..200_000),
        limit(1_u64..30_000),
    );
    let burst = prop::sample::select(vec![1_000_u64, 10_000, 60_000]);
    (limits, burst).prop_map(|((requests, input, output), burst)| Quota {
        limits: [requests, input, output],
        burst: Duration::from_millis(burst),
    })
}

fn nanos(waits: &[Option<Wait>]) -> Vec<Option<u64>> {
    waits
        .iter()
        .map(|wait| wait.map(|wait| wait.nanos))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn replay_through_the_limiter_equals_brute_force(
        demand in logs(),
        quota in quotas(),
        paces in any::<bool>(),
    ) {
        let expected = brute_force(&demand, &quota, paces);
        let replayed = replay::replay(&demand, &quota, paces, |_| {});
        prop_assert_eq!(nanos(&replayed), expected.clone());
        let mut fast = Vec::new();
        bucket::replay(&demand, &quota, paces, |_, wait| {
            fast.push(wait);
            true
        });
        prop_assert_eq!(nanos(&fast), expected);
    }

    #[test]
    fn binding_dimension_of_the_limiter_equals_the_arithmetic(demand in logs(), quota in quotas()) {
        let replayed = replay::replay(&demand, &quota, true, |_| {});
        let mut fast = Vec::new();
        bucket::replay(&demand, &quota, true, |_, wait| {
            fast.push(wait);
            true
        });
        let (replayed, fast) = (replay::Summary::of(&replayed), replay::Summary::of(&fast));
        // The snapshot of the limiter has whole tokens, so a tie may be decided otherwise.
        for dimension in 0..3 {
            let difference = replayed.binding[dimension].abs_diff(fast.binding[dimension]);
            prop_assert!(difference <= 2, "{:?} {:?}", replayed, fast);
        }
    }
}
