//! Requests that a full queue gives up: the last ones of the tenant that waits for the most.

use std::{
    collections::HashMap,
    num::{NonZeroU32, NonZeroU64},
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use proptest::prelude::*;
use tokio::task::yield_now;
use tower_claude_core::{Cost, Priority, RejectReason, Rejection, Scope, Tenant};
use tower_claude_limiter::{
    AcquireRequest, FairShares, Limiter, LimiterConfig, Limits, LocalAcquire, LocalLimiter, Pool,
    Settlement,
    pool::{Enqueued, Next, PoolRequest, WaiterId},
};

const S: u64 = 1_000_000_000;

/// 60 requests a minute: a request takes a second.
fn pool_of(config: LimiterConfig) -> Pool {
    let limits = Limits::new()
        .with_requests_per_minute(NonZeroU64::new(60).unwrap())
        .with_burst(Duration::from_secs(1));
    let scope = Scope::named("full");
    Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0)
}

fn tenant(name: u64) -> Tenant {
    Tenant(Arc::from(name.to_string()))
}

fn ask(name: u64, arrival: u64) -> PoolRequest {
    PoolRequest::new(Cost::new(0, 0), arrival).with_tenant(Some(&tenant(name)))
}

fn wait(pool: &mut Pool, now: u64, ask: PoolRequest) -> WaiterId {
    match pool.enqueue(now, ask) {
        Ok(Enqueued::Waiting(id)) => id,
        other => panic!("does not wait: {other:?}"),
    }
}

/// Returns a pool whose queue holds 10 requests of tenant 1 and no more.
fn filled(config: LimiterConfig) -> (Pool, Vec<WaiterId>) {
    let mut pool = pool_of(config.with_queue_limit(10));
    assert!(matches!(
        pool.enqueue(0, ask(1, 0)),
        Ok(Enqueued::Granted(_))
    ));
    let ids = (0..10).map(|at| wait(&mut pool, 0, ask(1, at))).collect();
    (pool, ids)
}

fn shed(pool: &mut Pool) -> Vec<WaiterId> {
    let shed = pool.take_shed();
    for (_, rejection) in &shed {
        let full = matches!(
            rejection.reason,
            RejectReason::QueueFull { .. } | RejectReason::QueueBytesFull { .. }
        );
        assert!(full && rejection.retry_after > Some(Duration::ZERO));
    }
    shed.into_iter().map(|(id, _)| id).collect()
}

#[test]
fn newcomer_takes_the_last_place_of_the_tenant_that_fills_the_queue() {
    let (mut pool, ids) = filled(LimiterConfig::new());
    for round in 0..5 {
        wait(&mut pool, 0, ask(2, 100 + round));
        assert_eq!(shed(&mut pool), [ids[9 - round as usize]]);
        assert_eq!(pool.queued(), 10);
    }
    // Both have five.
    for name in [1, 2] {
        let full = pool.enqueue(0, ask(name, 200)).unwrap_err();
        let (waiting, limit) = (10, 10);
        assert_eq!(full.reason, RejectReason::QueueFull { waiting, limit });
        assert!(shed(&mut pool).is_empty());
    }
}

#[test]
fn retried_request_of_a_greedy_tenant_keeps_its_place() {
    let (mut pool, ids) = filled(LimiterConfig::new());
    let early = wait(&mut pool, 5, ask(1, 3));
    assert_eq!(shed(&mut pool), [ids[9]]);
    assert!(pool.place(5, early).is_some());
}

#[test]
fn only_request_of_a_tenant_is_never_given_up() {
    let mut pool = pool_of(LimiterConfig::new().with_queue_limit(10));
    assert!(pool.enqueue(0, ask(0, 0)).is_ok());
    for name in 1..=10 {
        wait(&mut pool, 0, ask(name, name));
    }
    assert!(pool.enqueue(0, ask(11, 11)).is_err());
    assert!(shed(&mut pool).is_empty());
}

#[test]
fn heavier_tenant_keeps_more_places() {
    let four = NonZeroU32::new(4).unwrap();
    let shares = FairShares::new().with_tenant(&tenant(1), four);
    let (mut pool, _) = filled(LimiterConfig::new().with_shares(shares));
    let taken = (0..10).filter(|at| pool.enqueue(0, ask(2, 100 + at)).is_ok());
    assert_eq!(taken.count(), 2);
}

#[test]
fn full_class_gives_way_to_another_class() {
    for (flood, other) in [
        (Priority::Interactive, Priority::Batch),
        (Priority::Batch, Priority::Interactive),
    ] {
        let mut pool = pool_of(LimiterConfig::new().with_queue_limit(30));
        assert!(pool.enqueue(0, ask(0, 0)).is_ok());
        for at in 0..30 {
            let request = PoolRequest::new(Cost::new(0, 0), at).with_priority(flood);
            wait(&mut pool, 0, request);
        }
        let newcomer = PoolRequest::new(Cost::new(0, 0), 50).with_priority(other);
        wait(&mut pool, 0, newcomer);
        assert_eq!(shed(&mut pool).len(), 1, "{flood:?}");
    }
}

#[test]
fn queue_full_of_bytes_gives_up_the_requests_of_the_tenant_that_holds_the_most() {
    let mut pool = pool_of(LimiterConfig::new().with_queue_bytes(1_000));
    assert!(pool.enqueue(0, ask(0, 0)).is_ok());
    // Many small ones, with the longest wait, and few long ones.
    let small: Vec<_> = (0..50)
        .map(|at| wait(&mut pool, 0, ask(1, at).with_bytes(2)))
        .collect();
    let long: Vec<_> = (0..3)
        .map(|at| wait(&mut pool, 0, ask(2, at).with_bytes(300)))
        .collect();
    wait(&mut pool, 0, ask(3, 60).with_bytes(200));
    assert_eq!(shed(&mut pool), [long[2]]);
    assert!(small.iter().all(|id| pool.place(0, *id).is_some()));
    // It would hold more than any other, so no other is given up.
    let full = pool.enqueue(0, ask(4, 70).with_bytes(900)).unwrap_err();
    let (bytes, limit) = (1_800, 1_000);
    assert_eq!(full.reason, RejectReason::QueueBytesFull { bytes, limit });
    assert!(shed(&mut pool).is_empty());
}

#[test]
fn without_known_rates_the_tenant_with_the_most_requests_is_greedy() {
    let limits = Limits::new().with_concurrency(NonZeroU32::MIN);
    let scope = Scope::named("unknown rates");
    let config = LimiterConfig::new().with_queue_limit(4);
    let mut pool = Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0);
    let request =
        |name, at| PoolRequest::new(Cost::new(10, 0), at).with_tenant(Some(&tenant(name)));
    assert!(pool.enqueue(0, request(1, 0)).is_ok());
    for at in 0..4 {
        wait(&mut pool, 0, request(1, at));
    }
    wait(&mut pool, 0, request(2, 9));
    assert_eq!(pool.take_shed().len(), 1);
}

/// Plays ten minutes of a tenant that asks for `times` the limit, and of one that asks for 40 % of
/// it. Returns the rejections and the waits of the second.
fn flood(times: u64) -> (usize, Vec<u64>) {
    let mut pool = pool_of(LimiterConfig::new());
    let mut arrivals: Vec<(u64, u64)> = (0..600 * times).map(|n| (n * S / times, 1)).collect();
    // The flood is there first.
    arrivals.extend((0..20_000).map(|_| (0, 1)));
    arrivals.extend((0..240).map(|n| (60 * S + n * 5 * S / 2, 2)));
    arrivals.sort_unstable();
    let (mut waiting, mut waits, mut rejected) = (HashMap::new(), Vec::new(), 0);
    let (mut granted, mut next) = (Vec::new(), Next::Idle);
    let mut poll = |pool: &mut Pool, now, waiting: &mut HashMap<WaiterId, (u64, u64)>| {
        let next = pool.poll(now, &mut granted);
        for (id, reservation) in granted.drain(..) {
            pool.settle(now, reservation, &Settlement::dropped());
            let (name, at) = waiting.remove(&id).unwrap();
            if name == 2 {
                waits.push(now - at);
            }
        }
        next
    };
    for (now, name) in arrivals {
        while let Next::At(at) = next
            && at <= now
        {
            next = poll(&mut pool, at, &mut waiting);
        }
        match pool.enqueue(now, ask(name, now)) {
            Ok(Enqueued::Waiting(id)) => {
                waiting.insert(id, (name, now));
            }
            Ok(Enqueued::Granted(id)) => {
                assert_eq!(name, 1, "the queue is never empty after the first request");
                pool.settle(now, id, &Settlement::dropped());
            }
            Err(_) => rejected += usize::from(name == 2),
        }
        for (id, _) in pool.take_shed() {
            let (name, _) = waiting.remove(&id).unwrap();
            rejected += usize::from(name == 2);
        }
        assert!(pool.queued() <= 10_000);
        next = poll(&mut pool, now, &mut waiting);
    }
    while waiting.values().any(|(name, _)| *name == 2)
        && let Next::At(at) = next
    {
        next = poll(&mut pool, at, &mut waiting);
    }
    waits.sort_unstable();
    (rejected, waits)
}

#[test]
fn tenant_within_its_share_is_served_beside_a_flood() {
    for times in [10, 100] {
        let (rejected, waits) = flood(times);
        let p99 = waits[waits.len() * 99 / 100];
        println!(
            "flood of {times} times the limit: {} of 240 served, {rejected} rejected, wait p50 {:.1} s, p99 {:.1} s",
            waits.len(),
            waits[waits.len() / 2] as f64 / S as f64,
            p99 as f64 / S as f64,
        );
        assert_eq!((waits.len(), rejected), (240, 0));
        assert!(p99 <= 5 * S, "{p99}");
    }
}

proptest! {
    /// Every request is admitted, rejected, given up or still waiting, and no more wait than may.
    #[test]
    fn requests_are_conserved(
        steps in prop::collection::vec((0_u64..4, 0_u64..3, 0_u64..400, 0_u64..2), 1..300),
        limit in 0_usize..12,
        bytes in 1_u64..1_500,
    ) {
        let config = LimiterConfig::new().with_queue_limit(limit).with_queue_bytes(bytes);
        let mut pool = pool_of(config);
        let mut waiting = HashMap::new();
        let (mut now, mut granted) = (0, Vec::new());
        for (name, priority, size, pass) in steps {
            now += pass * S;
            let priority = [Priority::Batch, Priority::Normal, Priority::Interactive][priority as usize];
            let request = ask(name, now).with_priority(priority).with_bytes(size);
            match pool.enqueue(now, request) {
                Ok(Enqueued::Waiting(id)) => {
                    prop_assert!(waiting.insert(id, size).is_none());
                }
                Ok(Enqueued::Granted(id)) => pool.settle(now, id, &Settlement::dropped()),
                Err(_) => {}
            }
            for (id, _) in pool.take_shed() {
                prop_assert!(waiting.remove(&id).is_some());
                prop_assert!(!pool.cancel(id));
            }
            pool.poll(now, &mut granted);
            for (id, reservation) in granted.drain(..) {
                prop_assert!(waiting.remove(&id).is_some());
                pool.settle(now, reservation, &Settlement::dropped());
            }
            prop_assert_eq!(pool.queued(), waiting.len());
            prop_assert!(waiting.len() <= limit);
            prop_assert!(waiting.len() == 1 || waiting.values().sum::<u64>() <= bytes);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn future_of_a_request_given_up_ends_with_the_rejection() {
    let limits = Limits::new().with_concurrency(NonZeroU32::MIN);
    let config = LimiterConfig::new().with_queue_limit(2);
    let limiter = LocalLimiter::with_config(limits, config);
    let acquire = |name| {
        let request = AcquireRequest::new(Scope::named("full"), Cost::new(1, 1));
        tokio::spawn(limiter.acquire(request.with_tenant(Some(tenant(name)))))
    };
    let held = acquire(1).await.unwrap().unwrap();
    let first = acquire(1);
    yield_now().await;
    let last = acquire(1);
    yield_now().await;
    let newcomer = acquire(2);
    let rejection: Rejection = last.await.unwrap().unwrap_err();
    let (waiting, limit) = (2, 2);
    assert_eq!(rejection.reason, RejectReason::QueueFull { waiting, limit });
    // No permit is lost: both others are served, one after the other.
    drop(held);
    first.await.unwrap().unwrap().sent();
    newcomer.await.unwrap().unwrap().sent();
    assert_eq!(limiter.snapshot()[0].queued, 0);
}

fn is_pending(acquire: &mut Pin<Box<LocalAcquire>>) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    acquire.as_mut().poll(&mut cx).is_pending()
}

#[tokio::test(start_paused = true)]
async fn dropped_future_of_a_request_given_up_changes_nothing() {
    let limits = Limits::new().with_concurrency(NonZeroU32::MIN);
    let config = LimiterConfig::new().with_queue_limit(2);
    let limiter = LocalLimiter::with_config(limits, config);
    let request = |name| {
        AcquireRequest::new(Scope::named("full"), Cost::new(1, 1)).with_tenant(Some(tenant(name)))
    };
    let held = limiter.acquire(request(1)).await.unwrap();
    let mut waiting: Vec<_> = (0..2)
        .map(|_| Box::pin(limiter.acquire(request(1))))
        .collect();
    for acquire in &mut waiting {
        assert!(is_pending(acquire));
    }
    let mut newcomer = Box::pin(limiter.acquire(request(2)));
    assert!(is_pending(&mut newcomer));
    // It was given up, and is dropped without another poll.
    drop(waiting.pop());
    assert_eq!(limiter.snapshot()[0].queued, 2);
    drop((held, waiting));
    newcomer.await.unwrap().sent();
    let snapshot = &limiter.snapshot()[0];
    assert_eq!((snapshot.queued, snapshot.in_flight), (0, 0));
}
