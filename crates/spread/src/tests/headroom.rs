use std::{num::NonZeroU32, time::Duration};

use http::HeaderMap;
use proptest::prelude::*;
use tokio::time::Instant;
use tower_claude_wire::RateLimits;

use crate::{
    headroom::{Charge, Headroom},
    options::TargetLimits,
};

const SECOND: Duration = Duration::from_secs(1);

fn charge(tokens: f64) -> Charge {
    Charge {
        requests: 1.0,
        input: tokens,
        output: 0.0,
        all: tokens,
    }
}

fn limited(tokens: u32) -> TargetLimits {
    TargetLimits::learned().with_all_tokens(NonZeroU32::new(tokens).expect("not zero"))
}

#[test]
fn unknown_limits_cost_no_wait() {
    let now = Instant::now();
    let mut headroom = Headroom::new(&TargetLimits::learned(), now);
    for _ in 0..100 {
        headroom.take(&charge(1e9), now);
    }
    assert_eq!(headroom.wait(&charge(1e9), now), Duration::ZERO);
}

#[test]
fn configured_limit_costs_the_time_of_its_refill() {
    let now = Instant::now();
    let mut headroom = Headroom::new(&limited(60_000), now);
    headroom.take(&charge(60_000.0), now);
    assert_eq!(headroom.wait(&charge(10_000.0), now), 10 * SECOND);
    // More than the limit fits when the bucket is full.
    assert_eq!(headroom.wait(&charge(1e12), now), 60 * SECOND);
    assert_eq!(
        headroom.wait(&charge(10_000.0), now + 10 * SECOND),
        Duration::ZERO
    );
    // What was held and not used comes back.
    headroom.settle(&charge(60_000.0), &charge(5_000.0), now);
    assert_eq!(headroom.wait(&charge(10_000.0), now), Duration::ZERO);
}

#[test]
fn limit_is_learned_from_the_use_before_a_429() {
    let now = Instant::now();
    let mut headroom = Headroom::new(&TargetLimits::learned(), now);
    for second in 0..10 {
        let now = now + second * SECOND;
        headroom.take(&charge(10_000.0), now);
        headroom.settle(&charge(10_000.0), &charge(10_000.0), now);
    }
    let now = now + 10 * SECOND;
    headroom.on_rate_limited(now);
    assert_eq!(headroom.learned_limit(now), Some(85_000.0));
    assert!(headroom.wait(&charge(8_500.0), now) > 5 * SECOND);
    assert_eq!(
        headroom.wait(&charge(8_500.0), now + 7 * SECOND),
        Duration::ZERO
    );
}

#[test]
fn learned_limit_never_falls_below_half_at_once() {
    let now = Instant::now();
    let mut headroom = Headroom::new(&TargetLimits::learned(), now);
    headroom.take(&charge(100_000.0), now);
    headroom.on_rate_limited(now);
    let before = headroom.learned_limit(now).expect("learned");
    // Nothing was used in the last minute.
    let now = now + 120 * SECOND;
    headroom.on_rate_limited(now);
    assert_eq!(headroom.learned_limit(now), Some(before / 2.0));
}

#[test]
fn learned_limit_grows_while_it_is_used() {
    let start = Instant::now();
    let mut headroom = Headroom::new(&TargetLimits::learned(), start);
    headroom.take(&charge(60_000.0), start);
    headroom.on_rate_limited(start);
    let before = headroom.learned_limit(start).expect("learned");
    let mut now = start;
    for _ in 0..120 {
        now += SECOND;
        headroom.take(&charge(700.0), now);
        headroom.settle(&charge(700.0), &charge(700.0), now);
    }
    let after = headroom.learned_limit(now).expect("learned");
    assert!(
        after > before * 1.01 && after < before * 1.05,
        "{before} {after}"
    );
}

#[test]
fn use_beyond_a_learned_limit_replaces_it() {
    // The first request of a process is rejected, because other processes have used the limit.
    let start = Instant::now();
    let mut headroom = Headroom::new(&TargetLimits::learned(), start);
    headroom.take(&charge(20_000.0), start);
    headroom.settle(&charge(20_000.0), &charge(0.0), start);
    headroom.on_rate_limited(start);
    assert_eq!(headroom.learned_limit(start), Some(1_000.0));
    let serve = |headroom: &mut Headroom, now| {
        headroom.take(&charge(20_000.0), now);
        headroom.settle(&charge(20_000.0), &charge(20_000.0), now);
    };
    // This may be the use that the 429 has cut.
    serve(&mut headroom, start + 30 * SECOND);
    let grown = headroom.learned_limit(start + 30 * SECOND);
    assert!(grown <= Some(1_020.0), "{grown:?}");
    serve(&mut headroom, start + 65 * SECOND);
    let learned = headroom.learned_limit(start + 65 * SECOND);
    assert!(learned >= Some(40_000.0), "{learned:?}");
    // Without further use it stays.
    let now = start + 200 * SECOND;
    headroom.settle(&charge(0.0), &charge(0.0), now);
    assert_eq!(headroom.learned_limit(now), learned);
}

#[test]
fn learned_limit_is_forgotten_after_a_quarter_of_an_hour_without_a_429() {
    let now = Instant::now();
    let mut headroom = Headroom::new(&TargetLimits::learned(), now);
    headroom.take(&charge(60_000.0), now);
    headroom.on_rate_limited(now);
    assert!(headroom.learned_limit(now + 899 * SECOND).is_some());
    let now = now + 900 * SECOND;
    assert_eq!(headroom.learned_limit(now), None);
    assert_eq!(headroom.wait(&charge(1e9), now), Duration::ZERO);
}

#[test]
fn headers_replace_what_was_learned() {
    let now = Instant::now();
    let mut headroom = Headroom::new(&TargetLimits::learned(), now);
    headroom.take(&charge(60_000.0), now);
    headroom.on_rate_limited(now);
    let mut headers = HeaderMap::new();
    let mut set = |name, value| headers.insert(name, http::HeaderValue::from_static(value));
    set("anthropic-ratelimit-input-tokens-limit", "60000");
    set("anthropic-ratelimit-input-tokens-remaining", "30000");
    headroom.on_limits(&RateLimits::from_headers(&headers), false, now);
    assert_eq!(headroom.learned_limit(now), None);
    assert_eq!(headroom.wait(&charge(30_000.0), now), Duration::ZERO);
    assert_eq!(headroom.wait(&charge(40_000.0), now), 10 * SECOND);
}

proptest! {
    /// Whatever happens, the wait is finite and at most the time of a full refill and the debt.
    #[test]
    fn wait_is_bounded(
        limit in 1_u32..10_000_000,
        steps in prop::collection::vec((0_u8..4, 0.0_f64..1e9, 0_u64..100_000), 1..60),
    ) {
        let mut now = Instant::now();
        let mut headroom = Headroom::new(&limited(limit), now);
        for (kind, tokens, millis) in steps {
            match kind {
                0 => headroom.take(&charge(tokens), now),
                1 => headroom.settle(&charge(tokens), &charge(0.0), now),
                2 => headroom.settle(&charge(0.0), &charge(tokens), now),
                _ => headroom.on_rate_limited(now),
            }
            let wait = headroom.wait(&charge(tokens), now);
            prop_assert!(wait <= Duration::from_secs(3_700), "{wait:?}");
            now += Duration::from_millis(millis);
            let later = headroom.wait(&charge(tokens), now);
            prop_assert!(later <= wait, "time must not lengthen a wait");
        }
    }
}
