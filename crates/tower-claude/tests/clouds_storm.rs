//! Calls over several clouds that fail in different ways, dropped at any point.

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
    CircuitBreakerLayer, Limits, RequestBody, SpreadLayer, TokenBucketLayer,
    circuit_breaker::BreakerConfig,
    cloud::{Bearer, CloudLayer, Issued},
    recommended,
    wire::cloud::Target,
};
use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeHosts, Fault, GroupLimits, Incident};
use tower_claude_tests::{post, send_ok};
use tower_layer::Layer;

const CALLS: u64 = 600;
const MODELS: [&str; 3] = [SONNET, OPUS, HAIKU];

/// Returns the request of a conversation that is not equal to another one.
fn request(number: u64, stream: bool) -> Request<RequestBody> {
    let model = MODELS[usize::try_from(number % 3).expect("small")];
    let body = format!(
        r#"{{"model":"{model}","max_tokens":64,"stream":{stream},"messages":[{{"role":"user","content":"Question {number}"}}]}}"#
    );
    post("https://api.anthropic.com", body)
}

async fn storm(seed: u64) {
    fastrand::seed(seed);
    let trouble = |fault, share| Incident::new(Duration::ZERO, HOUR, fault).with_probability(share);
    let limits = || {
        GroupLimits::new()
            .with_requests_per_minute(400)
            .with_concurrency(60)
    };
    let fake = |index: u64| {
        FakeClaude::builder()
            .seed(seed ^ index)
            .limits(limits())
            .time_to_first_token(SECOND)
            .tokens_per_second(20.0)
            .output_tokens(60)
            .incident(trouble(Fault::Overloaded, 0.05))
            .incident(trouble(Fault::RateLimitedBare, 0.05))
            .incident(trouble(Fault::Reset, 0.03))
            .incident(trouble(Fault::ErrorBeforeContent, 0.03))
            .incident(trouble(Fault::SlowHead(20 * SECOND), 0.05))
            .incident(trouble(Fault::Cut { after_tokens: 3 }, 0.03))
            .incident(trouble(Fault::Truncated { after_tokens: 9 }, 0.03))
    };
    // All of them fail at once from the twelfth to the fifteenth second, each in its own way.
    let down = |fault| Incident::new(12 * SECOND, 15 * SECOND, fault);
    let claude = fake(1).incident(down(Fault::Overloaded)).build();
    let region = FakeCloud::bedrock_messages("us-east-1").bearer("aws");
    let aws = fake(2)
        .cloud(region)
        .incident(down(Fault::RateLimitedBare))
        .build();
    let google = fake(3)
        .cloud(FakeCloud::vertex("p", "global").bearer("google"))
        .incident(down(Fault::Reset))
        .build();
    let fakes = [&claude, &aws, &google];
    let network = fakes.iter().fold(FakeHosts::new(), |hosts, fake| {
        hosts.with_server((*fake).clone())
    });

    let vertex = Target::vertex("p", "global").expect("a target");
    let mantle = Target::bedrock_messages("us-east-1").expect("a target");
    // A token is fetched while callers leave.
    let tokens = Bearer::refreshing(|| async {
        sleep(2 * SECOND).await;
        Ok(Issued::lasting("google".to_owned(), 61 * SECOND))
    });
    let clouds = CloudLayer::new()
        .with_open_target(Target::claude_api())
        .with_target(mantle.clone(), Bearer::fixed("aws").expect("a token"))
        .with_target(vertex.clone(), tokens);
    let check = clouds.clone();
    let spread = SpreadLayer::new([Target::claude_api(), mantle, vertex])
        .with_check(move |request, target| check.check(request, target));
    let own = Limits::new()
        .with_requests_per_minute(NonZeroU64::new(400).expect("a limit"))
        .with_burst(10 * SECOND);
    let breaker = BreakerConfig::new()
        .with_ramp(Some(SECOND))
        .with_cool_down(SECOND, 2 * SECOND);
    let layer = recommended()
        .with_bucket(TokenBucketLayer::new(own).with_max_wait(HOUR))
        .with_breaker(CircuitBreakerLayer::new().with_config(breaker))
        .with_fallback([OPUS, HAIKU])
        .with_spread(spread.clone());
    let service = layer.layer(clouds.layer(network));
    let mut tasks = JoinSet::new();
    for number in 0..CALLS {
        let service = service.clone();
        let mut rng = fastrand::Rng::with_seed(seed ^ (number << 8));
        tasks.spawn(async move {
            sleep(Duration::from_millis(number * 60)).await;
            let patience = [
                Duration::from_millis(rng.u64(0..4_000)),
                Duration::from_millis(rng.u64(0..60_000)),
                HOUR,
            ][rng.usize(0..3)];
            let stream = number.is_multiple_of(2);
            let call = async {
                let response = service.oneshot(request(number, stream)).await;
                let Ok(response) = response else {
                    return false;
                };
                let is_served = response.status() == 200;
                is_served && response.into_body().collect().await.is_ok()
            };
            let ended = timeout(patience, call).await;
            assert!(patience < HOUR || ended.is_ok(), "call {number} hangs");
            ended
        });
    }
    let ends = tasks.join_all().await;
    let left = ends.iter().filter(|end| end.is_err()).count();
    let read = ends.iter().filter(|end| matches!(end, Ok(true))).count();
    assert!(
        left > 100 && read > 200,
        "{left} left, {read} read to the end"
    );
    for target in spread.handle().snapshot().targets {
        assert!(target.sent > 50 && target.failed > 10, "{target:?}");
    }
    assert!(layer.retry().handle().snapshot().retries > 50);
    sleep(SECOND).await;
    for fake in fakes {
        assert_eq!(fake.in_flight(), 0, "seed {seed}");
    }
    assert_idle(&layer.bucket().handle(), "a storm");
    let breaker = layer.breaker().handle().snapshot();
    for circuit in &breaker.circuits {
        assert_eq!(circuit.breaker.probes, 0, "seed {seed}: {circuit:?}");
    }
    sleep(2 * HOUR).await;
    for number in 0..30 {
        let answer = send_ok(&service, request(10_000 + number, true)).await;
        assert!(answer.is_complete(true), "seed {seed}: {answer:?}");
        sleep(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn storm_over_clouds_leaves_nothing() {
    for seed in [1, 2] {
        storm(seed).await;
    }
}
