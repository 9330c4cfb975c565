//! Learning by workload and size of `max_tokens`.

use std::num::NonZeroU64;

use tower_claude_core::{Cost, Dimension, Scope, Workload};
use tower_claude_limiter::{
    DimensionSnapshot, LimiterConfig, Limits, Pool, Settlement,
    pool::{Enqueued, PoolRequest, ReservationId},
};
use tower_claude_wire::Usage;

/// A limit far over all use in these tests.
const PLENTY: u64 = 1_000_000_000;

fn pool_with(config: LimiterConfig) -> Pool {
    let plenty = NonZeroU64::new(PLENTY).unwrap();
    let limits = Limits::new()
        .with_input_tokens_per_minute(plenty)
        .with_output_tokens_per_minute(plenty);
    let scope = Scope::named("test");
    Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0)
}

fn pool() -> Pool {
    pool_with(LimiterConfig::new())
}

fn send(pool: &mut Pool, cost: Cost) -> ReservationId {
    match pool.enqueue(0, PoolRequest::new(cost, 0)) {
        Ok(Enqueued::Granted(id)) => id,
        other => panic!("not granted: {other:?}"),
    }
}

fn answer(pool: &mut Pool, id: ReservationId, input: u64, output: u64) {
    let mut usage = Usage::default();
    usage.input_tokens = Some(input);
    usage.output_tokens = Some(output);
    pool.settle(0, id, &Settlement::Used { usage });
}

fn of(pool: &Pool, dimension: Dimension) -> DimensionSnapshot {
    pool.snapshot(0)
        .dimension(dimension)
        .expect("a limit")
        .clone()
}

/// Returns the input and output charge of the next request of this cost.
fn charge(pool: &mut Pool, cost: Cost) -> (u64, u64) {
    let level = |pool: &Pool, dimension| of(pool, dimension).available;
    let before = [Dimension::InputTokens, Dimension::OutputTokens].map(|d| level(pool, d));
    let id = send(pool, cost);
    let after = [Dimension::InputTokens, Dimension::OutputTokens].map(|d| level(pool, d));
    pool.settle(0, id, &Settlement::NotSent);
    ((before[0] - after[0]) as u64, (before[1] - after[1]) as u64)
}

fn chat() -> Cost {
    Cost::new(1_000, 512).with_workload(Workload::named("chat"))
}

fn report() -> Cost {
    Cost::new(1_000, 512).with_workload(Workload::named("report"))
}

/// Chats use half of their estimate and about 100 output tokens, reports twice and about 4,000.
fn teach(pool: &mut Pool, rounds: u64, chat: Cost, report: Cost) {
    for round in 0..rounds {
        let wobble = round % 3 * 10;
        let id = send(pool, chat);
        answer(pool, id, 500, 90 + wobble);
        let id = send(pool, report);
        answer(pool, id, 2_000, 3_990 + wobble);
    }
}

#[test]
fn workload_has_its_own_mean_and_ratio() {
    let mut pool = pool();
    teach(&mut pool, 60, chat(), report());
    let (input, output) = charge(&mut pool, chat());
    assert!((495..=505).contains(&input), "{input}");
    assert!((95..=105).contains(&output), "{output}");
    let (input, output) = charge(&mut pool, report());
    assert!((1_980..=2_020).contains(&input), "{input}");
    assert!((3_980..=4_020).contains(&output), "{output}");
    // A new workload uses the figures of the scope.
    let (input, output) = charge(&mut pool, chat().with_workload(Workload::named("new")));
    assert!((1_100..=1_400).contains(&input), "{input}");
    assert!((1_900..=2_200).contains(&output), "{output}");
}

#[test]
fn workload_with_few_samples_is_blended_with_the_scope() {
    let mut pool = pool();
    for _ in 0..60 {
        let id = send(&mut pool, report());
        answer(&mut pool, id, 2_000, 4_000);
    }
    let mut last = charge(&mut pool, chat()).1;
    assert!(last > 3_900, "{last}");
    for seen in 1..=16 {
        let id = send(&mut pool, chat());
        answer(&mut pool, id, 500, 100);
        let (_, output) = charge(&mut pool, chat());
        assert!(output < last, "{seen} seen: {output} after {last}");
        last = output;
    }
    assert_eq!(last, 100, "no longer blended");
}

#[test]
fn size_of_max_tokens_has_its_own_mean() {
    let mut pool = pool();
    let plain = Cost::new(1_000, 512);
    let short = plain.with_max_output_tokens(Some(300));
    let long = plain.with_max_output_tokens(Some(16_000));
    teach(&mut pool, 60, short, long);
    assert!(charge(&mut pool, short).1 <= 105);
    assert!(charge(&mut pool, long).1 >= 3_980);
    // Of one size, within a power of four.
    let near = plain.with_max_output_tokens(Some(10_000));
    assert!(charge(&mut pool, near).1 >= 3_980);
}

#[test]
fn distinguished_workloads_have_a_smaller_safety_margin() {
    let margin = |chat: Cost, report: Cost| {
        let mut pool = pool();
        teach(&mut pool, 60, chat, report);
        for _ in 0..50 {
            send(&mut pool, chat);
            send(&mut pool, report);
        }
        of(&pool, Dimension::OutputTokens).safety_margin
    };
    let mixed = margin(Cost::new(1_000, 512), Cost::new(1_000, 512));
    let apart = margin(chat(), report());
    // Three sigmas of a hundred: of some 1,950 tokens each, and of some 8.
    assert!((50_000..70_000).contains(&mixed), "{mixed}");
    assert!((200..300).contains(&apart), "{apart}");
}

/// The margin is the sum over the requests in flight, for any history and number of workloads.
#[test]
fn safety_margin_without_requests_in_flight_is_zero() {
    let mut pool = pool();
    let mut random = fastrand::Rng::with_seed(7);
    let mut flight = Vec::new();
    for _ in 0..20_000 {
        if flight.len() < 300 && random.bool() {
            let workload = Workload::named(&random.u32(0..500).to_string());
            let max = Some(random.u64(1..100_000));
            let cost = Cost::new(100, 100).with_workload(workload);
            flight.push(send(&mut pool, cost.with_max_output_tokens(max)));
        } else if !flight.is_empty() {
            let id = flight.swap_remove(random.usize(..flight.len()));
            if random.u8(..4) == 0 {
                pool.settle(0, id, &Settlement::dropped());
            } else {
                answer(&mut pool, id, random.u64(1..1_000), random.u64(1..5_000));
            }
        }
    }
    assert!(of(&pool, Dimension::OutputTokens).safety_margin > 0);
    for id in flight {
        pool.settle(0, id, &Settlement::dropped());
    }
    assert_eq!(of(&pool, Dimension::OutputTokens).safety_margin, 0);
}

#[test]
fn disabled_learning_learns_nothing() {
    let config = LimiterConfig::new()
        .with_learn_output(false)
        .with_calibrate_input(false);
    let mut pool = pool_with(config);
    teach(&mut pool, 60, chat(), report());
    assert_eq!(charge(&mut pool, chat()), (1_000, 512));
    send(&mut pool, report());
    assert_eq!(of(&pool, Dimension::OutputTokens).safety_margin, 0);
}

/// A count is charged as it is, and no ratio is learned from it.
#[test]
fn counted_input_is_not_corrected() {
    let mut pool = pool();
    teach(&mut pool, 60, chat(), chat());
    let mut counted = chat();
    counted.counted = true;
    assert_eq!(charge(&mut pool, counted).0, 1_000);
    let before = charge(&mut pool, chat());
    for _ in 0..60 {
        let id = send(&mut pool, counted);
        answer(&mut pool, id, 1_000, before.1);
    }
    assert_eq!(charge(&mut pool, chat()).0, before.0);
}
