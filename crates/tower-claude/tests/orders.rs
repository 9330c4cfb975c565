//! The cost of other orders of the same layers.
//!
//! `cargo test -p tower-claude --test orders -- --nocapture` prints a table.

mod common;

use std::{num::NonZeroU64, time::Duration};

use bytes::Bytes;
use common::{SECOND, SONNET, assert_idle, request, send};
use http::{Request, Response};
use http_body::Body;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tower_claude::{
    CacheLayer, CircuitBreakerLayer, FallbackModelLayer, HeaderBudgetLayer, Limits, LocalLimiter,
    RequestBody, RetryLayer, TokenBucketLayer, recommended,
};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident};
use tower_layer::Layer;
use tower_service::Service;

/// Trouble begins when the stack has found its pace.
const BEGIN: Duration = Duration::from_secs(60);
/// The length and the number of runs. A debug build takes ten times as long for each call.
const LENGTH: Duration = Duration::from_secs(if cfg!(debug_assertions) { 200 } else { 300 });
/// The server's limit, of which its bucket holds five seconds. A tenth more is asked for, so that a
/// queue grows.
const PER_MINUTE: u64 = 200;
const BURST: Duration = Duration::from_secs(5);
const GAP: Duration = Duration::from_millis(270);
const SEEDS: u64 = if cfg!(debug_assertions) { 1 } else { 2 };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Recommended,
    BreakerInsideBucket,
    BucketInsideBudget,
}

const ORDERS: [(Order, &str); 3] = [
    (Order::Recommended, "as recommended"),
    (Order::BreakerInsideBucket, "breaker inside the bucket"),
    (Order::BucketInsideBudget, "bucket inside the budget"),
];

/// The incidents: name, fault, length and share.
fn incidents() -> [(&'static str, Fault, Duration, f64); 5] {
    let retry_after = 20 * SECOND;
    [
        ("529 for 60 s", Fault::Overloaded, 60 * SECOND, 1.0),
        (
            "429, retry-after 20 s",
            Fault::RateLimited { retry_after },
            SECOND,
            1.0,
        ),
        (
            "heads 30 s late, 60 s",
            Fault::SlowHead(30 * SECOND),
            60 * SECOND,
            1.0,
        ),
        ("spend cap for 60 s", Fault::SpendCap, 60 * SECOND, 1.0),
        ("half reset, 60 s", Fault::Reset, 60 * SECOND, 0.5),
    ]
}

/// One call as its caller saw it.
#[derive(Clone, Copy, Debug)]
struct Call {
    at: Duration,
    took: Duration,
    good: bool,
}

/// The figures of an order over all seeds.
#[derive(Debug, Default)]
struct Figures {
    requests: usize,
    attempts: usize,
    limited: usize,
    errors: usize,
    /// The waits of the calls during the incident, sorted.
    waits: Vec<Duration>,
    /// The longest, of all seeds.
    back_after: Duration,
}

impl Figures {
    fn attempts_per_request(&self) -> f64 {
        self.attempts as f64 / self.requests as f64
    }

    fn wait(&self, share: f64) -> Duration {
        let place = (self.waits.len() - 1) as f64 * share;
        self.waits[place.round() as usize]
    }
}

async fn drive<S, R>(fake: &FakeClaude, service: &S) -> Vec<Call>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Send,
    R: Body<Data = Bytes, Error: Send> + Unpin + Send,
{
    let start = Instant::now();
    let mut calls = JoinSet::new();
    let mut number = 0_u32;
    while GAP * number < LENGTH {
        sleep_until(start + GAP * number).await;
        let (service, fake) = (service.clone(), fake.clone());
        let stream = number.is_multiple_of(2);
        calls.spawn(async move {
            let at = fake.elapsed();
            let seen = send(&service, request(SONNET, stream)).await;
            Call {
                at,
                took: fake.elapsed() - at,
                good: seen.is_ok_and(|seen| seen.is_complete(stream)),
            }
        });
        number += 1;
    }
    let mut calls = calls.join_all().await;
    calls.sort_by_key(|call| call.at);
    calls
}

/// Seconds from `end` until no ten seconds' calls have an error among them any more.
fn back_after(calls: &[Call], end: Duration) -> Duration {
    let last = calls.iter().filter(|call| !call.good && call.at >= end);
    last.map(|call| call.at - end).max().unwrap_or_default()
}

async fn run(order: Order, seed: u64, incident: &Incident, figures: &mut Figures) {
    // Delays are drawn from this thread's generator.
    fastrand::seed(seed);
    let fake = FakeClaude::builder()
        .limits(GroupLimits::requests_only(PER_MINUTE).with_burst(BURST))
        .time_to_first_token(SECOND)
        .seed(seed)
        .incident(incident.clone())
        .build();
    let limits = NonZeroU64::new(PER_MINUTE).expect("not 0");
    let limiter = LocalLimiter::new(
        Limits::new()
            .with_requests_per_minute(limits)
            .with_burst(BURST),
    );
    let bucket = TokenBucketLayer::over(limiter.clone());
    let budget = HeaderBudgetLayer::over(limiter.clone());
    let breaker = CircuitBreakerLayer::new();
    let (cache, retry) = (CacheLayer::default(), RetryLayer::new());
    let fallback = FallbackModelLayer::new::<&str>([]);
    let calls = match order {
        Order::Recommended => {
            let layer = recommended().with_limiter(limiter.clone());
            drive(&fake, &layer.layer(fake.clone())).await
        }
        Order::BreakerInsideBucket => {
            let inside = bucket.layer(breaker.layer(budget.layer(fake.clone())));
            drive(&fake, &cache.layer(fallback.layer(retry.layer(inside)))).await
        }
        Order::BucketInsideBudget => {
            let inside = breaker.layer(budget.layer(bucket.layer(fake.clone())));
            drive(&fake, &cache.layer(fallback.layer(retry.layer(inside)))).await
        }
    };
    assert_eq!(fake.in_flight(), 0);
    assert_idle(&limiter, "the last call");
    let log = fake.log();
    figures.requests += calls.len();
    figures.attempts += log.len();
    figures.limited += log.iter().filter(|attempt| attempt.status == 429).count();
    figures.errors += calls.iter().filter(|call| !call.good).count();
    let during = calls
        .iter()
        .filter(|call| (incident.from..incident.until).contains(&call.at));
    figures.waits.extend(during.map(|call| call.took));
    let back = back_after(&calls, incident.until);
    figures.back_after = figures.back_after.max(back);
}

#[tokio::test(start_paused = true)]
async fn orders_recover_from_an_overload_within_a_minute() {
    println!(
        "| incident | order | attempts per request | 429s | errors seen | p50 wait | p99 wait | good again after |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for (what, fault, length, share) in incidents() {
        let incident = Incident::new(BEGIN, BEGIN + length, fault).with_probability(share);
        for (order, name) in ORDERS {
            let mut figures = Figures::default();
            for seed in 0..SEEDS {
                run(order, seed, &incident, &mut figures).await;
            }
            figures.waits.sort_unstable();
            println!(
                "| {what} | {name} | {:.3} | {} | {} | {:.1} s | {:.1} s | {:.0} s |",
                figures.attempts_per_request(),
                figures.limited,
                figures.errors,
                figures.wait(0.5).as_secs_f64(),
                figures.wait(0.99).as_secs_f64(),
                figures.back_after.as_secs_f64(),
            );
            // What the orders cost is for reading; that each comes back is not.
            if what.starts_with("529") {
                assert!(figures.back_after <= 60 * SECOND, "{what}, {name}");
            }
        }
    }
}
