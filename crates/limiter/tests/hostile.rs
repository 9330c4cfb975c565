//! Hostile headers and usage: nothing panics, and a small request waits no longer than the longest
//! pause, or than a `retry-after` of at most an hour.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tower_claude_core::{Cost, RejectReason, Rejection, Scope};
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
