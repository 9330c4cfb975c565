//! The cool-down table.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;
use tower_claude_core::{Class, Kind};

use crate::cooldown::{
    CoolDown, CoolDownChange, CoolDownTable, MAX_KEYS, PROBE_TIMEOUT, Permit, Signal,
};

const SECOND: Duration = Duration::from_secs(1);
const FAILURE: Signal = Signal::Failure { retry_after: None };
const WHY: Class = Class::new(Kind::Overloaded);

struct Bench {
    table: Arc<CoolDownTable<u32>>,
    config: CoolDown,
    now: Instant,
}

impl Bench {
    /// Two failures within 60 s start a cool-down of 30 s to 300 s.
    fn new() -> Self {
        let failures = NonZeroU32::new(2).unwrap();
        Self {
            table: Arc::default(),
            config: CoolDown::default().with_failures(failures, 60 * SECOND),
            now: Instant::now(),
        }
    }

    fn admit(&self, key: u32) -> Option<Permit<u32>> {
        self.table.admit(&key, self.now).ok()
    }

    fn settle(&self, permit: Permit<u32>, signal: Signal) -> Option<CoolDownChange> {
        permit.settle(signal, WHY, &self.config, self.now, 0.5)
    }

    fn call(&self, key: u32, signal: Signal) -> Option<CoolDownChange> {
        let permit = self.admit(key).expect("available");
        self.settle(permit, signal)
    }

    /// Starts a cool-down, and lets it pass.
    fn cooled_down() -> Self {
        let mut bench = Self::new();
        bench.call(1, FAILURE);
        bench.call(1, FAILURE);
        bench.now += 31 * SECOND;
        bench
    }
}

fn started(seconds: u64, count: u32) -> Option<CoolDownChange> {
    Some(CoolDownChange::Started {
        cool_down: Duration::from_secs(seconds),
        count,
    })
}

#[test]
fn key_with_enough_failures_cools_down_and_probe_success_clears_it() {
    let mut bench = Bench::new();
    assert!(bench.table.is_empty());
    assert_eq!(bench.call(1, FAILURE), None);
    assert!(!bench.table.is_empty());
    assert_eq!(bench.call(1, FAILURE), started(30, 1));
    assert!(bench.admit(1).is_none());
    assert!(bench.admit(2).is_some_and(|permit| !permit.is_probe()));
    bench.now += 30 * SECOND;
    let probe = bench.admit(1).unwrap();
    assert!(probe.is_probe());
    assert!(bench.admit(1).is_none(), "one probe at a time");
    assert_eq!(
        bench.settle(probe, Signal::Success),
        Some(CoolDownChange::Cleared)
    );
    assert!(bench.table.is_empty());
}

#[test]
fn failed_probe_doubles_the_cool_down_up_to_the_longest() {
    let mut bench = Bench::cooled_down();
    for (count, seconds) in (2..).zip([60, 120, 240, 300, 300]) {
        assert_eq!(bench.call(1, FAILURE), started(seconds, count));
        bench.now += Duration::from_secs(seconds - 1);
        assert!(bench.admit(1).is_none());
        bench.now += SECOND;
    }
    // A success forgets the cool-downs before it.
    bench.call(1, Signal::Success);
    bench.call(1, FAILURE);
    assert_eq!(bench.call(1, FAILURE), started(30, 1));
}

#[test]
fn dropped_probe_is_given_back() {
    let bench = Bench::cooled_down();
    for _ in 0..3 {
        drop(bench.admit(1).unwrap());
        assert_eq!(bench.call(1, Signal::None), None);
    }
    assert!(bench.admit(1).unwrap().is_probe());
}

#[test]
fn probe_that_times_out_is_replaced_and_has_no_effect_any_more() {
    let mut bench = Bench::cooled_down();
    let lost = bench.admit(1).unwrap();
    bench.now += PROBE_TIMEOUT;
    assert!(bench.admit(1).is_none());
    bench.now += SECOND;
    let probe = bench.admit(1).unwrap();
    assert_eq!(bench.settle(lost, Signal::Success), None);
    assert!(bench.admit(1).is_none(), "the second probe is in flight");
    assert_eq!(bench.settle(probe, FAILURE), started(60, 2));
}

#[test]
fn probe_of_a_busy_key_fails_and_of_a_reachable_key_succeeds() {
    let retry_after = Some(90 * SECOND);
    let busy = Signal::Busy { retry_after };
    assert_eq!(Bench::cooled_down().call(1, busy), started(90, 2));
    let reachable = Bench::cooled_down().call(1, Signal::Reachable);
    assert_eq!(reachable, Some(CoolDownChange::Cleared));
    // Neither counts while calls pass.
    let bench = Bench::new();
    bench.call(1, FAILURE);
    for signal in [busy, Signal::Reachable, Signal::None] {
        assert_eq!(bench.call(1, signal), None);
    }
    assert_eq!(bench.call(1, FAILURE), started(30, 1));
}

#[test]
fn success_or_time_between_failures_prevents_a_cool_down() {
    let mut bench = Bench::new();
    bench.call(1, FAILURE);
    bench.call(1, Signal::Success);
    assert!(bench.table.is_empty());
    assert_eq!(bench.call(1, FAILURE), None);
    bench.now += 61 * SECOND;
    assert_eq!(bench.call(1, FAILURE), None);
    bench.now += 60 * SECOND;
    assert_eq!(bench.call(1, FAILURE), started(30, 1));
}

#[test]
fn call_from_before_the_cool_down_does_not_end_it() {
    let mut bench = Bench::new();
    let early = bench.admit(1).unwrap();
    bench.call(1, FAILURE);
    let late = bench.admit(1).unwrap();
    bench.call(1, FAILURE);
    bench.now += 40 * SECOND;
    assert_eq!(bench.settle(early, FAILURE), None);
    assert_eq!(bench.settle(late, Signal::Success), None);
    assert!(bench.admit(1).unwrap().is_probe(), "no probe was used up");
}

#[test]
fn call_from_before_a_success_has_no_effect() {
    let mut bench = Bench::new();
    bench.call(1, FAILURE);
    let late = bench.admit(1).unwrap();
    bench.now += 200 * SECOND;
    bench.call(1, Signal::Success);
    assert!(bench.table.is_empty());
    bench.call(1, FAILURE);
    assert_eq!(bench.settle(late, FAILURE), None, "one failure so far");
}

#[test]
fn success_and_unsent_calls_of_a_healthy_key_leave_the_table_empty() {
    let bench = Bench::new();
    for signal in [Signal::Success, Signal::Reachable, Signal::None] {
        bench.call(1, signal);
    }
    drop(bench.admit(1));
    assert!(bench.table.is_empty());
}

#[test]
fn full_table_evicts_idle_keys_only() {
    let mut bench = Bench::new();
    bench.call(0, FAILURE);
    bench.call(0, FAILURE);
    for key in 1..3000 {
        bench.call(key, FAILURE);
    }
    assert_eq!(bench.table.snapshot(bench.now).len(), MAX_KEYS);
    assert!(bench.admit(0).is_none(), "a cool-down stays");
    assert!(bench.admit(2999).is_some());
    bench.now += 61 * SECOND;
    bench.call(5000, FAILURE);
    let keys = bench.table.snapshot(bench.now);
    assert_eq!(keys.len(), 2, "the failures of the others are too old");
    // A probe in flight stays as well, however long ago the cool-down was.
    let probe = bench.admit(0).unwrap();
    bench.now += 400 * SECOND;
    for key in 1..3000 {
        bench.call(key, FAILURE);
    }
    assert_eq!(
        bench.settle(probe, Signal::Success),
        Some(CoolDownChange::Cleared)
    );
}

#[test]
fn extreme_settings_neither_panic_nor_block_for_ever() {
    let mut bench = Bench::cooled_down();
    bench.config = bench.config.with_cool_down(Duration::MAX, Duration::MAX);
    let retry_after = Some(Duration::MAX);
    bench.call(1, Signal::Failure { retry_after });
    assert!(bench.admit(1).is_none());
    bench.now += 2 * 86_400 * SECOND;
    bench.config = bench.config.with_cool_down(Duration::ZERO, Duration::ZERO);
    for _ in 0..100 {
        assert!(matches!(
            bench.call(1, FAILURE),
            Some(CoolDownChange::Started { .. })
        ));
    }
}

#[test]
fn few_failures_among_slow_successes_start_no_cool_down() {
    let mut bench = Bench::new();
    let early: Vec<_> = (0..100).map(|_| bench.admit(1).unwrap()).collect();
    let mut pending = Vec::new();
    for (index, permit) in early.into_iter().enumerate() {
        if index % 10 == 0 {
            assert_eq!(bench.settle(permit, FAILURE), None, "counted once");
        } else {
            pending.push(permit);
        }
    }
    for _ in 0..30 {
        bench.now += SECOND;
        pending.extend((0..9).map(|_| bench.admit(1).unwrap()));
        assert_eq!(bench.call(1, FAILURE), None, "one in ten");
    }
    for permit in pending {
        assert_eq!(bench.settle(permit, Signal::Success), None);
    }
    assert!(bench.table.is_empty());
    // Given up calls are not pending.
    bench.call(1, FAILURE);
    drop(
        (0..100)
            .map(|_| bench.admit(1).unwrap())
            .collect::<Vec<_>>(),
    );
    assert_eq!(bench.call(1, FAILURE), started(30, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Admit(u32),
    Settle(usize, Signal),
    Drop(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let retry_after = proptest::option::of((0_u64..10_000).prop_map(Duration::from_secs));
    let signal = prop_oneof![
        Just(Signal::Success),
        retry_after
            .clone()
            .prop_map(|retry_after| Signal::Failure { retry_after }),
        Just(FAILURE),
        retry_after.prop_map(|retry_after| Signal::Busy { retry_after }),
        Just(Signal::Reachable),
        Just(Signal::None),
    ];
    prop_oneof![
        4 => (0_u32..3).prop_map(Step::Admit),
        4 => (0_usize..8, signal).prop_map(|(at, signal)| Step::Settle(at, signal)),
        1 => (0_usize..8).prop_map(Step::Drop),
        2 => (0_u64..400).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens: at most one probe that is younger than the timeout, no call during a
    /// cool-down, and every key can be called again in the end.
    #[test]
    fn any_sequence_has_one_probe_at_a_time_and_never_gets_stuck(
        steps in prop::collection::vec(step(), 1..120),
        chance in 0.0_f64..1.0,
    ) {
        let mut bench = Bench::new();
        let mut permits: Vec<(Permit<u32>, Instant)> = Vec::new();
        let mut until = [bench.now; 3];
        for step in steps {
            match step {
                Step::Admit(key) => {
                    let Some(permit) = bench.admit(key) else { continue };
                    prop_assert!(until[key as usize] <= bench.now, "a call during a cool-down");
                    if permit.is_probe() {
                        let others = permits.iter().filter(|(other, since)| {
                            other.is_probe()
                                && other.key() == &key
                                && bench.now - *since <= PROBE_TIMEOUT
                        });
                        prop_assert_eq!(others.count(), 0);
                    }
                    permits.push((permit, bench.now));
                }
                Step::Settle(at, signal) if at < permits.len() => {
                    let (permit, _) = permits.swap_remove(at);
                    let key = *permit.key() as usize;
                    let change = permit.settle(signal, WHY, &bench.config, bench.now, chance);
                    match change {
                        Some(CoolDownChange::Started { cool_down, count }) => {
                            let base = 30 * SECOND * (1 << (count - 1).min(10));
                            let least = base.min(300 * SECOND).mul_f64(0.799);
                            prop_assert!(cool_down >= least && cool_down <= 3600 * SECOND);
                            until[key] = bench.now + cool_down;
                        }
                        Some(CoolDownChange::Cleared) => until[key] = bench.now,
                        None => {}
                    }
                }
                Step::Drop(at) if at < permits.len() => drop(permits.swap_remove(at)),
                Step::Wait(seconds) => bench.now += Duration::from_secs(seconds),
                _ => {}
            }
        }
        // Probes that are still held have timed out by then.
        bench.now += 3601 * SECOND;
        for key in 0..3 {
            let permit = bench.admit(key);
            prop_assert!(permit.is_some(), "stuck");
            bench.settle(permit.unwrap(), Signal::Success);
        }
        drop(permits);
        prop_assert!((0..3).all(|key| bench.admit(key).is_some_and(|permit| !permit.is_probe())));
    }
}
