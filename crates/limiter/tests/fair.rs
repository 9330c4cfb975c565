//! The fair queue: order within a flow, shares between flows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use tower_claude_core::{Cost, Priority, RejectReason, Scope, Tenant};
use tower_claude_limiter::{
    FairShares, LimiterConfig, Limits, Pool, Settlement,
    pool::{Enqueued, Next, PoolRequest, ReservationId, WaiterId},
};
use tower_claude_wire::Usage;

const S: u64 = 1_000_000_000;
const PRIORITIES: [Priority; 3] = [Priority::Batch, Priority::Normal, Priority::Interactive];

/// 60,000 tokens a minute: a token is a millisecond.
const PER_MINUTE: u64 = 60_000;
const MS: u64 = 1_000_000;

fn pool_with(config: LimiterConfig) -> Pool {
    let limits = Limits::new()
        .with_input_tokens_per_minute(NonZeroU64::new(PER_MINUTE).unwrap())
        .with_burst(Duration::from_secs(5));
    let scope = Scope::named("fair");
    let config = config.with_queue_limit(1 << 20).with_calibrate_input(false);
    Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0)
}

fn pool() -> Pool {
    pool_with(LimiterConfig::new())
}

fn tenant(name: u64) -> Option<Tenant> {
    (name > 0).then(|| Tenant(Arc::from(name.to_string())))
}

fn ask(priority: Priority, of: u64, tokens: u64, arrival: u64) -> PoolRequest {
    PoolRequest::new(Cost::new(tokens, 0), arrival)
        .with_priority(priority)
        .with_tenant(tenant(of).as_ref())
}

fn wait(pool: &mut Pool, now: u64, ask: PoolRequest) -> WaiterId {
    match pool.enqueue(now, ask) {
        Ok(Enqueued::Waiting(waiter)) => waiter,
        other => panic!("does not wait: {other:?}"),
    }
}

/// Empties the bucket, so that the next request waits.
fn empty(pool: &mut Pool) {
    let all = ask(Priority::Normal, 0, 5_000, 0);
    let Ok(Enqueued::Granted(id)) = pool.enqueue(0, all) else {
        panic!("full at the start")
    };
    pool.settle(0, id, &Settlement::dropped());
}

/// Returns all admissions with their times, until the queue is empty or this time.
fn run(pool: &mut Pool, mut now: u64, until: u64) -> Vec<(u64, WaiterId, ReservationId)> {
    let mut all = Vec::new();
    let mut granted = Vec::new();
    loop {
        let next = pool.poll(now, &mut granted);
        for (waiter, id) in granted.drain(..) {
            pool.settle(now, id, &Settlement::dropped());
            all.push((now, waiter, id));
        }
        match next {
            Next::At(at) if at <= until => now = at,
            _ => return all,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        flow: usize,
        tokens: u64,
        early: u64,
    },
    Cancel(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_usize..6, 1_u64..2_000, 0_u64..3).prop_map(|(flow, tokens, early)| Step::Ask { flow, tokens, early }),
        1 => any::<usize>().prop_map(Step::Cancel),
        3 => (1_u64..3_000).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..150)
}

/// Plays the steps and returns each admitted request with its time. `flow` maps the flows of the
/// steps to priorities and tenants.
fn play(
    steps: &[Step],
    flow: impl Fn(usize) -> (Priority, u64),
    mut on_grant: impl FnMut(usize, &BTreeMap<usize, BTreeSet<(u64, usize)>>),
) -> Vec<(u64, usize)> {
    let mut pool = pool();
    let mut waiting: HashMap<WaiterId, (usize, u64, usize)> = HashMap::new();
    let mut queues: BTreeMap<usize, BTreeSet<(u64, usize)>> = BTreeMap::new();
    let (mut now, mut out) = (0, Vec::new());
    let mut granted = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Ask {
                flow: f,
                tokens,
                early,
            } => {
                let arrival = now - (early * 700 * MS).min(now);
                let (priority, tenant) = flow(f);
                match pool
                    .enqueue(now, ask(priority, tenant, tokens, arrival))
                    .unwrap()
                {
                    Enqueued::Granted(id) => {
                        queues.entry(f).or_default().insert((arrival, number));
                        on_grant(number, &queues);
                        queues.get_mut(&f).unwrap().remove(&(arrival, number));
                        out.push((now, number));
                        pool.settle(now, id, &Settlement::dropped());
                    }
                    Enqueued::Waiting(waiter) => {
                        waiting.insert(waiter, (number, arrival, f));
                        queues.entry(f).or_default().insert((arrival, number));
                    }
                }
            }
            Step::Cancel(which) => {
                let mut waiters: Vec<_> = waiting.keys().copied().collect();
                waiters.sort();
                if !waiters.is_empty() {
                    let waiter = waiters[which % waiters.len()];
                    assert!(pool.cancel(waiter) && !pool.cancel(waiter));
                    let (number, arrival, f) = waiting.remove(&waiter).unwrap();
                    queues.get_mut(&f).unwrap().remove(&(arrival, number));
                }
            }
            Step::Pass(ms) => now += ms * MS,
        }
        pool.poll(now, &mut granted);
        for (waiter, id) in granted.drain(..) {
            let (number, arrival, f) = waiting.remove(&waiter).expect("waits");
            on_grant(number, &queues);
            queues.get_mut(&f).unwrap().remove(&(arrival, number));
            out.push((now, number));
            pool.settle(now, id, &Settlement::dropped());
        }
        assert_eq!(pool.queued(), waiting.len());
        assert_eq!(pool.head().is_none(), waiting.is_empty());
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever else waits, comes back early or gives up: within a flow the first to arrive is
    /// first.
    #[test]
    fn flow_is_served_in_order_of_arrival(steps in steps()) {
        play(
            &steps,
            |flow| (PRIORITIES[flow % 3], flow as u64 / 3),
            |number, queues| {
                let own = queues.values().find(|queue| queue.iter().any(|(_, n)| *n == number));
                let first = own.and_then(|queue| queue.first()).expect("its own place");
                assert_eq!(first.1, number, "{queues:?}");
            },
        );
    }

    /// One flow is one line, whoever it belongs to, and the head of it alone takes.
    #[test]
    fn single_flow_is_a_plain_queue(steps in steps()) {
        // All steps are one flow here, so that the place is the arrival alone.
        let line = |priority, tenant| {
            let mut line: BTreeSet<(u64, usize)> = BTreeSet::new();
            play(&steps, |_| (priority, tenant), |number, queues| {
                line = queues.values().flatten().copied().collect();
                assert_eq!(line.first().map(|(_, n)| *n), Some(number));
            })
        };
        let plain = line(Priority::Normal, 0);
        prop_assert_eq!(&line(Priority::Batch, 7), &plain);
        prop_assert_eq!(&line(Priority::Interactive, 0), &plain);
    }

    /// In no stretch of time in which two flows both wait does one get ahead of the other, by work
    /// over weight, by more than one largest request of each.
    #[test]
    fn flow_leads_by_at_most_one_request(
        sizes in prop::collection::vec((0_usize..4, 1_u64..4_000), 80..200),
        weights in prop::collection::vec(1_u32..9, 4),
        classes in any::<bool>(),
    ) {
        let mut shares = FairShares::new();
        for (flow, weight) in weights.iter().enumerate() {
            let weight = NonZeroU32::new(*weight).unwrap();
            shares = if classes {
                shares.with_priority(PRIORITIES[flow % 3], weight)
            } else {
                shares.with_tenant(&tenant(flow as u64 + 1).unwrap(), weight)
            };
        }
        let flows = if classes { 3 } else { 4 };
        let weight = |flow: usize| {
            // The fourth overwrote the first.
            f64::from(if classes && flow == 0 { weights[3] } else { weights[flow] })
        };
        let mut pool = pool_with(LimiterConfig::new().with_shares(shares));
        empty(&mut pool);
        let (mut owner, mut left, mut most) = (HashMap::new(), vec![0; flows], vec![0; flows]);
        for (flow, tokens) in sizes {
            let flow = flow % flows;
            let (priority, of) = if classes { (PRIORITIES[flow], 0) } else { (Priority::Normal, flow as u64 + 1) };
            let waiter = wait(&mut pool, 0, ask(priority, of, tokens, 0));
            owner.insert(waiter, (flow, tokens));
            left[flow] += 1;
            most[flow] = most[flow].max(tokens);
        }
        let mut got = vec![0.0_f64; flows];
        // The least and greatest lead of each over each so far.
        let mut leads = vec![(0.0_f64, 0.0_f64); flows * flows];
        for (_, waiter, _) in run(&mut pool, 0, u64::MAX) {
            let (flow, tokens) = owner[&waiter];
            got[flow] += tokens as f64 / weight(flow);
            for a in 0..flows {
                for b in 0..flows {
                    if left[a] == 0 || left[b] == 0 { continue; }
                    let lead = got[a] - got[b];
                    let (low, high) = &mut leads[a * flows + b];
                    *low = low.min(lead);
                    *high = high.max(lead);
                    let most = most[a] as f64 / weight(a) + most[b] as f64 / weight(b);
                    prop_assert!(*high - *low <= most + 0.001, "{a} {b}: {low} to {high}, {most}");
                }
            }
            left[flow] -= 1;
        }
        prop_assert!(left.iter().all(|left| *left == 0), "starved: {left:?}");
    }
}

/// Keeps so many requests of each flow waiting for so long, and returns the work each got.
fn saturate(shares: FairShares, flows: &[(Priority, u64, u64)], actual: u64) -> Vec<u64> {
    let mut pool = pool_with(LimiterConfig::new().with_shares(shares));
    let mut rng = fastrand::Rng::with_seed(7);
    empty(&mut pool);
    let mut owner = HashMap::new();
    let mut got = vec![0; flows.len()];
    let feed = |pool: &mut Pool, rng: &mut fastrand::Rng, now, flow: usize| {
        let (priority, of, most) = flows[flow];
        let tokens = rng.u64(1..=most);
        (
            wait(pool, now, ask(priority, of, tokens, now)),
            (flow, tokens),
        )
    };
    for flow in 0..flows.len() {
        for _ in 0..5 {
            owner.extend([feed(&mut pool, &mut rng, 0, flow)]);
        }
    }
    let (mut now, mut granted) = (0, Vec::new());
    while now < 10_000 * S {
        let next = pool.poll(now, &mut granted);
        for (waiter, id) in granted.drain(..) {
            let (flow, tokens) = owner.remove(&waiter).unwrap();
            // The first flow uses more than it said.
            let tokens = if flow == 0 { tokens * actual } else { tokens };
            got[flow] += tokens;
            let mut usage = Usage::default();
            usage.input_tokens = Some(tokens);
            pool.settle(now, id, &Settlement::Used { usage });
            owner.extend([feed(&mut pool, &mut rng, now, flow)]);
        }
        let Next::At(at) = next else { panic!("idle") };
        now = at;
    }
    got
}

fn check_shares(got: &[u64], weights: &[f64]) {
    let (all, sum) = (got.iter().sum::<u64>() as f64, weights.iter().sum::<f64>());
    for (got, weight) in got.iter().zip(weights) {
        let ratio = (*got as f64 / all) / (weight / sum);
        println!("weight {weight}: {:.4} of its share", ratio);
        assert!((0.98..1.02).contains(&ratio), "{ratio}");
    }
}

#[test]
fn busy_classes_share_by_weight() {
    let flows = [
        (Priority::Interactive, 0, 100),
        (Priority::Normal, 0, 900),
        (Priority::Batch, 0, 4_000),
    ];
    check_shares(&saturate(FairShares::new(), &flows, 1), &[8.0, 4.0, 1.0]);
}

#[test]
fn busy_tenants_share_their_class_by_weight() {
    let shares = FairShares::new().with_tenant(&tenant(2).unwrap(), NonZeroU32::new(3).unwrap());
    // Many urgent tenants leave the batch its thirteenth.
    let mut flows = vec![(Priority::Batch, 1, 4_000), (Priority::Batch, 2, 500)];
    flows.extend((10..20).map(|of| (Priority::Interactive, of, 300)));
    let mut weights = vec![0.25, 0.75];
    weights.extend([0.8; 10]);
    check_shares(&saturate(shares, &flows, 1), &weights);
}

#[test]
fn request_that_uses_more_than_estimated_charges_its_flow() {
    let flows = [(Priority::Normal, 1, 300), (Priority::Normal, 2, 300)];
    check_shares(&saturate(FairShares::new(), &flows, 3), &[1.0, 1.0]);
}

#[test]
fn interactive_request_waits_for_at_most_two_batch_requests() {
    let mut pool = pool();
    empty(&mut pool);
    for _ in 0..2_000 {
        wait(&mut pool, 0, ask(Priority::Batch, 0, 1_000, 0));
    }
    let mut rng = fastrand::Rng::with_seed(3);
    let (mut now, mut granted) = (0, Vec::new());
    let (mut people, mut waits, mut batch) = (HashMap::new(), Vec::new(), 0_u64);
    let mut comes = 0;
    while now < 1_500 * S {
        if now >= comes {
            match pool
                .enqueue(now, ask(Priority::Interactive, 0, 200, now))
                .unwrap()
            {
                Enqueued::Waiting(waiter) => {
                    people.insert(waiter, now);
                }
                Enqueued::Granted(id) => {
                    pool.settle(now, id, &Settlement::dropped());
                    waits.push(0);
                }
            }
            // A fifth of what there is, and never two at once.
            comes = now + rng.u64(500..1_500) * MS;
        }
        let next = pool.poll(now, &mut granted);
        for (waiter, id) in granted.drain(..) {
            match people.remove(&waiter) {
                Some(came) => waits.push((now - came) / MS),
                None => batch += 1_000,
            }
            pool.settle(now, id, &Settlement::dropped());
        }
        let Next::At(at) = next else { panic!("idle") };
        now = at.min(comes.max(now + MS));
    }
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    println!(
        "{} people, p99 {p99} ms, batch {batch} of {}",
        waits.len(),
        now / MS
    );
    assert!(p99 <= 2_000, "{p99}");
    // All that people leave.
    assert!(batch as f64 >= 0.98 * 0.8 * (now / MS) as f64, "{batch}");
}

#[test]
fn rejected_attempt_keeps_its_position_and_its_flow_tag() {
    let mut pool = pool();
    empty(&mut pool);
    let a = wait(&mut pool, 0, ask(Priority::Normal, 1, 1_000, 0));
    let later = wait(&mut pool, 0, ask(Priority::Normal, 1, 1_000, 1));
    let other = wait(&mut pool, 0, ask(Priority::Normal, 2, 1_000, 2));
    let mut granted = Vec::new();
    pool.poll(S, &mut granted);
    let [(first, id)] = granted[..] else {
        panic!("{granted:?}")
    };
    assert_eq!(first, a);
    assert_eq!(pool.head(), Some(other));
    // The server took nothing: the turn comes back, and so does the request.
    pool.settle(S, id, &Settlement::Rejected);
    let Ok(Enqueued::Granted(again)) = pool.enqueue(S, ask(Priority::Normal, 1, 1_000, 0)) else {
        panic!("its place is the first, and what it had taken is there")
    };
    pool.settle(S, again, &Settlement::dropped());
    let rest: Vec<_> = run(&mut pool, S, u64::MAX)
        .into_iter()
        .map(|(_, waiter, _)| waiter)
        .collect();
    assert_eq!(rest, [other, later]);
}

#[test]
fn request_is_not_rejected_for_the_queue_of_another_class() {
    let mut pool = pool();
    empty(&mut pool);
    for _ in 0..600 {
        wait(&mut pool, 0, ask(Priority::Batch, 0, 1_000, 0));
    }
    let minute = Some(60 * S);
    let refusal = pool
        .enqueue(0, ask(Priority::Batch, 0, 1_000, 1).with_max_wait(minute))
        .unwrap_err();
    assert!(matches!(refusal.reason, RejectReason::WaitTooLong { .. }));
    assert_eq!(refusal.queue_position, Some(601));
    assert!(refusal.retry_after.unwrap() >= Duration::from_secs(600));
    let waiter = wait(
        &mut pool,
        0,
        ask(Priority::Interactive, 0, 1_000, 1).with_max_wait(minute),
    );
    assert_eq!(pool.head(), Some(waiter));
    // Nine eighths of its own work: the batch goes on.
    for position in 2..=5 {
        let waiter = wait(&mut pool, 0, ask(Priority::Interactive, 0, 1_000, position));
        let place = pool.place(0, waiter).unwrap();
        assert_eq!(place.position as u64, position);
        let expected = (position - 1) * 1_125 + 1_000;
        assert_eq!(place.estimated_wait, Duration::from_millis(expected));
    }
    let snapshot = pool.snapshot(0);
    let class = snapshot.class(Priority::Interactive).unwrap();
    assert_eq!(
        (class.queued, class.estimated_wait),
        (5, Duration::from_millis(5_625))
    );
    let class = snapshot.class(Priority::Batch).unwrap();
    // All that waits: more cannot be ahead.
    assert_eq!(
        (class.queued, class.estimated_wait),
        (600, Duration::from_secs(605))
    );
    assert!(snapshot.class(Priority::Normal).is_none());
}

#[test]
fn returning_flow_has_no_credit() {
    let mut pool = pool();
    empty(&mut pool);
    for _ in 0..100 {
        wait(&mut pool, 0, ask(Priority::Normal, 1, 100, 0));
    }
    let first = run(&mut pool, 0, 5 * S);
    assert_eq!(first.len(), 50);
    // Half of what is left from here on, not what it did not use before.
    let owners: Vec<_> = (0..50)
        .map(|n| wait(&mut pool, 5 * S, ask(Priority::Normal, 2, 100, n)))
        .collect();
    let next = run(&mut pool, 5 * S, 10 * S);
    let its = next
        .iter()
        .filter(|(_, waiter, _)| owners.contains(waiter))
        .count();
    assert!((24..=26).contains(&its), "{its}");
}

#[test]
fn returning_class_has_no_credit() {
    let mut pool = pool();
    empty(&mut pool);
    for _ in 0..100 {
        wait(&mut pool, 0, ask(Priority::Normal, 0, 100, 0));
    }
    assert_eq!(run(&mut pool, 0, 5 * S).len(), 50);
    // Twice the share from here on.
    for _ in 0..100 {
        wait(&mut pool, 5 * S, ask(Priority::Interactive, 0, 100, 5 * S));
    }
    run(&mut pool, 5 * S, 8 * S);
    let left = pool.snapshot(8 * S);
    let urgent = 100 - left.class(Priority::Interactive).expect("waits").queued;
    assert!((19..=21).contains(&urgent), "{urgent}");
}
