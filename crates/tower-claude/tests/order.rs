//! The order of the recommended stack.

mod common;

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use common::{
    EventLog, HAIKU, HOUR, OPUS, SECOND, SONNET, assert_idle, cacheable, count, event_log, request,
    send,
};
use tokio::time::Instant;
use tower_claude::{
    Kind, Limiter, Limits, Recommended, RetryLayer, TokenBucketLayer,
    circuit_breaker::BreakerConfig,
    core::{Dimension, Scope},
    recommended,
};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits, HeaderFamily, Incident};
use tower_layer::Layer;

const ADMITTED: &str = "token-bucket admitted";
const HEADROOM: &str = "header-budget headroom";

fn quiet() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build()
}

/// Returns a server on which only Sonnet fails, for an hour.
fn sonnet_out(fault: Fault) -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .incident(Incident::new(Duration::ZERO, HOUR, fault).with_group("sonnet-5.5"))
        .build()
}

/// Returns a server without headers of limits, so that limits set by hand stay.
fn silent() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .header_family(HeaderFamily::None)
        .build()
}

fn observed(layer: Recommended) -> (Recommended, EventLog) {
    let told = event_log();
    (layer.with_observer(told.clone()), told)
}

fn rpm(limit: u64) -> Limits {
    Limits::new().with_requests_per_minute(NonZeroU64::new(limit).expect("not 0"))
}

/// Returns the scope of Sonnet's circuit.
fn circuit() -> Scope {
    Scope::of_model(&request(SONNET, false))
}

/// Returns the statuses and models of all attempts.
fn asked(fake: &FakeClaude) -> Vec<(u16, String)> {
    let log = fake.log();
    let one = |attempt: &tower_claude_fake_claude::Attempt| {
        (attempt.status, attempt.model.as_ref().to_owned())
    };
    log.iter().map(one).collect()
}

#[tokio::test(start_paused = true)]
async fn cache_hit_reaches_no_inner_layer() {
    for stream in [false, true] {
        let fake = quiet();
        let (layer, told) = observed(recommended().with_limits(rpm(1)).with_fallback([HAIKU]));
        let claude = layer.layer(fake.clone());
        let first = send(&claude, cacheable(stream)).await.expect("an answer");
        assert!(first.is_complete(stream));
        assert_eq!(count(&told.take(), ADMITTED), 1);
        let limiter = layer.bucket().handle();
        // Everything inside would refuse, or wait: the circuit is open, the only request of the
        // minute is spent.
        layer.breaker().handle().force_open(&circuit());
        let inside = || {
            (
                layer.breaker().handle().snapshot(),
                layer.fallback().handle().snapshot(),
                limiter.snapshot(),
                layer.retry().handle().snapshot(),
            )
        };
        let (before, start) = (inside(), Instant::now());
        for _ in 0..20 {
            let hit = send(&claude, cacheable(stream)).await.expect("an answer");
            assert_eq!(hit.text(), first.text());
            assert_eq!(hit.header("x-tower-claude-cache"), "hit");
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(inside(), before);
        assert_eq!(told.take(), vec!["cache hit"; 20]);
        assert_eq!(fake.log_len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn fallback_waits_for_two_retries() {
    for stream in [false, true] {
        let fake = sonnet_out(Fault::ServerError);
        let (layer, told) = observed(recommended().with_fallback([HAIKU]));
        let seen = send(&layer.layer(fake.clone()), request(SONNET, stream)).await;
        let seen = seen.expect("an answer");
        assert!(seen.is_complete(stream));
        assert_eq!(seen.header("x-tower-claude-served-model"), HAIKU);
        let mut expected = vec![(500, SONNET.to_owned()); 3];
        expected.push((200, HAIKU.to_owned()));
        assert_eq!(asked(&fake), expected);
        let told = told.take();
        let place = |what: &str| told.iter().position(|line| line == what);
        let fell_back = format!("fallback-model to {HAIKU}");
        let fell_back = place(&fell_back).expect("it fell back");
        assert!(place("retry gave up: stand_in").expect("it gave up") < fell_back);
        assert_eq!(count(&told[..fell_back], "retry retry server_error"), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn fallback_does_not_wait_for_an_open_circuit() {
    let fake = quiet();
    let (layer, told) = observed(recommended().with_fallback([HAIKU]));
    let claude = layer.layer(fake.clone());
    layer.breaker().handle().force_open(&circuit());
    let start = Instant::now();
    for _ in 0..20 {
        let seen = send(&claude, request(SONNET, false))
            .await
            .expect("an answer");
        assert_eq!(seen.header("x-tower-claude-served-model"), HAIKU);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(asked(&fake), vec![(200, HAIKU.to_owned()); 20]);
    let retries = layer.retry().handle().snapshot();
    assert_eq!((retries.retries, retries.gave_up), (0, 0));
    assert_eq!(count(&told.take(), "circuit-breaker refused"), 20);
}

#[tokio::test(start_paused = true)]
async fn fallback_does_not_wait_for_a_long_queue() {
    let fake = silent();
    // One request a minute of Sonnet, plenty of the others.
    let limits = Limits::new().with_group("sonnet-5.5", rpm(1));
    let bucket = TokenBucketLayer::new(limits).with_max_wait(SECOND);
    let layer = recommended().with_bucket(bucket).with_fallback([HAIKU]);
    let (layer, told) = observed(layer);
    let claude = layer.layer(fake.clone());
    send(&claude, request(SONNET, false))
        .await
        .expect("an answer");
    let start = Instant::now();
    let seen = send(&claude, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(seen.header("x-tower-claude-served-model"), HAIKU);
    assert_eq!(
        asked(&fake),
        [(200, SONNET.to_owned()), (200, HAIKU.to_owned())]
    );
    let told = told.take();
    assert_eq!(count(&told, "token-bucket refused"), 1);
    assert!(told.iter().all(|line| !line.starts_with("retry")));
    // A local rejection is no failure of the server.
    assert_eq!(layer.breaker().handle().snapshot().opened, 0);
    assert_idle(&layer.bucket().handle(), "a refusal");
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_counted_by_the_breaker_and_charged_by_the_bucket() {
    for stream in [false, true] {
        let fake = sonnet_out(Fault::Overloaded);
        let (layer, told) = observed(recommended());
        let claude = layer.layer(fake.clone());
        let seen = send(&claude, request(SONNET, stream))
            .await
            .expect("an answer");
        assert_eq!((seen.status, seen.rejected()), (529, None));
        let told = told.take();
        assert_eq!(fake.log_len(), 5);
        assert_eq!(count(&told, ADMITTED), 5);
        // Five failures open a circuit: one call's attempts are enough.
        assert_eq!(layer.breaker().handle().snapshot().opened, 1);
        assert_eq!(count(&told, "circuit-breaker opened"), 1);
    }
}

/// A bucket of three, refilled so slowly that the fourth attempt must wait for its token.
#[tokio::test(start_paused = true)]
async fn retry_waits_for_its_tokens() {
    let fake = silent();
    fake.inject_times(Fault::ServerError, 3);
    let layer = recommended().with_limits(rpm(3));
    let claude = layer.layer(fake.clone());
    let seen = send(&claude, request(SONNET, false))
        .await
        .expect("an answer");
    assert!(seen.is_complete(false));
    let log = fake.log();
    assert_eq!(log.len(), 4);
    let limiter = layer.bucket().handle();
    let requests = limiter.snapshot()[0]
        .dimension(Dimension::Requests)
        .expect("limited")
        .available;
    // Four were paid from three and what a minute of three refills.
    let refilled = log[3].at.as_secs_f64() * 3.0 / 60.0;
    assert!(requests as f64 <= refilled, "{requests}, {refilled}");
    assert!(requests < 1, "{requests}");
    assert_idle(&limiter, "four attempts");
}

#[tokio::test(start_paused = true)]
async fn open_circuit_spends_no_tokens_and_waits_for_none() {
    let fake = silent();
    let layer = recommended().with_limits(rpm(1));
    let claude = layer.layer(fake.clone());
    send(&claude, request(SONNET, false))
        .await
        .expect("an answer");
    layer.breaker().handle().force_open(&circuit());
    let (before, start) = (layer.bucket().handle().snapshot(), Instant::now());
    let seen = send(&claude, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(
        seen.rejected()
            .map(|rejected| (rejected.by, rejected.class().kind)),
        Some(("circuit-breaker", Kind::Overloaded))
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(layer.bucket().handle().snapshot(), before);
    assert_eq!(fake.log_len(), 1);
}

#[tokio::test(start_paused = true)]
async fn budget_records_every_response_and_no_rejection() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::requests_only(1_000))
        .build();
    let (layer, told) = observed(recommended().with_limits(rpm(1_000)));
    let claude = layer.layer(fake.clone());
    let retry_after = 2 * SECOND;
    for fault in [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::RateLimited { retry_after },
        Fault::ErrorBeforeContent,
    ] {
        fake.inject(fault);
        let seen = send(&claude, request(SONNET, true))
            .await
            .expect("an answer");
        assert!(seen.is_complete(true));
    }
    assert_eq!(fake.log_len(), 8);
    assert_eq!(count(&told.take(), HEADROOM), 8);
    // A connection that breaks is no response.
    fake.inject(Fault::Reset);
    send(&claude, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(count(&told.take(), HEADROOM), 1);
    // Nor is a refusal, by the breaker or by the bucket.
    layer.breaker().handle().force_open(&circuit());
    send(&claude, request(SONNET, false))
        .await
        .expect("a refusal");
    let told = told.take();
    assert_eq!(count(&told, "circuit-breaker refused"), 1, "{told:?}");
    assert_eq!(count(&told, HEADROOM), 0, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn response_of_a_stand_in_is_not_stored() {
    for stream in [false, true] {
        let outage = Incident::new(Duration::ZERO, 60 * SECOND, Fault::Overloaded);
        let fake = FakeClaude::builder()
            .limits(GroupLimits::unlimited())
            .incident(outage.with_group("sonnet-5.5"))
            .build();
        // Circuits that forget soon, so that the model is asked again when it is back.
        let breaker = BreakerConfig::new()
            .with_cool_down(SECOND, SECOND)
            .with_ramp(None);
        let layer = recommended()
            .with_fallback([HAIKU])
            .with_breaker(tower_claude::CircuitBreakerLayer::new().with_config(breaker));
        let (layer, told) = observed(layer);
        let claude = layer.layer(fake.clone());
        for _ in 0..4 {
            let seen = send(&claude, cacheable(stream)).await.expect("an answer");
            assert_eq!(seen.header("x-tower-claude-served-model"), HAIKU);
            assert_eq!(seen.header("x-tower-claude-cache"), "miss");
        }
        assert_eq!(layer.cache().handle().snapshot().stored, 0);
        assert_eq!(count(&told.take(), "cache not_stored"), 4);
        tokio::time::sleep(300 * SECOND).await;
        let own = send(&claude, cacheable(stream)).await.expect("an answer");
        assert_eq!(own.header("x-tower-claude-served-model"), "");
        assert_eq!(own.header("x-tower-claude-cache"), "miss");
        assert!(own.is_complete(stream) && own.contains(SONNET));
        let hit = send(&claude, cacheable(stream)).await.expect("an answer");
        assert_eq!(hit.header("x-tower-claude-cache"), "hit");
        assert_eq!(hit.text(), own.text());
    }
}

/// The cache does not store rejections by the layers.
#[tokio::test(start_paused = true)]
async fn rejection_is_not_stored() {
    let fake = quiet();
    let layer = recommended();
    let claude = layer.layer(fake.clone());
    layer.breaker().handle().force_open(&circuit());
    let seen = send(&claude, cacheable(false)).await.expect("a refusal");
    assert_eq!(seen.status, 529);
    assert_eq!(layer.cache().handle().snapshot().stored, 0);
    layer.breaker().handle().resume_automatic(&circuit());
    let seen = send(&claude, cacheable(false)).await.expect("an answer");
    assert!(seen.is_complete(false));
    assert_eq!(seen.header("x-tower-claude-cache"), "miss");
}

/// Five attempts, of which three are for the first model, and at least one for each further model.
#[tokio::test(start_paused = true)]
async fn attempts_of_fallback_and_retry_do_not_multiply() {
    for stream in [false, true] {
        let fake = FakeClaude::builder()
            .limits(GroupLimits::unlimited())
            .incident(Incident::new(Duration::ZERO, HOUR, Fault::ServerError))
            .build();
        let layer = recommended().with_fallback([OPUS, HAIKU]);
        let claude = layer.layer(fake.clone());
        send(&claude, request(SONNET, stream))
            .await
            .expect("an error");
        let expected = [SONNET, SONNET, SONNET, OPUS, OPUS, HAIKU];
        assert_eq!(asked(&fake), expected.map(|model| (500, model.to_owned())));
    }
}

/// The call record counts the attempts, so that an outer retry layer does not start anew.
#[tokio::test(start_paused = true)]
async fn outer_retry_layer_adds_no_attempts() {
    let fake = sonnet_out(Fault::ServerError);
    let twenty = NonZeroU32::new(20).expect("not 0");
    let most = BreakerConfig::new().with_failures(twenty, HOUR);
    let layer =
        recommended().with_breaker(tower_claude::CircuitBreakerLayer::new().with_config(most));
    let outside = RetryLayer::new();
    let claude = outside.layer(layer.layer(fake.clone()));
    let mut request = request(SONNET, false);
    let headers = request.headers_mut();
    headers.insert("x-stainless-retry-count", "0".parse().expect("a value"));
    let seen = send(&claude, request).await.expect("an error");
    assert_eq!(seen.status, 500);
    assert_eq!(fake.log_len(), 5);
    let counts: Vec<_> = fake.log().iter().map(|a| a.retry_count).collect();
    assert_eq!(counts, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
}
