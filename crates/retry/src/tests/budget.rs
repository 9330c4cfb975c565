use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::RetryBudget;

/// Withdraws until the budget is empty, and returns the number of permits.
fn drain(budget: &RetryBudget, now: Instant) -> usize {
    let mut spent = 0;
    while let Some(mut permit) = budget.withdraw(now) {
        permit.mark_sent();
        spent += 1;
    }
    spent
}

#[test]
fn new_budget_allows_ten_retries() {
    let now = Instant::now();
    assert_eq!(drain(&RetryBudget::new(), now), 10);
}

#[test]
fn success_deposits_half_a_token_up_to_maximum() {
    let now = Instant::now();
    let budget = RetryBudget::new().with_initial(0);
    budget.deposit(0);
    assert_eq!(drain(&budget, now), 0);
    budget.deposit(0);
    assert_eq!(drain(&budget, now), 1);
    for _ in 0..1000 {
        budget.deposit(0);
    }
    assert_eq!(drain(&budget, now), 100);
    // Not full any more: deposits count again.
    budget.deposit(0);
    budget.deposit(0);
    assert_eq!(drain(&budget, now), 1);
}

#[test]
fn refill_in_small_steps_loses_nothing() {
    let start = Instant::now();
    let budget = RetryBudget::new().with_initial(0);
    assert_eq!(budget.thousandths(start), 0);
    // 3 ms bring 0.3 thousandths: nothing may be lost between the looks.
    for step in 1..=10_000 {
        budget.thousandths(start + step * Duration::from_millis(3));
    }
    assert_eq!(budget.thousandths(start + Duration::from_secs(30)), 3000);
}

#[test]
fn unsent_permit_is_refunded_once() {
    let now = Instant::now();
    let budget = RetryBudget::new().with_initial(2);
    drop(budget.withdraw(now));
    assert_eq!(budget.thousandths(now), 2000);
    let mut sent = budget.withdraw(now).expect("two tokens");
    sent.mark_sent();
    drop(sent);
    assert_eq!(budget.thousandths(now), 1000);
    let mut refused = budget.withdraw(now).expect("one token");
    refused.mark_sent();
    refused.refund();
    drop(refused);
    assert_eq!(budget.thousandths(now), 1000);
}

#[test]
fn invalid_rates_count_as_zero() {
    let now = Instant::now();
    let budget = RetryBudget::new()
        .with_initial(0)
        .with_deposit(f64::NAN)
        .with_refill_per_second(-1.0);
    budget.deposit(0);
    assert_eq!(budget.thousandths(now), 0);
    assert_eq!(budget.thousandths(now + Duration::from_secs(3600)), 0);
    let budget = RetryBudget::new().with_deposit(f64::INFINITY).with_max(7);
    budget.deposit(0);
    assert_eq!(drain(&budget, now), 7);
    assert_eq!(drain(&RetryBudget::new().with_max(0), now), 0);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Success,
    Retry,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Success),
        Just(Step::Retry),
        (0..5000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    /// The bound of every window: retries ≤ 100 + 0.5 × successes + 0.1 × seconds.
    #[test]
    fn retries_in_any_window_are_bounded(steps in steps(), initial in 0..120_u32) {
        let start = Instant::now();
        let budget = RetryBudget::new().with_initial(initial);
        let mut now = start;
        // Retries, successes and milliseconds up to each step.
        let mut sums = vec![(0_u64, 0_u64, 0_u64)];
        for step in steps {
            let (mut retries, mut successes, mut millis) = sums[sums.len() - 1];
            match step {
                Step::Success => {
                    budget.deposit(0);
                    successes += 1;
                }
                Step::Retry => retries += drain(&budget, now) as u64,
                Step::Wait(wait) => {
                    now += Duration::from_millis(wait);
                    millis += wait;
                }
            }
            sums.push((retries, successes, millis));
        }
        for (begin, from) in sums.iter().enumerate() {
            // The very first window holds what was there at the start instead.
            let stored = if begin == 0 { u64::from(initial.min(100)) } else { 100 };
            for to in &sums[begin..] {
                let bound = stored * 10_000 + (to.1 - from.1) * 5000 + (to.2 - from.2);
                prop_assert!((to.0 - from.0) * 10_000 <= bound, "{from:?} {to:?}");
            }
        }
    }
}
