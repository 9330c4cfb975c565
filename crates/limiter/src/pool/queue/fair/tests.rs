//! The memory of flows.

use std::sync::Arc;

use tower_claude_core::{Cost, Priority, Tenant};

use super::*;
use crate::pool::queue::Queue;

fn key(priority: Priority, name: usize) -> FlowKey {
    FlowKey::of(
        priority,
        TenantKey::of(&Tenant(Arc::from(name.to_string()))),
    )
}

fn waiter() -> Waiter {
    Waiter {
        cost: Cost::new(1, 0),
        charge: [1; 4],
        work: 1,
        bytes: 0,
        expiry: u64::MAX,
        has_deadline: false,
    }
}

#[test]
fn idle_flows_over_the_bound_are_forgotten() {
    let mut queue = Queue::new(FairShares::new());
    let mut rng = fastrand::Rng::with_seed(9);
    // Never empty: each round a new tenant arrives and a request is admitted.
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
        queue.dequeue(head, rng.u64(1..1_000_000_000));
        most = most.max(queue.fair().flows());
    }
    // A thousand idle flows in each class, and the busy ones.
    assert!(most <= 2 * 1_024 + 12, "{most}");
    while let Some((head, _)) = queue.head() {
        queue.dequeue(head, 1);
    }
    assert_eq!((queue.fair().flows(), queue.len()), (0, 0));
    assert_eq!(queue.total(), &[0; 4]);
}

#[test]
fn correction_from_an_earlier_epoch_is_ignored() {
    let mut queue = Queue::new(FairShares::new());
    let (a, b) = (key(Priority::Normal, 1), key(Priority::Normal, 2));
    let id = queue.push(a, 0, waiter());
    let tag = queue.dequeue(id, 5);
    queue.push(a, 1, waiter());
    queue.push(b, 2, waiter());
    queue.correct(tag, 5, 500_000);
    assert_eq!(queue.head().map(|(_, w)| w.charge), Some([1; 4]));
    assert_eq!(queue.fair().head().map(|(flow, _)| flow), Some(a));
}
