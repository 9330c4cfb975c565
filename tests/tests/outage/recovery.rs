//! R12: an outage of two minutes at nine tenths of the limit, and the way back.

use std::{num::NonZeroU64, time::Duration};

use tower_claude_circuit_breaker::{BreakerConfig, CircuitBreakerLayer};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident};
use tower_claude_limiter::{Limits, LocalLimiter};

use crate::world::{Call, Fuse, SECOND, load};

const BEGIN: Duration = Duration::from_secs(120);
const END: Duration = Duration::from_secs(240);
const LENGTH: Duration = Duration::from_secs(720);
/// A thousand a minute are allowed, nine hundred are made.
const GAP: Duration = Duration::from_nanos(66_666_667);

struct Seen {
    /// From the end of the outage until 99 of 100 calls are good, in every ten seconds from then
    /// on.
    back_after: Duration,
    limited: usize,
    longest_good: Duration,
}

fn goodput(calls: &[Call], from: Duration, until: Duration) -> f64 {
    let within = calls.iter().filter(|call| (from..until).contains(&call.at));
    let (good, all) = within.fold((0, 0), |(good, all), call| {
        (good + u32::from(call.good), all + 1)
    });
    f64::from(good) / f64::from(all.max(1))
}

async fn recover(fuse: &Fuse) -> Seen {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::requests_only(1_000))
        .time_to_first_token(SECOND)
        .incident(Incident::new(BEGIN, END, Fault::Overloaded))
        .build();
    let limit = NonZeroU64::new(1_000).expect("not 0");
    let limiter = LocalLimiter::new(Limits::new().with_requests_per_minute(limit));
    let calls = load(&fake, fuse, limiter, GAP, LENGTH).await;
    assert!(goodput(&calls, Duration::ZERO, BEGIN - 10 * SECOND) >= 0.99);
    assert!(goodput(&calls, BEGIN + 10 * SECOND, END - 60 * SECOND) <= 0.2);
    let last = (LENGTH - END).as_secs() - 10;
    let bad = (0..last)
        .filter(|second| {
            let from = END + Duration::from_secs(*second);
            goodput(&calls, from, from + 10 * SECOND) < 0.99
        })
        .max();
    let longest = calls.iter().filter(|call| call.good).map(|call| call.took);
    Seen {
        back_after: bad.map_or(Duration::ZERO, |second| Duration::from_secs(second + 1)),
        limited: fake
            .log()
            .iter()
            .filter(|attempt| attempt.status == 429)
            .count(),
        longest_good: longest.max().unwrap_or_default(),
    }
}

fn say(what: &str, seen: &Seen) {
    println!(
        "R12: {what}: 99 % good {:?} after the outage, {} answers 429, the longest good call {:.1?}",
        seen.back_after, seen.limited, seen.longest_good
    );
}

#[tokio::test(start_paused = true)]
async fn service_recovers_soon_after_two_minutes_of_outage() {
    let without = recover(&Fuse::Without).await;
    say("without a breaker", &without);
    assert!(without.back_after <= 60 * SECOND);
    assert_eq!(without.limited, 0);

    // At worst a cool-down of 24 s, two probes and the ramp of 20 s.
    let default = recover(&Fuse::With(CircuitBreakerLayer::new())).await;
    say("with the breaker", &default);
    assert!(default.back_after <= 60 * SECOND);
    assert_eq!(default.limited, 0);

    // The automaton's own cool-downs may be in the third, of 2 min and a fifth, when the outage
    // ends.
    let patient = BreakerConfig::new().with_cool_down(30 * SECOND, 300 * SECOND);
    let patient = recover(&Fuse::new(patient)).await;
    say("with cool-downs of 30 s to 5 min", &patient);
    assert!(patient.back_after <= (144 + 2 + 30) * SECOND);
    assert_eq!(patient.limited, 0);
}
