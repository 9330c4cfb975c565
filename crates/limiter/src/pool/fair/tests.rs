//! What is remembered of flows.

use std::sync::Arc;

use tower_claude_core::{Cost, Priority, Tenant};

use super::*;
use crate::pool::{
    TenantKey,
    queue::{Queue, Waiter},
};

fn key(priority: Priority, name: usize) -> FlowKey {
    FlowKey::of(
        priority,
        TenantKey::of(&Tenant(Arc::from(name.to_string()))),
    )
}

fn waiter() -> Waiter {
    Waiter {
        cost: Cost::new(1, 0),
        charge: [1; LANES],
    }
}

#[test]
fn idle_flows_are_forgotten() {
    let mut queue = Queue::new(FairShares::new());
    let mut rng = fastrand::Rng::with_seed(9);
    // Never empty: each round a new tenant comes and somebody is let out.
    for name in 0..10 {
        queue.push(key(Priority::Normal, name), 0, waiter());
    }
    let mut most = 0;
    for name in 10..30_000 {
        let priority = if rng.bool() {
            Priority::Batch
        } else {
            Priority::Normal
        };
        queue.push(key(priority, name), name as u64, waiter());
        let (head, _) = queue.head().unwrap();
        queue.let_out(head, rng.u64(1..1_000_000_000));
        most = most.max(queue.fair().flows());
    }
    // A thousand idle ones in each class, and those that wait.
    assert!(most <= 2 * 1_024 + 12, "{most}");
    while let Some((head, _)) = queue.head() {
        queue.let_out(head, 1);
    }
    assert_eq!((queue.fair().flows(), queue.len()), (0, 0));
    assert_eq!(queue.work(), &[0; LANES]);
}

#[test]
fn corrections_of_an_earlier_busy_time_mean_nothing() {
    let mut queue = Queue::new(FairShares::new());
    let (a, b) = (key(Priority::Normal, 1), key(Priority::Normal, 2));
    let ticket = queue.push(a, 0, waiter());
    let turn = queue.let_out(ticket, 5);
    queue.push(a, 1, waiter());
    queue.push(b, 2, waiter());
    queue.fair_mut().correct(turn.flow, turn.epoch, 5, 500_000);
    assert_eq!(queue.head().map(|(_, w)| w.charge), Some([1; LANES]));
    assert_eq!(queue.fair().head().map(|(flow, _)| flow), Some(a));
}
