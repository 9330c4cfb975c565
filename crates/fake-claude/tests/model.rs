//! The accounting, in virtual time.

use std::time::Duration;

use proptest::prelude::*;
use tower_claude_fake_claude::model::{
    Accounting, AdmissionId, Charge, Dimension, GroupLimits, Ramp,
};

const SECOND: u64 = 1_000_000_000;

fn charge(input_estimate: u64) -> Charge {
    Charge {
        input_estimate,
        max_output: 0,
    }
}

fn limits(requests: u64, input: u64, output: u64, burst: u64) -> GroupLimits {
    GroupLimits::new()
        .with_requests_per_minute(requests)
        .with_input_tokens_per_minute(input)
        .with_output_tokens_per_minute(output)
        .with_burst(Duration::from_nanos(burst))
}

#[derive(Clone, Debug)]
enum Op {
    Wait(u64),
    Admit(u64),
    Correct(usize, u64),
    Produce(usize, u64),
    Finish(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..20 * SECOND).prop_map(Op::Wait),
        (0..3_000_u64).prop_map(Op::Admit),
        (any::<usize>(), 0..3_000_u64).prop_map(|(which, tokens)| Op::Correct(which, tokens)),
        (any::<usize>(), 0..3_000_u64).prop_map(|(which, tokens)| Op::Produce(which, tokens)),
        any::<usize>().prop_map(Op::Finish),
    ]
}

proptest! {
    /// Without corrections, what is granted in any time T from a full bucket is at most capacity +
    /// rate * T.
    #[test]
    fn admissions_are_at_most_capacity_and_refill(
        requests in 1..500_u64, input in 1..100_000_u64, burst in 1..90 * SECOND,
        steps in prop::collection::vec((0..5 * SECOND, 0..2_000_u64), 1..200),
    ) {
        let mut accounting = Accounting::new(limits(requests, input, 1_000, burst));
        let capacity = accounting.gauges(0, "g");
        let (mut now, mut granted, mut count) = (0_u64, 0_u128, 0_u128);
        for (wait, tokens) in steps {
            now += wait;
            // What fits the burst never overdraws it.
            if tokens > capacity.input_tokens.capacity {
                continue;
            }
            if accounting.admit(now, "g", charge(tokens)).is_ok() {
                granted += u128::from(tokens);
                count += 1;
            }
            let minute = u128::from(60 * SECOND);
            let room = |rate: u64| {
                let capacity = (u128::from(rate) * u128::from(burst)).max(minute);
                capacity + u128::from(rate) * u128::from(now)
            };
            prop_assert!(granted * minute <= room(input), "{granted} input tokens");
            prop_assert!(count * minute <= room(requests), "{count} requests");
        }
    }

    /// No level is ever above its capacity, and at the end no request is in flight.
    #[test]
    fn levels_are_at_most_the_capacity_and_all_requests_finish(
        burst in 1..90 * SECOND, ops in prop::collection::vec(op(), 1..300),
    ) {
        let mut accounting = Accounting::new(limits(600, 60_000, 6_000, burst).with_concurrency(5));
        let mut now = 0;
        let mut open: Vec<AdmissionId> = Vec::new();
        for op in ops {
            let pick = |which: usize| open.get(which % open.len().max(1)).copied();
            match op {
                Op::Wait(nanos) => now += nanos,
                Op::Admit(tokens) => open.extend(accounting.admit(now, "g", charge(tokens))),
                Op::Correct(which, tokens) => {
                    pick(which).into_iter().for_each(|id| accounting.correct_input(now, id, tokens));
                }
                Op::Produce(which, tokens) => {
                    pick(which).into_iter().for_each(|id| accounting.produce(now, id, tokens));
                }
                Op::Finish(which) => {
                    if let Some(id) = pick(which) {
                        accounting.finish(now, id);
                        accounting.finish(now, id);
                        open.retain(|other| *other != id);
                    }
                }
            }
            let gauges = accounting.gauges(now, "g");
            for reading in [gauges.requests, gauges.input_tokens, gauges.output_tokens] {
                prop_assert!(i128::from(reading.level) <= i128::from(reading.capacity));
                if reading.full_in.is_zero() {
                    prop_assert_eq!(reading.level, reading.capacity as i64);
                }
            }
            prop_assert!(open.len() <= 5);
            prop_assert_eq!(accounting.in_flight(), open.len());
        }
        for id in open {
            accounting.finish(now, id);
        }
        prop_assert_eq!(accounting.in_flight(), 0);
        prop_assert_eq!(accounting.gauges(now, "g").in_flight, 0);
    }

    /// Refill in any slices is exactly refill at once: nothing is lost to rounding.
    #[test]
    fn refill_of_any_steps_is_exact(
        rate in 1..10_000_000_u64, slices in prop::collection::vec(0..7 * SECOND, 1..60),
    ) {
        let total: u64 = slices.iter().sum();
        let drained = |accounting: &mut Accounting| {
            let id = accounting.admit(0, "g", charge(0)).unwrap();
            accounting.correct_input(0, id, 10 * rate);
        };
        let mut sliced = Accounting::new(limits(1_000, rate, 1_000, 60 * SECOND));
        let mut whole = sliced.clone();
        drained(&mut sliced);
        drained(&mut whole);
        let mut now = 0;
        for slice in slices {
            now += slice;
            sliced.gauges(now, "g");
        }
        prop_assert_eq!(sliced.gauges(total, "g"), whole.gauges(total, "g"));
        let expected = i128::from(rate) - i128::from(10 * rate)
            + (i128::from(rate) * i128::from(total)).div_euclid(i128::from(60 * SECOND));
        prop_assert_eq!(i128::from(whole.gauges(total, "g").input_tokens.level), expected.min(i128::from(rate)));
    }

    /// In which order requests are corrected does not matter.
    #[test]
    fn corrections_in_any_order_give_the_same_level(
        pairs in prop::collection::vec((0..1_000_u64, 0..3_000_u64), 1..40), seed in any::<u64>(),
    ) {
        let mut straight = Accounting::new(limits(1_000, 60_000, 1_000, 60 * SECOND));
        let admitted: Vec<_> = pairs
            .iter()
            .map(|(estimate, actual)| (straight.admit(0, "g", charge(*estimate)).unwrap(), *actual))
            .collect();
        let mut mixed = straight.clone();
        let mut order = admitted.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        for (id, actual) in admitted {
            straight.correct_input(0, id, actual);
        }
        for (id, actual) in order {
            mixed.correct_input(0, id, actual);
        }
        prop_assert_eq!(straight.gauges(0, "g"), mixed.gauges(0, "g"));
        let used: u64 = pairs.iter().map(|(_, actual)| actual).sum();
        prop_assert_eq!(straight.gauges(0, "g").input_tokens.level, 60_000 - used as i64);
    }

    /// A refusal's wait is enough, and a nanosecond less is not.
    #[test]
    fn retry_after_is_the_earliest_admission(
        rate in 1_000..1_000_000_u64, first in 1..1_000_u64, more in 1..1_000_u64,
    ) {
        let mut accounting = Accounting::new(limits(1_000_000, rate, 1_000_000, 60 * SECOND));
        accounting.admit(0, "g", charge(rate - first)).unwrap();
        prop_assume!(first < more);
        let refused = accounting.admit(0, "g", charge(more)).unwrap_err();
        prop_assert_eq!(refused.dimension, Dimension::InputTokens);
        let wait = refused.retry_after.as_nanos() as u64;
        prop_assert!(accounting.clone().admit(wait - 1, "g", charge(more)).is_err());
        prop_assert!(accounting.admit(wait, "g", charge(more)).is_ok());
    }

    /// Nothing panics at the far ends of the integers.
    #[test]
    fn extreme_values_do_not_panic(
        numbers in prop::array::uniform6(prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()]),
    ) {
        let [requests, input, output, burst, now, tokens] = numbers;
        let ramp = Ramp { window: Duration::from_nanos(burst), growth_percent: u32::MAX, floor: 1 };
        let limits = limits(requests, input, output, burst).with_burst(Duration::MAX).with_ramp(ramp);
        let mut accounting = Accounting::new(limits);
        for now in [now, 0, u64::MAX] {
            if let Ok(id) = accounting.admit(now, "g", charge(tokens)) {
                accounting.correct_input(now, id, u64::MAX);
                accounting.produce(now, id, u64::MAX);
                accounting.correct_input(now, id, 0);
                accounting.finish(now, id);
            }
            let gauges = accounting.gauges(now, "g");
            let _ = (gauges.input_tokens.remaining_rounded(), gauges.output_tokens.remaining());
        }
    }
}

#[test]
fn rejection_costs_a_request_only_if_configured() {
    let costs = [(false, 59), (true, 58)];
    for (switch, left) in costs {
        let mut accounting =
            Accounting::new(limits(60, 100, 100, 60 * SECOND)).with_rejected_costs_request(switch);
        accounting.admit(0, "g", charge(100)).unwrap();
        assert_eq!(
            accounting.admit(0, "g", charge(1)).unwrap_err().dimension,
            Dimension::InputTokens
        );
        let gauges = accounting.gauges(0, "g");
        assert_eq!(
            (gauges.requests.level, gauges.input_tokens.level),
            (left, 0)
        );
        assert_eq!(gauges.in_flight, 1);
    }
}

#[test]
fn output_debt_rejects_requests_until_it_is_refilled() {
    let mut accounting = Accounting::new(limits(60, 1_000, 600, 60 * SECOND));
    let id = accounting.admit(0, "g", charge(0)).unwrap();
    accounting.produce(0, id, 700);
    let refused = accounting.admit(0, "g", charge(0)).unwrap_err();
    // 100 in debt and one more to have: 101 tokens at 10 a second.
    assert_eq!(refused.dimension, Dimension::OutputTokens);
    assert_eq!(refused.retry_after, Duration::from_millis(10_100));
}

#[test]
fn request_above_the_burst_waits_for_a_full_bucket_and_above_the_limit_forever() {
    let mut accounting = Accounting::new(limits(60, 6_000, 600, SECOND));
    assert_eq!(accounting.gauges(0, "g").input_tokens.capacity, 100);
    accounting.admit(0, "g", charge(50)).unwrap();
    assert!(accounting.admit(SECOND / 4, "g", charge(250)).is_err());
    // The one request that fits one second's burst is refilled after a second.
    accounting.admit(SECOND, "g", charge(250)).unwrap();
    assert_eq!(accounting.gauges(SECOND, "g").input_tokens.level, -150);
    for at in [2, 1_000] {
        let never = accounting
            .admit(at * SECOND, "g", charge(6_001))
            .unwrap_err();
        assert_eq!(never.dimension, Dimension::InputTokens);
        assert_eq!(never.retry_after, Duration::from_secs(60));
    }
}

#[test]
fn groups_have_separate_buckets() {
    let mut accounting = Accounting::new(limits(1, 100, 100, 60 * SECOND))
        .with_group("b", limits(2, 100, 100, 60 * SECOND));
    assert!(accounting.admit(0, "a", charge(1)).is_ok());
    assert!(accounting.admit(0, "a", charge(1)).is_err());
    assert!(accounting.admit(0, "b", charge(1)).is_ok());
    assert!(accounting.admit(0, "b", charge(1)).is_ok());
    assert!(accounting.admit(0, "b", charge(1)).is_err());
}

#[test]
fn concurrency_is_counted_until_finish() {
    let mut accounting = Accounting::new(GroupLimits::unlimited().with_concurrency(1));
    let id = accounting.admit(0, "g", charge(1)).unwrap();
    assert_eq!(
        accounting.admit(0, "g", charge(1)).unwrap_err().dimension,
        Dimension::Concurrency
    );
    accounting.finish(0, id);
    assert!(accounting.admit(0, "g", charge(1)).is_ok());
}

#[test]
fn ramp_allows_double_traffic_and_restarts_after_a_pause() {
    let ramp = Ramp {
        window: Duration::from_secs(1),
        growth_percent: 200,
        floor: 2,
    };
    let mut accounting = Accounting::new(GroupLimits::unlimited().with_ramp(ramp));
    let mut burst = |second: u64| {
        let at = second * SECOND;
        (0..100)
            .take_while(|_| accounting.admit(at, "g", charge(1)).is_ok())
            .count()
    };
    assert_eq!((burst(0), burst(1), burst(2), burst(3)), (2, 4, 8, 16));
    assert_eq!(burst(5), 2);
    let refused = accounting
        .admit(5 * SECOND + SECOND / 4, "g", charge(1))
        .unwrap_err();
    assert_eq!(refused.dimension, Dimension::Ramp);
    assert_eq!(refused.retry_after, Duration::from_millis(750));
}

#[test]
fn combined_limit_charges_input_and_weighted_output() {
    let limits = GroupLimits::unlimited()
        .with_combined_tokens_per_minute(1_000)
        .with_output_weight(5);
    let level = |accounting: &mut Accounting| {
        let gauges = accounting.gauges(0, "m");
        gauges.combined_tokens.expect("it is set").level
    };
    for holds in [false, true] {
        let mut accounting = Accounting::new(limits.clone().with_held_max_tokens(holds));
        let charge = Charge {
            input_estimate: 300,
            max_output: 200,
        };
        let id = accounting.admit(0, "m", charge).expect("it fits");
        assert_eq!(level(&mut accounting), if holds { 500 } else { 700 });
        accounting.correct_input(0, id, 100);
        accounting.produce(0, id, 10);
        accounting.produce(0, id, 10);
        assert_eq!(level(&mut accounting), if holds { 700 } else { 800 });
        accounting.finish(0, id);
        assert_eq!(level(&mut accounting), 800);
        accounting.finish(0, id);
        assert_eq!(level(&mut accounting), 800);
    }
    let mut accounting = Accounting::new(limits.with_held_max_tokens(true));
    let charge = Charge {
        input_estimate: 1,
        max_output: 1_000,
    };
    let rejected = accounting
        .admit(0, "m", charge)
        .expect_err("it does not fit");
    assert_eq!(rejected.dimension, Dimension::Tokens);
}
