//! Calls dropped at any point of the whole stack.

mod common;

use std::{num::NonZeroU64, time::Duration};

use common::{HAIKU, HOUR, OPUS, SECOND, SONNET, assert_idle};
use http::Request;
use http_body_util::BodyExt;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::ServiceExt;
use tower_claude::{
    CircuitBreakerLayer, Limits, RequestBody, Tenant, TokenBucketLayer, cache::Cacheable,
    circuit_breaker::BreakerConfig, recommended,
};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, Incident};
use tower_layer::Layer;

const CALLS: u64 = 1_000;

/// The cache may answer one call in two. Several of these calls are equal.
fn request(number: u64) -> Request<RequestBody> {
    let model = [SONNET, OPUS, HAIKU][usize::try_from(number % 3).expect("small")];
    let mut request = common::request(model, number.is_multiple_of(2));
    if number % 4 < 2 {
        request.extensions_mut().insert(Cacheable::new());
        let tenant = Tenant(format!("tenant-{}", number / 240).into());
        request.extensions_mut().insert(tenant);
    }
    request
}

async fn storm(seed: u64) {
    fastrand::seed(seed);
    let trouble = |fault, share| Incident::new(Duration::ZERO, HOUR, fault).with_probability(share);
    let retry_after = SECOND;
    let fake = FakeClaude::builder()
        .seed(seed)
        .limits(
            GroupLimits::new()
                .with_requests_per_minute(1_200)
                .with_concurrency(100),
        )
        .time_to_first_token(SECOND)
        .tokens_per_second(20.0)
        .output_tokens(60)
        .incident(
            Incident::new(6 * SECOND, 12 * SECOND, Fault::Overloaded).with_group("sonnet-5.5"),
        )
        .incident(Incident::new(30 * SECOND, 33 * SECOND, Fault::Overloaded))
        .incident(trouble(Fault::Overloaded, 0.05))
        .incident(trouble(Fault::RateLimited { retry_after }, 0.02))
        .incident(trouble(Fault::Reset, 0.03))
        .incident(trouble(Fault::ErrorBeforeContent, 0.03))
        .incident(trouble(Fault::SlowHead(20 * SECOND), 0.05))
        .incident(trouble(Fault::Cut { after_tokens: 3 }, 0.03))
        .incident(trouble(Fault::Truncated { after_tokens: 9 }, 0.03))
        .build();
    let limits = Limits::new()
        .with_requests_per_minute(NonZeroU64::new(1_200).expect("a limit"))
        .with_burst(10 * SECOND);
    // Circuits that open and probe often.
    let breaker = BreakerConfig::new()
        .with_ramp(Some(SECOND))
        .with_cool_down(SECOND, 2 * SECOND);
    let layer = recommended()
        .with_bucket(TokenBucketLayer::new(limits).with_max_wait(HOUR))
        .with_breaker(CircuitBreakerLayer::new().with_config(breaker))
        .with_fallback([OPUS, HAIKU]);
    let claude = layer.layer(fake.clone());
    let mut tasks = JoinSet::new();
    for number in 0..CALLS {
        // Callers of another service of the layer take over from a leader that is cancelled.
        let service = match number % 3 {
            0 => layer.layer(fake.clone()),
            _ => claude.clone(),
        };
        let mut rng = fastrand::Rng::with_seed(seed ^ (number << 8));
        tasks.spawn(async move {
            sleep(Duration::from_millis(number * 60)).await;
            let patience = Duration::from_millis(rng.u64(0..4_000) * [1, 1, 15][rng.usize(0..3)]);
            let frames = rng.u32(0..40);
            let call = async {
                let Ok(response) = service.oneshot(request(number)).await else {
                    return false;
                };
                let mut body = response.into_body();
                for _ in 0..frames {
                    if body.frame().await.is_none() {
                        return true;
                    }
                }
                false
            };
            timeout(patience, call).await
        });
    }
    let ends = tasks.join_all().await;
    let left = ends.iter().filter(|end| end.is_err()).count();
    let read = ends.iter().filter(|end| matches!(end, Ok(true))).count();
    assert!(
        left > 200 && read > 200,
        "{left} left, {read} read to the end"
    );

    assert_eq!(fake.in_flight(), 0, "seed {seed}");
    assert_idle(&layer.bucket().handle(), "a storm");
    let breaker = layer.breaker().handle().snapshot();
    for circuit in &breaker.circuits {
        assert_eq!(circuit.breaker.probes, 0, "seed {seed}: {circuit:?}");
    }
    let fallback = layer.fallback().handle().snapshot();
    let models = fallback.targets.iter().filter_map(|t| t.cool_down.as_ref());
    for cool_down in models.chain(fallback.pools.iter().map(|pool| &pool.cool_down)) {
        assert!(!cool_down.is_probed, "seed {seed}: {cool_down:?}");
    }
    let cache = layer.cache().handle().snapshot();
    assert_eq!(cache.in_flight, 0, "seed {seed}");
    // The storm met everything it was to meet.
    assert!(breaker.opened > 0 && breaker.probes > 0, "{breaker:?}");
    assert!(cache.hits > 0 && cache.joined > 0, "{cache:?}");
    assert!(cache.takeovers > 0, "{cache:?}");
    assert!(layer.retry().handle().snapshot().retries > 0);
    assert!(fallback.targets.iter().any(|target| target.served > 0));
    assert!(fake.log().iter().any(|attempt| attempt.client_gone));
    println!(
        "seed {seed}: {left} left, {read} read to the end; {} attempts; circuits opened {}, probes {}; cache {cache:?}",
        fake.log_len(),
        breaker.opened,
        breaker.probes
    );

    // Calls after the storm are served by every model.
    sleep(2 * HOUR).await;
    for model in [SONNET, OPUS, HAIKU] {
        for _ in 0..8 {
            let seen = common::send(&claude, common::request(model, true)).await;
            let seen = seen.expect("an answer");
            assert!(seen.is_complete(true), "seed {seed}, {model}: {seen:?}");
            assert_eq!(
                seen.header("x-tower-claude-served-model"),
                "",
                "seed {seed}"
            );
            sleep(SECOND).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn storm_of_dropped_calls_leaves_nothing() {
    for seed in [1, 2, 3, 4] {
        storm(seed).await;
    }
}
