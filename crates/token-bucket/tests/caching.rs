//! Tests of expected cache reads, which are not charged.

mod common;

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use common::{limits, only, send_ok, server_limits, statuses};
use http::Request;
use tokio::{task::JoinSet, time::Instant};
use tower::Layer;
use tower_claude_core::{Cost, EstimateCost, HeuristicCost, RequestBody, toolkit::UsageListener};
use tower_claude_fake_claude::FakeClaude;
use tower_claude_limiter::{LimiterConfig, LocalLimiter};
use tower_claude_tests::{BASE, post, with};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_claude_wire::Usage;

const PLENTY: u64 = 100_000_000;
/// The tokens of the prefix that all requests share, and of the rest of each.
const PREFIX: u64 = 20_000;
const REST: u64 = 200;
const INPUT_PER_MINUTE: u64 = 120_000;
const MINUTE: u64 = 60;
/// The number of callers and the minutes of a long run.
const LOAD: (u64, u64) = (400, 6);

/// Returns JSON around a text of this many tokens, by the estimate for the model.
fn of_size(tokens: u64, json: impl Fn(&str) -> String) -> String {
    let bytes = tokens as usize * 11 / 4;
    json(&"w".repeat(bytes - json("").len()))
}

/// Returns a question of 200 tokens after a prefix of 20,000, which the server has cached or not.
fn question(cached: bool) -> Request<RequestBody> {
    let system = |text: &str| {
        format!(r#"[{{"type":"text","text":"{text}","cache_control":{{"type":"ephemeral"}}}}]"#)
    };
    let messages = |text: &str| format!(r#"[{{"role":"user","content":"{text}"}}]"#);
    let (system, messages) = (of_size(PREFIX, system), of_size(REST, messages));
    let body = format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":800,"system":{system},"messages":{messages}}}"#
    );
    let (read, written) = if cached { (PREFIX, 0) } else { (0, PREFIX) };
    let request = post(BASE, body);
    let request = with(request, "x-fake-input-tokens", PREFIX + REST);
    let request = with(request, "x-fake-estimate-tokens", REST + written);
    let request = with(request, "x-fake-cache-read-tokens", read);
    let request = with(request, "x-fake-cache-creation-tokens", written);
    with(request, "x-fake-output-tokens", 400)
}

/// Returns the used share of the input limit from the second to the sixth minute, while 400 callers
/// send requests without pause and each response takes 20 seconds.
async fn used(estimate: HeuristicCost, config: LimiterConfig) -> f64 {
    let per_minute = (PLENTY, INPUT_PER_MINUTE, PLENTY);
    let fake = FakeClaude::builder()
        .limits(server_limits(per_minute))
        .tokens_per_second(20.0)
        .build();
    let layer = TokenBucketLayer::over(LocalLimiter::with_config(limits(per_minute), config))
        .with_estimate(estimate)
        .with_max_wait(10 * common::HOUR);
    let service = layer.layer(fake.clone());
    let (callers, minutes) = LOAD;
    let end = Instant::now() + Duration::from_secs(minutes * MINUTE);
    // The first response reports the cached tokens.
    send_ok(&service, question(false)).await;
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let service = service.clone();
        tasks.spawn(async move {
            while Instant::now() < end {
                let answer = send_ok(&service, question(true)).await;
                assert_eq!(answer.status, 200);
            }
        });
    }
    tokio::time::sleep_until(end).await;
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    assert!(
        statuses(&fake)
            .iter()
            .all(|status| *status == 200 || *status == 0)
    );
    assert_eq!(only(&layer.limiter()).in_flight, 0);
    let window = Duration::from_secs(2 * MINUTE)..Duration::from_secs(minutes * MINUTE);
    let charged: u64 = fake.with_log(|log| {
        let within = log.iter().filter(|attempt| window.contains(&attempt.at));
        within.map(|attempt| attempt.charged_input).sum()
    });
    charged as f64 / (INPUT_PER_MINUTE * (minutes - 2)) as f64
}

#[tokio::test(start_paused = true)]
async fn cached_prefix_is_not_charged_to_the_input_limit() {
    let calibrated = LimiterConfig::new();
    let with = used(HeuristicCost::default(), calibrated.clone()).await;
    // The learned ratio falls to a hundredth at once, while full reservations are in flight.
    let unexpected = HeuristicCost::default().without_cache_reads();
    let without = used(unexpected.clone(), calibrated).await;
    let literal = LimiterConfig::new().with_calibrate_input(false);
    let literal = used(unexpected, literal).await;
    println!(
        "used of the input limit: {with:.4} with expected reads taken off, {without:.4} without, \
         and {literal:.4} without a learned ratio"
    );
    assert!((0.99..1.01).contains(&with), "{with}");
    assert!((0.99..1.01).contains(&without), "{without}");
    assert!(literal < 0.85, "{literal}");
}

/// 300 callers at once are estimated at 20,200 tokens each, of a limit of 120,000. After the first
/// response, the waiting requests are estimated again.
#[tokio::test(start_paused = true)]
async fn waiting_requests_are_revised_once_the_prefix_is_cached() {
    let per_minute = (PLENTY, INPUT_PER_MINUTE, PLENTY);
    let fake = FakeClaude::builder()
        .limits(server_limits(per_minute))
        .tokens_per_second(20.0)
        .build();
    let layer = TokenBucketLayer::new(limits(per_minute)).with_max_wait(10 * common::HOUR);
    let service = layer.layer(fake.clone());
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for number in 0..300 {
        callers.spawn(send_ok(&service, question(number > 0)));
    }
    while let Some(answer) = callers.join_next().await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    assert!(statuses(&fake).iter().all(|status| *status == 200));
    let took = start.elapsed();
    // One response of 20 seconds to learn from, and one for all others. Some of these wait for the
    // fifth of the level that is the safety margin for uncertain estimates. At full cost it would
    // take 325 s.
    assert!(took < Duration::from_secs(55), "{took:?}");
}

/// An estimator that counts its pending estimates and its calls.
#[derive(Clone, Debug, Default)]
struct Counting {
    estimate: HeuristicCost,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    held: AtomicUsize,
    most_held: AtomicUsize,
    made: AtomicUsize,
    looked: AtomicUsize,
}

/// A listener that counts its calls.
struct CountingListener {
    learner: Arc<dyn UsageListener>,
    counts: Arc<Counts>,
}

impl EstimateCost for Counting {
    fn estimate(&self, request: &Request<RequestBody>) -> Cost {
        let counts = &self.counts;
        counts.made.fetch_add(1, Ordering::Relaxed);
        let held = counts.held.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most_held.fetch_max(held, Ordering::Relaxed);
        self.estimate.estimate(request)
    }

    fn learner(&self, cost: &Cost) -> Option<Arc<dyn UsageListener>> {
        Some(Arc::new(CountingListener {
            learner: self.estimate.learner(cost)?,
            counts: self.counts.clone(),
        }))
    }
}

impl UsageListener for CountingListener {
    fn learn(&self, cost: &Cost, usage: &Usage, now: Instant) {
        self.counts.held.fetch_sub(1, Ordering::Relaxed);
        self.learner.learn(cost, usage, now);
    }

    fn revise(&self, cost: &Cost, now: Instant) -> Option<Cost> {
        self.counts.looked.fetch_add(1, Ordering::Relaxed);
        self.learner.revise(cost, now)
    }

    fn forget(&self, cost: &Cost) {
        self.counts.held.fetch_sub(1, Ordering::Relaxed);
        self.learner.forget(cost);
    }
}

/// Every poll of a waiting request revises its estimate without reading the request again.
#[tokio::test(start_paused = true)]
async fn waiting_request_without_news_is_estimated_once() {
    let per_minute = (PLENTY, INPUT_PER_MINUTE, PLENTY);
    let fake = FakeClaude::builder()
        .limits(server_limits(per_minute))
        .tokens_per_second(20.0)
        .build();
    let estimate = Counting::default();
    let layer = TokenBucketLayer::new(limits(per_minute)).with_estimate(estimate.clone());
    let service = layer.layer(fake);
    let mut asking: Vec<_> = (0..6)
        .map(|_| Box::pin(send_ok(&service, question(false))))
        .collect();
    for _ in 0..50 {
        // Five fit, the last request waits.
        for call in &mut asking {
            let polled = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        }
    }
    assert_eq!(estimate.counts.made.load(Ordering::Relaxed), 6);
    assert!(estimate.counts.looked.load(Ordering::Relaxed) >= 49);
}

/// Sends requests of one prefix at once, of which the first writes the cache. Returns the counts.
async fn counted(callers: usize) -> Arc<Counts> {
    let per_minute = (PLENTY, INPUT_PER_MINUTE, PLENTY);
    let fake = FakeClaude::builder()
        .limits(server_limits(per_minute))
        .tokens_per_second(20.0)
        .build();
    let estimate = Counting::default();
    let layer = TokenBucketLayer::new(limits(per_minute))
        .with_estimate(estimate.clone())
        .with_max_wait(10 * common::HOUR);
    let service = layer.layer(fake.clone());
    let mut asking = JoinSet::new();
    for number in 0..callers {
        asking.spawn(send_ok(&service, question(number > 0)));
    }
    while let Some(answer) = asking.join_next().await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    estimate.counts
}

#[tokio::test(start_paused = true)]
async fn waiting_request_with_stale_estimate_is_estimated_again_after_forgetting_it() {
    let counts = counted(300).await;
    let made = counts.made.load(Ordering::Relaxed);
    // Each request that waited when the prefix was written, once.
    assert!((301..=600).contains(&made), "{made}");
    assert_eq!(counts.most_held.load(Ordering::Relaxed), 300);
    assert_eq!(counts.held.load(Ordering::Relaxed), 0);
}
