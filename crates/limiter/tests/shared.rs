//! Pools that share their limits through a store.

use std::{num::NonZeroU64, time::Duration};

use tower_claude_core::{Cost, Priority, RejectReason, Scope};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, Settlement, SharePolicy,
    pool::{
        Enqueued, MemoryStore, Next, ObservedHead, PoolRequest, ReservationId, ShareOutcome,
        WaiterId,
    },
};
use tower_claude_wire::{RateLimits, Usage};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

fn n(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).unwrap()
}

fn shared(limits: &Limits, policy: SharePolicy) -> Pool {
    let scope = Scope::named("shared");
    let config = LimiterConfig::new();
    Pool::shared(scope.clone(), &limits.for_scope(&scope), config, &policy, 0)
}

fn tokens(limit: u64, burst: Duration) -> Limits {
    Limits::new()
        .with_input_tokens_per_minute(n(limit))
        .with_burst(burst)
}

fn ask(tokens: u64, now: u64) -> PoolRequest {
    PoolRequest::new(Cost::new(tokens, 0), now)
}

/// A process with its pool, whose messages reach the store at once.
struct Process {
    pool: Pool,
    number: u64,
    granted: Vec<(WaiterId, ReservationId)>,
    messages: u64,
}

impl Process {
    fn new(number: u64, limits: &Limits) -> Self {
        Self {
            pool: shared(limits, SharePolicy::new()),
            number,
            granted: Vec::new(),
            messages: 0,
        }
    }

    /// Polls and exchanges messages until nothing changes. Returns the next time of a change.
    fn step(&mut self, now: u64, store: &mut MemoryStore) -> Next {
        loop {
            let next = self.pool.poll(now, &mut self.granted);
            let Some(message) = self.pool.take_message(now) else {
                return next;
            };
            self.messages += 1;
            assert!(self.messages < 1_000_000, "a loop");
            let reply = store.apply(now / 1_000, self.number, &message);
            self.pool.on_reply(now, message.id, &reply);
        }
    }
}

/// The result of processes that were kept busy.
struct Load {
    /// The tokens of each process after the first burst, its requests and its messages.
    totals: Vec<(u64, u64, u64)>,
    /// The lowest level of a bucket that takes all requests. Below 0, a window exceeds the limit.
    lowest: f64,
    sum: u64,
    /// The longest time without a request after the first 5 s.
    gap: u64,
}

/// Keeps a process busy with requests of each size for `end` nanoseconds, and cuts each off from
/// the store during its outage.
fn load(
    sizes: &[u64],
    limit: u64,
    burst: Duration,
    end: u64,
    depth: usize,
    outages: &[(u64, u64)],
) -> Load {
    let limits = tokens(limit, burst);
    let mut store = MemoryStore::new();
    let mut processes: Vec<_> = (0..sizes.len())
        .map(|number| Process::new(number as u64, &limits))
        .collect();
    let mut admitted: Vec<(u64, u64)> = Vec::new();
    let mut totals = vec![(0, 0, 0); sizes.len()];
    let mut wakes = vec![0; sizes.len()];
    let mut changes: Vec<_> = outages
        .iter()
        .enumerate()
        .flat_map(|(index, (down, up))| [(*down, index, true), (*up, index, false)])
        .collect();
    changes.sort_unstable();
    changes.reverse();
    let mut at_once = Vec::new();
    let mut now = 0;
    while now < end {
        while let Some((_, index, down)) = changes.pop_if(|change| change.0 <= now) {
            processes[index].pool.set_store_down(now, down);
            wakes[index] = now;
        }
        for (index, process) in processes.iter_mut().enumerate() {
            if wakes[index] > now {
                continue;
            }
            loop {
                while process.pool.queued() < depth {
                    let enqueued = process.pool.enqueue(now, ask(sizes[index], now)).unwrap();
                    if let Enqueued::Granted(id) = enqueued {
                        at_once.push(id);
                    }
                }
                let next = process.step(now, &mut store);
                at_once.extend(process.granted.drain(..).map(|(_, id)| id));
                let count = at_once.len() as u64;
                for id in at_once.drain(..) {
                    let mut usage = Usage::default();
                    usage.input_tokens = Some(sizes[index]);
                    let used = Settlement::Used { usage };
                    process.pool.settle(now, id, &used);
                }
                if count > 0 {
                    admitted.push((now, count * sizes[index]));
                    // The first burst goes to the first process.
                    if now > 5 * S {
                        totals[index].0 += count * sizes[index];
                    }
                    totals[index].1 += count;
                    continue;
                }
                wakes[index] = match next {
                    Next::At(at) => at,
                    other => panic!("{other:?}"),
                };
                break;
            }
        }
        now = *wakes.iter().min().unwrap();
        now = changes.last().map_or(now, |change| now.min(change.0));
    }
    for (total, process) in totals.iter_mut().zip(&processes) {
        total.2 = process.messages;
    }
    let capacity = limit as f64 / 60.0 * burst.as_secs_f64();
    let rate = limit as f64 / 60e9;
    let (mut level, mut at, mut lowest, mut gap) = (capacity, 0, capacity, 0);
    for (time, amount) in &admitted {
        if at > 5 * S {
            gap = gap.max(time - at);
        }
        level = (level + rate * (time - at) as f64).min(capacity) - *amount as f64;
        at = *time;
        lowest = lowest.min(level);
    }
    Load {
        totals,
        lowest,
        sum: admitted.iter().map(|(_, amount)| amount).sum(),
        gap,
    }
}

/// Keeps a process busy with requests of each size. Returns the totals, after it has checked that
/// no window exceeds the limit, and that all of it is used.
fn saturate(
    sizes: &[u64],
    limit: u64,
    burst: Duration,
    end: u64,
    depth: usize,
) -> Vec<(u64, u64, u64)> {
    let Load {
        totals,
        lowest,
        sum,
        ..
    } = load(sizes, limit, burst, end, depth, &[]);
    let capacity = limit as f64 / 60.0 * burst.as_secs_f64();
    let rate = limit as f64 / 60e9;
    // A microsecond of the store's clock, and a reply's rounding.
    assert!(lowest > -rate * 3_000.0 - 0.01, "{lowest}");
    let all = capacity + rate * end as f64;
    let most = *sizes.iter().max().unwrap() as f64 * sizes.len() as f64;
    let reserve = capacity / 64.0;
    assert!(sum as f64 >= all * 0.995 - most - reserve, "{sum} of {all}");
    totals
}

fn jain(shares: impl Iterator<Item = u64> + Clone) -> f64 {
    let count = shares.clone().count() as f64;
    let sum: f64 = shares.clone().map(|share| share as f64).sum();
    let squares: f64 = shares.map(|share| (share as f64).powi(2)).sum();
    sum * sum / (count * squares)
}

#[test]
fn busy_processes_use_the_whole_limit_in_equal_shares() {
    for processes in [1, 4, 16, 64] {
        let sizes = vec![10; processes];
        let totals = saturate(&sizes, 120_000, Duration::from_secs(1), 60 * S, 20);
        let jain = jain(totals.iter().map(|total| total.0));
        assert!(jain > 0.999, "{processes}: {jain}");
    }
}

#[test]
fn processes_with_larger_requests_get_no_larger_share() {
    for processes in [4, 16] {
        let sizes: Vec<_> = (0..processes)
            .map(|index| if index % 4 == 0 { 300 } else { 100 })
            .collect();
        let totals = saturate(&sizes, 120_000, Duration::from_secs(1), 60 * S, 20);
        let jain = jain(totals.iter().map(|total| total.0));
        assert!(jain > 0.99, "{processes}: {jain} {totals:?}");
    }
}

#[test]
fn blocks_need_less_than_one_message_per_request() {
    let totals = saturate(&[10; 4], 120_000, Duration::from_secs(1), 20 * S, 50);
    for (_, requests, messages) in totals {
        assert!(messages * 4 < requests, "{messages} for {requests}");
    }
}

#[test]
fn single_request_of_an_idle_process_asks_for_itself_only() {
    let mut store = MemoryStore::new();
    let mut process = Process::new(0, &tokens(60_000, Duration::from_secs(60)));
    process.pool.enqueue(0, ask(700, 0)).unwrap();
    process.pool.poll(0, &mut process.granted);
    let message = process.pool.take_message(0).unwrap();
    let input = message.limits.iter().find(|limit| limit.index == 1);
    assert_eq!(input.unwrap().cost, 700);
    let reply = store.apply(0, 0, &message);
    process.pool.on_reply(0, message.id, &reply);
    process.pool.poll(0, &mut process.granted);
    assert_eq!(process.granted.len(), 1);
}

#[test]
fn refund_reaches_the_store_when_the_scope_is_idle() {
    let mut store = MemoryStore::new();
    let limits = tokens(60_000, Duration::from_secs(60));
    let mut first = Process::new(0, &limits);
    let mut second = Process::new(1, &limits);
    first.pool.enqueue(0, ask(60_000 - 60_000 / 64, 0)).unwrap();
    first.step(0, &mut store);
    let (_, id) = first.granted.pop().unwrap();
    second.pool.enqueue(0, ask(10_000, 0)).unwrap();
    let Next::At(at) = second.step(0, &mut store) else {
        panic!("not waiting")
    };
    assert!(at >= 9 * S);
    first.pool.settle(MS, id, &Settlement::NotSent);
    assert!(first.pool.has_message());
    first.step(MS, &mut store);
    let mut third = Process::new(2, &limits);
    third.pool.enqueue(MS, ask(10_000, MS)).unwrap();
    third.step(MS, &mut store);
    assert_eq!(third.granted.len(), 1);
}

#[test]
fn pause_of_one_process_delays_the_blocks_of_all() {
    let mut store = MemoryStore::new();
    let limits = tokens(60_000, Duration::from_secs(60));
    let mut first = Process::new(0, &limits);
    let mut second = Process::new(1, &limits);
    first.pool.enqueue(0, ask(100, 0)).unwrap();
    first.step(0, &mut store);
    let (_, id) = first.granted.pop().unwrap();
    let pause = first
        .pool
        .rate_limited(MS, id, Some(Duration::from_secs(20)), 0.0);
    first.step(MS, &mut store);
    second.pool.enqueue(2 * MS, ask(100, 2 * MS)).unwrap();
    let Next::At(at) = second.step(2 * MS, &mut store) else {
        panic!("admitted in a pause")
    };
    assert_eq!(at, MS + pause.as_nanos() as u64);
    // The grant is long, so it is verified when it is due.
    second.pool.poll(at, &mut second.granted);
    second.step(at, &mut store);
    assert_eq!(second.granted.len(), 1);
}

#[test]
fn pause_that_begins_after_a_grant_is_observed_before_the_grant_is_used() {
    let mut store = MemoryStore::new();
    let limits = tokens(60_000, Duration::from_secs(1));
    let mut first = Process::new(0, &limits);
    let mut second = Process::new(1, &limits);
    first.pool.enqueue(0, ask(900, 0)).unwrap();
    first.step(0, &mut store);
    let (_, id) = first.granted.pop().unwrap();
    let mut hog = Process::new(2, &limits);
    for _ in 0..3 {
        hog.pool.enqueue(0, ask(1_000, 0)).unwrap();
    }
    hog.step(0, &mut store);
    second.pool.enqueue(0, ask(900, 0)).unwrap();
    let Next::At(due) = second.step(0, &mut store) else {
        panic!("admitted")
    };
    assert!(due > S);
    first
        .pool
        .rate_limited(MS, id, Some(Duration::from_secs(30)), 0.0);
    first.step(MS, &mut store);
    let Next::At(at) = second.step(due, &mut store) else {
        panic!("admitted in a pause")
    };
    assert!(second.granted.is_empty() && at >= 30 * S, "{at}");
}

#[test]
fn wait_over_max_wait_is_rejected_without_a_charge() {
    let mut store = MemoryStore::new();
    let limits = tokens(60_000, Duration::from_secs(1));
    let mut first = Process::new(0, &limits);
    let mut second = Process::new(1, &limits);
    for _ in 0..5 {
        first.pool.enqueue(0, ask(1_000, 0)).unwrap();
    }
    first.step(0, &mut store);
    let impatient = ask(1_000, 0).with_max_wait(Some(10 * MS));
    second.pool.enqueue(0, impatient).unwrap();
    second.step(0, &mut store);
    let shed = second.pool.take_shed();
    assert_eq!(shed.len(), 1);
    assert!(matches!(
        shed[0].1.reason,
        RejectReason::WaitTooLong { estimated, .. } if estimated > Duration::from_millis(100)
    ));
    assert!(second.granted.is_empty());
}

#[test]
fn urgent_request_is_granted_while_a_batch_waits() {
    let mut store = MemoryStore::new();
    let limits = tokens(60_000, Duration::from_secs(60));
    let mut batch = Process::new(0, &limits);
    let mut urgent = Process::new(1, &limits);
    for _ in 0..100 {
        let request = ask(1_000, 0).with_priority(Priority::Batch);
        batch.pool.enqueue(0, request).unwrap();
    }
    batch.step(0, &mut store);
    assert!(batch.granted.len() < 60);
    let request = ask(1_000, 0).with_priority(Priority::Interactive);
    urgent.pool.enqueue(0, request).unwrap();
    urgent.step(0, &mut store);
    assert_eq!(urgent.granted.len(), 1);
}

#[test]
fn store_without_answer_leaves_the_local_share() {
    let limits = tokens(60_000, Duration::from_secs(60));
    let mut pool = shared(&limits, SharePolicy::new());
    let mut granted = Vec::new();
    for _ in 0..100 {
        pool.enqueue(0, ask(1_000, 0)).unwrap();
    }
    assert_eq!(pool.poll(0, &mut granted), Next::At(30 * MS));
    assert!(granted.is_empty());
    pool.poll(30 * MS, &mut granted);
    let mut now = 30 * MS;
    while now < 60 * S {
        let Next::At(at) = pool.poll(now, &mut granted) else {
            break;
        };
        now = at;
    }
    // A quarter of the burst and of a minute's refill.
    assert!((20..=31).contains(&granted.len()), "{}", granted.len());
}

#[test]
fn charges_of_the_local_share_reach_the_store_afterwards() {
    let limits = tokens(60_000, Duration::from_secs(60));
    let mut store = MemoryStore::new();
    let mut process = Process::new(0, &limits);
    process.pool.enqueue(0, ask(1_000, 0)).unwrap();
    process.step(0, &mut store);
    process.pool.set_store_down(MS, true);
    let now = 2 * MS;
    for _ in 0..10 {
        let enqueued = process.pool.enqueue(now, ask(1_000, now)).unwrap();
        assert!(matches!(enqueued, Enqueued::Granted(_)));
    }
    process.pool.set_store_down(now, false);
    process.step(now, &mut store);
    process.pool.enqueue(now, ask(1, now)).unwrap();
    process.step(now, &mut store);
    let level = process.pool.snapshot(now).dimensions[0].available;
    let refilled = (now / MS) as i64;
    assert!((48_999..=49_010 + refilled).contains(&level), "{level}");
}

#[test]
fn processes_that_return_at_different_times_exceed_no_limit() {
    for burst in [1, 10, 60] {
        for outage in [1, 2, 20] {
            for apart in [100 * MS, 500 * MS, 1_200 * MS] {
                let up = 10 * S + outage * S;
                let outages: Vec<_> = (0..4)
                    .map(|index| (10 * S, up + index * apart / 3))
                    .collect();
                let burst = Duration::from_secs(burst);
                let load = load(&[25; 4], 60_000, burst, 50 * S, 16, &outages);
                let used = load.sum as f64 / (1_000.0 * (50.0 + burst.as_secs_f64()));
                let all = format!("{burst:?}, {outage} s, {apart}: {}, {used}", load.lowest);
                assert!(load.lowest > -0.1 && used > 0.93, "{all}");
            }
        }
    }
}

#[test]
fn second_outage_begins_with_what_the_first_has_left() {
    let limits = tokens(60_000, Duration::from_secs(10));
    let mut store = MemoryStore::new();
    let mut process = Process::new(0, &limits);
    process.pool.enqueue(0, ask(1, 0)).unwrap();
    process.step(0, &mut store);
    process.granted.clear();
    process.pool.set_store_down(S, true);
    // Uses the whole share, which is full by then.
    let mut used = 0;
    while let Enqueued::Granted(_) = process.pool.enqueue(20 * S, ask(100, 20 * S)).unwrap() {
        used += 100;
    }
    assert!(used >= 8_900, "{used}");
    let now = 20 * S + 2 * MS;
    process.pool.set_store_down(now, false);
    let message = process.pool.take_message(now).expect("a first message");
    let reply = store.apply(now / 1_000, 0, &message);
    process.pool.on_reply(now, message.id, &reply);
    // The store is full again by its clock, and the message that corrects it is lost.
    let message = process.pool.take_message(now).expect("a correction");
    assert!(message.limits[0].ceiling.is_some());
    process.pool.on_no_reply(now, message.id);
    process.pool.poll(now, &mut process.granted);
    assert!(process.granted.is_empty(), "{}", process.granted.len());
}

#[test]
fn outage_stops_no_process() {
    for processes in [1, 4, 16] {
        let outages = vec![(10 * S, 12 * S); processes];
        let second = Duration::from_secs(1);
        let load = load(&vec![1; processes], 60_000, second, 15 * S, 8, &outages);
        let all = format!("{processes}: {} ms, {}", load.gap / MS, load.lowest);
        assert!(load.gap <= 30 * MS && load.lowest > -0.1, "{all}");
        println!("{all}");
    }
}

#[test]
fn closed_limiter_rejects_without_the_store() {
    let limits = tokens(60_000, Duration::from_secs(60));
    let mut pool = shared(&limits, SharePolicy::new().with_fail_closed(true));
    let mut granted = Vec::new();
    pool.enqueue(0, ask(1_000, 0)).unwrap();
    pool.poll(0, &mut granted);
    pool.poll(30 * MS, &mut granted);
    assert!(granted.is_empty());
    assert_eq!(
        pool.take_shed()[0].1.reason,
        RejectReason::LimiterUnavailable
    );
    let rejected = pool.enqueue(31 * MS, ask(1_000, 31 * MS)).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::LimiterUnavailable);
    assert_eq!(rejected.status().as_u16(), 529);
}

#[test]
fn repeated_message_is_applied_once() {
    let limits = tokens(60_000, Duration::from_secs(60));
    let mut store = MemoryStore::new();
    let mut pool = shared(&limits, SharePolicy::new());
    pool.enqueue(0, ask(1_000, 0)).unwrap();
    pool.poll(0, &mut Vec::new());
    let message = pool.take_message(0).unwrap();
    let first = store.apply(0, 0, &message);
    let second = store.apply(0, 0, &message);
    assert_eq!(first, second);
    assert_eq!(first.outcome, ShareOutcome::Granted(Duration::ZERO));
}

#[test]
fn lost_state_starts_from_half_of_the_capacity_at_most() {
    let limits = tokens(60_000, Duration::from_secs(60));
    let mut store = MemoryStore::new();
    let mut process = Process::new(0, &limits);
    process.pool.enqueue(0, ask(100, 0)).unwrap();
    process.step(0, &mut store);
    store = MemoryStore::new();
    process.pool.enqueue(MS, ask(100, MS)).unwrap();
    process.step(MS, &mut store);
    assert_eq!(process.granted.len(), 2);
    let level = process.pool.snapshot(MS).dimensions[0].available;
    assert!((29_000..=30_000).contains(&level), "{level}");
}

#[test]
fn limit_in_the_headers_of_one_process_holds_for_all() {
    let limits = Limits::unlimited();
    let mut store = MemoryStore::new();
    let mut first = Process::new(0, &limits);
    let mut second = Process::new(1, &limits);
    for process in [&mut first, &mut second] {
        process.pool.enqueue(0, ask(100, 0)).unwrap();
        process.step(0, &mut store);
        assert_eq!(process.granted.len(), 1);
    }
    let mut headers = RateLimits::default();
    headers.input_tokens.limit = Some(50_000);
    headers.input_tokens.remaining = Some(20_000);
    let (_, id) = first.granted.pop().unwrap();
    first
        .pool
        .observe(MS, id, &ObservedHead::new(&headers, None));
    first.step(MS, &mut store);
    let now = 6 * S;
    second.pool.enqueue(now, ask(100, now)).unwrap();
    second.step(now, &mut store);
    let snapshot = second.pool.snapshot(now);
    assert_eq!(snapshot.dimensions[0].limit, 50_000);
    assert!(snapshot.dimensions[0].available < 26_000);
}

#[test]
fn smallest_configured_limit_holds_for_all() {
    let mut store = MemoryStore::new();
    let mut first = Process::new(0, &tokens(60_000, Duration::from_secs(60)));
    let mut second = Process::new(1, &tokens(30_000, Duration::from_secs(60)));
    for (now, process) in [(0, &mut first), (1, &mut second)] {
        process.pool.enqueue(now, ask(100, now)).unwrap();
        process.step(now, &mut store);
    }
    let now = 6 * S;
    first.pool.enqueue(now, ask(100, now)).unwrap();
    first.step(now, &mut store);
    assert_eq!(first.pool.snapshot(now).dimensions[0].limit, 30_000);
    // The process with the smaller limit has gone.
    let now = 60 * S;
    first.pool.enqueue(now, ask(100, now)).unwrap();
    first.step(now, &mut store);
    assert_eq!(first.pool.snapshot(now).dimensions[0].limit, 60_000);
}

#[test]
fn extreme_limits_and_requests_panic_neither_with_the_store_nor_without_it() {
    let extremes = [1, 50, 1 << 40, u64::MAX / 2, u64::MAX];
    let bursts = [0, 1, 60, 86_400 * 365].map(Duration::from_secs);
    for (limit, burst) in extremes
        .iter()
        .flat_map(|limit| bursts.map(|burst| (*limit, burst)))
    {
        let mut store = MemoryStore::new();
        let limits = tokens(limit, burst).with_requests_per_minute(n(limit));
        let mut process = Process::new(1, &limits);
        let mut now = 0;
        for size in [0, 1, limit, u64::MAX] {
            for down in [false, true, false] {
                now += 90 * S;
                process.pool.set_store_down(now, down);
                let id = match process.pool.enqueue(now, ask(size, now)) {
                    Ok(Enqueued::Granted(id)) => Some(id),
                    _ => None,
                };
                process.step(now, &mut store);
                now += 120 * S;
                process.step(now, &mut store);
                for id in process.granted.drain(..).map(|(_, id)| id).chain(id) {
                    process.pool.settle(now, id, &Settlement::dropped());
                }
            }
        }
    }
}
