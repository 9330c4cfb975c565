//! Hostile headers and usage: nothing panics, and a small request waits no longer than the longest
//! pause, or than a `retry-after` of at most an hour.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tower_claude_core::{Cost, RejectReason, Rejection, Scope, UsageBound};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, Settlement, Sharing, SlowStart,
    pool::{Enqueued, Next, ObservedHead, PoolRequest, ReservationId},
};
use tower_claude_wire::{self as wire, RateLimits, Usage};

const S: u64 = 1_000_000_000;
const MAX_PAUSE: u64 = 300 * S;
const HOUR: u64 = 3_600 * S;
/// The time in which a safety margin decays, and the resolution of timers.
const GRAIN: u64 = S / 10;

const HISTORIES: u64 = if cfg!(debug_assertions) { 400 } else { 4_000 };

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "+5",
    "00",
    "1e9",
    "0x10",
    "999",
    "6000",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "-9223372036854775808",
    "NaN",
    "inf",
    "",
    " ",
    "1.5",
    "1,000",
    "1_000",
    "\u{661}",
    "99999999999999999999999999999999999999",
    "0.0000001",
    "null",
];
const TIMES: &[&str] = &[
    "1970-01-01T00:00:00Z",
    "2026-11-22T10:00:01Z",
    "2026-11-22T10:00:01.999999999Z",
    "9999-12-31T23:59:59Z",
    "-009999-01-02T01:59:59Z",
    "2026-02-30T00:00:00Z",
    "2026-11-22T23:59:60Z",
    "2026-11-22",
    "10",
    "Sun, 22 Nov 2026 10:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "now",
    "",
    "2126-11-22T10:00:01+99:99",
    "2026-11-22T10:00:01-12:00",
];

/// Every name of the families, in kinds of values that do not always suit it.
fn headers(rng: &mut fastrand::Rng) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let families = [
        "requests",
        "tokens",
        "input-tokens",
        "output-tokens",
        "priority-input-tokens",
        "unified",
    ];
    for family in families {
        for part in ["limit", "remaining", "reset", "status"] {
            if rng.u8(0..4) > 0 {
                let value = value(rng, part == "reset");
                add(
                    &mut headers,
                    rng,
                    &format!("anthropic-ratelimit-{family}-{part}"),
                    value,
                );
            }
        }
    }
    for (name, time) in [
        ("date", true),
        ("retry-after", false),
        ("retry-after-ms", false),
    ] {
        if rng.bool() {
            let value = value(rng, time);
            add(&mut headers, rng, name, value);
        }
    }
    headers
}

fn add(headers: &mut HeaderMap, rng: &mut fastrand::Rng, name: &str, value: HeaderValue) {
    let name = HeaderName::try_from(name).unwrap();
    if rng.u8(0..10) == 0 {
        // Twice, and not the same.
        headers.append(name.clone(), HeaderValue::from_static("7"));
    }
    headers.append(name, value);
}

fn value(rng: &mut fastrand::Rng, time: bool) -> HeaderValue {
    let time = if rng.u8(0..8) == 0 { !time } else { time };
    match rng.u8(0..8) {
        0 => {
            let bytes: Vec<u8> = (0..rng.usize(0..40)).map(|_| rng.u8(0x80..=0xff)).collect();
            HeaderValue::from_maybe_shared(Bytes::from(bytes)).unwrap()
        }
        1 if !time => HeaderValue::from(rng.u64(..)),
        2..=3 if !time => HeaderValue::from(rng.u64(0..100_000)),
        _ => {
            let from = if time { TIMES } else { NUMBERS };
            HeaderValue::from_bytes(rng.choice(from).unwrap().as_bytes()).unwrap()
        }
    }
}

fn pool(seed: u64) -> Pool {
    let n = |value| NonZeroU64::new(value).unwrap();
    let limits = if seed.is_multiple_of(2) {
        Limits::new()
    } else {
        Limits::new()
            .with_requests_per_minute(n(60))
            .with_input_tokens_per_minute(n(60_000))
            .with_output_tokens_per_minute(n(9_000))
    };
    let sharing = [Sharing::Auto, Sharing::Shared, Sharing::Exclusive];
    let config = LimiterConfig::new()
        .with_max_pause(Duration::from_nanos(MAX_PAUSE))
        .with_sharing(sharing[seed as usize / 2 % 3])
        .with_initial_concurrency(seed.is_multiple_of(5).then_some(NonZeroU32::MIN))
        .with_slow_start(seed.is_multiple_of(7).then(SlowStart::new));
    let scope = Scope::named("hostile");
    Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0)
}

/// Lets a small request out when nothing is in flight, and returns how long that took. One that is
/// refused for its size, since a header has named a limit that is smaller still, asks again.
fn small(pool: &mut Pool, now: &mut u64) -> (ReservationId, u64) {
    let begin = *now;
    loop {
        match pool.enqueue(*now, PoolRequest::new(Cost::new(1, 1), *now)) {
            Ok(Enqueued::Granted(id)) => return (id, *now - begin),
            Ok(Enqueued::Waiting(_)) => break,
            Err(Rejection {
                reason: RejectReason::Oversized { .. },
                ..
            }) => *now += GRAIN,
            Err(refusal) => panic!("refused: {refusal:?}"),
        }
        assert!(*now - begin <= HOUR, "refused for ever");
    }
    let mut granted = Vec::new();
    for _ in 0..1_000_000 {
        match pool.poll(*now, &mut granted) {
            Next::Idle => return (granted[0].1, *now - begin),
            Next::At(at) => {
                assert!(at > *now);
                *now = at;
            }
            Next::OnChange => panic!("waits for ever: {:?}", pool.snapshot(*now)),
        }
    }
    panic!("does not come to an end: {:?}", pool.snapshot(*now));
}

#[test]
fn hostile_headers_do_not_stall_a_scope() {
    let (mut waited, mut asked, mut longest) = (0, 0, 0);
    for seed in 0..HISTORIES {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut pool, mut now) = (pool(seed), 0);
        // All pauses that were asked for lie before this.
        let mut paused = 0;
        for _ in 0..30 {
            let asking = now;
            let (id, wait) = small(&mut pool, &mut now);
            let most = paused.max(asking + MAX_PAUSE) + GRAIN;
            assert!(now <= most, "{seed}: {} s", wait / S);
            waited += u32::from(wait > 0);
            longest = longest.max(wait);
            now += rng.u64(0..20 * S);
            let headers = headers(&mut rng);
            let rejected = rng.u8(0..3) == 0;
            let limits = RateLimits::from_headers(&headers);
            let seen = ObservedHead::new(&limits, wire::date(&headers)).with_rejected(rejected);
            for _ in 0..rng.u8(1..3) {
                pool.observe(now, id, &seen);
            }
            if rejected {
                let local = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_341_600);
                let wait = wire::retry_after(&headers, local);
                asked += u32::from(wait.is_some_and(|wait| !wait.is_zero()));
                let pause = pool.rate_limited(now, id, wait, rng.f64());
                let pause = u64::try_from(pause.as_nanos()).unwrap();
                assert!(pause <= HOUR.max(paused.saturating_sub(now)));
                paused = paused.max(now + pause);
                // What nobody asked for is no longer than the longest pause.
                let own = wait.is_none_or(|wait| wait.is_zero());
                assert!(!own || pause <= MAX_PAUSE.max(paused - now));
            }
            // Sometimes the answer itself claims anything.
            let mut usage = Usage::default();
            usage.input_tokens = rng.bool().then(|| rng.u64(1 << 31..));
            usage.output_tokens = rng.bool().then(|| u64::MAX - rng.u64(0..100));
            if rng.u8(0..4) == 0 {
                pool.true_up_input(now, id, u64::MAX);
                pool.produced(now, id, u64::MAX);
            }
            let settlement = match rng.u8(0..4) {
                0 => Settlement::NotSent,
                1 => Settlement::dropped(),
                2 if rejected => Settlement::Rejected,
                2 => Settlement::Invalid,
                _ => Settlement::Used { usage },
            };
            pool.settle(now, id, &settlement);
        }
        assert_eq!((pool.in_flight(), pool.queued()), (0, 0));
    }
    println!(
        "{waited} waits, {asked} pauses asked for, the longest {} s",
        longest / S
    );
    assert!(
        waited > HISTORIES as u32 && asked > HISTORIES as u32,
        "{waited} {asked}"
    );
}

/// The histories of the test below: 10^5 with `TOWER_CLAUDE_HISTORIES=100000`.
fn histories() -> u64 {
    let number = std::env::var("TOWER_CLAUDE_HISTORIES").ok();
    number.map_or(HISTORIES, |number| number.parse().expect("a number"))
}

/// Counts that a server may report, of which few are true.
fn claim(rng: &mut fastrand::Rng) -> Option<u64> {
    let claims = [60_000_000, (1 << 26) - 1, 1 << 26, u64::MAX, 5_000_000];
    match rng.u8(0..4) {
        0 => None,
        1 => Some(rng.u64(0..6_000)),
        _ => Some(claims[rng.usize(0..claims.len())]),
    }
}

fn claims(rng: &mut fastrand::Rng) -> Usage {
    let mut usage = Usage::default();
    usage.input_tokens = claim(rng);
    usage.output_tokens = claim(rng);
    usage.cache_creation_input_tokens = claim(rng);
    usage.cache_read_input_tokens = claim(rng);
    usage
}

fn settlement(rng: &mut fastrand::Rng) -> Settlement {
    let usage = claims(rng);
    match rng.u8(0..8) {
        0 => Settlement::NotSent,
        1 => Settlement::Rejected,
        2 => Settlement::Invalid,
        3 => Settlement::Failed { usage },
        4 => Settlement::Dropped { usage },
        _ => Settlement::Used { usage },
    }
}

/// A history of requests whose responses lie, are late, contradict each other or never arrive.
struct History {
    rng: fastrand::Rng,
    pool: Pool,
    now: u64,
    flying: Vec<ReservationId>,
    /// The end of the pauses that responses asked for.
    paused_until: u64,
}

impl History {
    fn run(seed: u64) -> Self {
        let mut history = Self {
            rng: fastrand::Rng::with_seed(seed ^ 0x5eed),
            pool: pool(seed),
            now: 0,
            flying: Vec::new(),
            paused_until: 0,
        };
        for _ in 0..40 {
            history.step();
        }
        history
    }

    fn step(&mut self) {
        let longest = if self.rng.u8(0..20) == 0 { 1_200 } else { 15 };
        self.now += self.rng.u64(0..=longest * S);
        if self.rng.bool() {
            self.ask();
        } else if !self.flying.is_empty() {
            let at = self.rng.usize(0..self.flying.len());
            let id = self.flying[at];
            match self.rng.u8(0..4) {
                0 => self
                    .pool
                    .true_up_input(self.now, id, self.rng.u64(0..1 << 26)),
                1 => self.pool.produced(self.now, id, self.rng.u64(0..1 << 26)),
                _ => self.answer(at),
            }
        }
    }

    fn ask(&mut self) {
        let max = [1, 256, 4_096, 64_000][self.rng.usize(0..4)];
        let mut cost = Cost::new(
            self.rng.u64(0..5_000),
            self.rng.u64(0..=u64::from(max).min(500)),
        )
        .with_max_output_tokens(Some(max.into()));
        if self.rng.bool() {
            cost = cost.with_bound(UsageBound::new(205_000, max));
        }
        let ask = PoolRequest::new(cost, self.now);
        match self.pool.enqueue(self.now, ask) {
            Ok(Enqueued::Granted(id)) => self.flying.push(id),
            Ok(Enqueued::Waiting(waiter)) => {
                let mut granted = Vec::new();
                self.now += self.rng.u64(0..60 * S);
                self.pool.poll(self.now, &mut granted);
                self.flying.extend(granted.into_iter().map(|(_, id)| id));
                self.pool.cancel(waiter);
            }
            Err(_) => {}
        }
    }

    fn answer(&mut self, at: usize) {
        let id = self.flying[at];
        let headers = headers(&mut self.rng);
        let rejected = self.rng.u8(0..4) == 0;
        let limits = RateLimits::from_headers(&headers);
        if self.rng.u8(0..4) > 0 {
            let head = ObservedHead::new(&limits, wire::date(&headers)).with_rejected(rejected);
            self.pool.observe(self.now, id, &head);
        }
        if rejected {
            let local = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_341_600);
            let wait = wire::retry_after(&headers, local);
            let pause = self.pool.rate_limited(self.now, id, wait, self.rng.f64());
            let pause = u64::try_from(pause.as_nanos()).unwrap();
            self.paused_until = self.paused_until.max(self.now + pause);
        }
        // Some responses never end.
        if self.rng.u8(0..8) > 0 {
            self.flying.swap_remove(at);
            let settlement = settlement(&mut self.rng);
            self.pool.settle(self.now, id, &settlement);
        }
    }

    fn end_all(&mut self) {
        for id in std::mem::take(&mut self.flying) {
            let settlement = settlement(&mut self.rng);
            self.pool.settle(self.now, id, &settlement);
        }
    }

    /// Returns the number of small requests that the pool admits in this time, from a server that
    /// sends no headers.
    fn flood(&mut self, time: u64) -> u64 {
        let (end, mut admitted) = (self.now + time, 0);
        while self.now < end {
            let (id, _) = small(&mut self.pool, &mut self.now);
            let mut usage = Usage::default();
            (usage.input_tokens, usage.output_tokens) = (Some(1), Some(1));
            self.pool.settle(self.now, id, &Settlement::Used { usage });
            admitted += 1;
            assert!(
                admitted < 100_000,
                "unlimited: {:?}",
                self.pool.snapshot(self.now)
            );
        }
        admitted
    }
}

/// A debt lasts at most five minutes, and the longest level and its margin fill in another one.
#[test]
fn random_histories_of_lies_neither_shut_a_scope_nor_lift_its_limit() {
    let (mut longest, mut most) = (0, 0);
    for seed in 0..histories() {
        let mut history = History::run(seed);
        history.end_all();
        let asked = history.now;
        let (id, wait) = small(&mut history.pool, &mut history.now);
        let latest = history.paused_until.max(asked + MAX_PAUSE + 90 * S);
        assert!(history.now <= latest, "seed {seed}: {} s", wait / S);
        assert!(wait <= HOUR, "seed {seed}: {} s", wait / S);
        longest = longest.max(wait);
        history.pool.settle(history.now, id, &Settlement::NotSent);
        // Odd seeds have a configured limit of 60 requests a minute, which no header lifts.
        if seed % 2 == 1 {
            let admitted = history.flood(120 * S);
            assert!(
                admitted <= 60 + 2 * 60 + 2,
                "seed {seed}: {admitted} in two minutes"
            );
            most = most.max(admitted);
        }
    }
    println!("longest wait {} s, most admitted {most}", longest / S);
    assert!(longest > MAX_PAUSE / 2 && most >= 60, "{longest} {most}");
}

fn settled(limits: &Limits, cost: Cost, claim: u64, times: usize) -> (Pool, u64) {
    let scope = Scope::named("claims");
    let config = LimiterConfig::new();
    let mut pool = Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0);
    let mut usage = Usage::default();
    (usage.input_tokens, usage.output_tokens) = (Some(claim), Some(claim));
    let ids: Vec<_> = (0..times)
        .map(|_| match pool.enqueue(0, PoolRequest::new(cost, 0)) {
            Ok(Enqueued::Granted(id)) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    for id in ids {
        pool.settle(
            0,
            id,
            &Settlement::Used {
                usage: usage.clone(),
            },
        );
    }
    let mut now = 0;
    let (_, wait) = small(&mut pool, &mut now);
    (pool, wait)
}

#[test]
fn claims_of_60_million_tokens_close_a_configured_limit_for_minutes_at_most() {
    let n = |value| NonZeroU64::new(value).unwrap();
    let limits = Limits::new()
        .with_input_tokens_per_minute(n(2_000_000))
        .with_output_tokens_per_minute(n(400_000));
    let cost = Cost::new(30, 100).with_max_output_tokens(Some(1_000));
    let bounded = cost.with_bound(UsageBound::new(200_100, 1_000));
    let (pool, wait) = settled(&limits, bounded, 60_000_000, 1);
    assert_eq!(wait, 0);
    let snapshot = pool.snapshot(0);
    assert_eq!(
        (snapshot.input_ratio, snapshot.mean_output),
        (1.0, None),
        "nothing is learned"
    );
    // 100 bounds are ten minutes of the limit. The debt ends at five.
    for (cost, times) in [(bounded, 100), (cost, 1), (cost, 100)] {
        let (_, wait) = settled(&limits, cost, 60_000_000, times);
        assert!(wait <= MAX_PAUSE + 20 * S, "{} s", wait / S);
    }
}

#[test]
fn usage_within_the_bound_is_charged_and_learned() {
    let limits = Limits::new().with_input_tokens_per_minute(NonZeroU64::new(2_000_000).unwrap());
    let cost = Cost::new(30, 100)
        .with_max_output_tokens(Some(200_000))
        .with_bound(UsageBound::new(200_100, 200_000));
    let (pool, _) = settled(&limits, cost, 200_000, 1);
    let snapshot = pool.snapshot(0);
    let left = snapshot.dimensions[0].available;
    assert!((1_799_000..1_800_000).contains(&left), "{left}");
    assert!(snapshot.mean_output == Some(200_000.0) && snapshot.input_ratio > 1.0);
}
