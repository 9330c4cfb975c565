//! A probe in a limiter's queue.

use std::{
    convert::Infallible,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, StatusCode};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, sleep, timeout},
};
use tower_claude_circuit_breaker::{
    BreakerConfig, BreakerSnapshot, BreakerState, CircuitBreakerLayer, SlowCallRate,
};
use tower_claude_core::{Call, RequestBody};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_limiter::LocalLimiter;
use tower_claude_retry::{RetryLayer, Timeouts};
use tower_claude_tests::FrameBody;
use tower_claude_token_bucket::{CountTokensLayer, TokenBucketLayer};
use tower_layer::Layer;

use crate::{
    common::{SONNET, at_once, quiet, request, send, with},
    world::SECOND,
};

/// A breaker around a bucket with one place per credential.
#[derive(Clone)]
struct Narrow {
    fake: FakeClaude,
    breaker: CircuitBreakerLayer,
    bucket: TokenBucketLayer,
}

/// Returns settings with which one success closes the circuit, and a lease is 60 s.
fn config(probes: u32) -> BreakerConfig {
    BreakerConfig::new()
        .with_cool_down(30 * SECOND, 300 * SECOND)
        .with_ramp(None)
        .with_probes(probes.try_into().expect("not zero"), NonZeroU32::MIN)
        .with_attempt_timeout(60 * SECOND)
}

impl Narrow {
    fn new(probes: u32) -> Self {
        let hour = Duration::from_secs(3_600);
        Self {
            fake: quiet(),
            breaker: CircuitBreakerLayer::new().with_config(config(probes)),
            bucket: TokenBucketLayer::over(LocalLimiter::new(at_once(1))).with_max_wait(hour),
        }
    }

    /// The same after an outage.
    async fn half_open(probes: u32) -> Self {
        let narrow = Self::new(probes);
        narrow.fail().await;
        narrow
    }

    async fn fail(&self) {
        self.fake.inject_times(Fault::Overloaded, 5);
        for _ in 0..5 {
            self.call(request(SONNET, false)).await;
        }
        assert_eq!(self.look().state, BreakerState::Open);
        sleep(36 * SECOND).await;
    }

    /// Sends a request through both layers, and returns the status of the answer.
    async fn call(&self, request: Request<RequestBody>) -> u16 {
        let service = self.breaker.layer(self.bucket.layer(self.fake.clone()));
        let answer = send(&service, request).await.expect("an answer");
        answer.status
    }

    /// The same beside the test, with an answer that takes so long.
    async fn start(&self, wait: Duration, request: Request<RequestBody>) -> JoinHandle<u16> {
        self.fake.inject(Fault::SlowHead(wait));
        let this = self.clone();
        let call = tokio::spawn(async move { this.call(request).await });
        yield_now().await;
        call
    }

    /// Somebody else has the only place for so long.
    async fn occupy(&self, length: Duration) {
        self.fake.inject(Fault::SlowHead(length));
        let other = self.bucket.layer(self.fake.clone());
        tokio::spawn(async move { send(&other, request(SONNET, false)).await.is_ok() });
        yield_now().await;
    }

    /// The circuit's only one.
    fn look(&self) -> BreakerSnapshot {
        self.breaker.handle().snapshot().circuits[0].breaker
    }
}

/// Its lease begins when the limiter lets it go: a wait in the queue that is longer than the lease
/// is no failure of the server, and what is found out is what the probe says.
#[tokio::test(start_paused = true)]
async fn lease_of_a_probe_begins_when_the_request_is_sent() {
    let narrow = Narrow::half_open(1).await;
    narrow.occupy(50 * SECOND).await;
    // The probe then takes 50 s of its own: more than its lease in all, less from when it was sent.
    let probe = narrow.start(50 * SECOND, request(SONNET, false)).await;
    sleep(90 * SECOND).await;
    assert_eq!(narrow.call(request(SONNET, false)).await, 529);
    let seen = narrow.look();
    assert_eq!((seen.state, seen.opens), (BreakerState::HalfOpen, 1));
    assert_eq!(probe.await.expect("no panic"), 200);
    assert_eq!(narrow.fake.log_len(), 7);
}

/// After a lease in the queue the next call is the probe, and there is no second one beside it.
#[tokio::test(start_paused = true)]
async fn probe_that_lost_its_place_is_not_sent() {
    let narrow = Narrow::half_open(1).await;
    narrow.occupy(100 * SECOND).await;
    let lost = narrow.start(SECOND, request(SONNET, false)).await;
    sleep(61 * SECOND).await;
    let next = narrow.start(SECOND, request(SONNET, false)).await;
    assert_eq!(lost.await.expect("no panic"), 529);
    let seen = narrow.look();
    assert_eq!((seen.state, seen.probes), (BreakerState::HalfOpen, 1));
    assert_eq!(next.await.expect("no panic"), 200);
    assert_eq!(narrow.look().state, BreakerState::Closed);
    assert_eq!(narrow.fake.log_len(), 7);
}

/// Another probe had no queue before it, and has closed the circuit.
#[tokio::test(start_paused = true)]
async fn probe_is_sent_after_its_circuit_has_closed() {
    let narrow = Narrow::half_open(2).await;
    narrow.occupy(100 * SECOND).await;
    let waiting = narrow.start(SECOND, request(SONNET, false)).await;
    let other = with(request(SONNET, false), "x-api-key", "key-b");
    assert_eq!(narrow.call(other).await, 200);
    assert_eq!(narrow.look().state, BreakerState::Closed);
    assert_eq!(waiting.await.expect("no panic"), 200);
}

/// The same where the circuit is that of a credential, and there is no room for one of the model.
#[tokio::test(start_paused = true)]
async fn probe_of_a_credential_has_the_same_lease() {
    let mut narrow = Narrow::new(1);
    narrow.breaker = CircuitBreakerLayer::new()
        .with_most_circuits(NonZeroUsize::MIN)
        .with_credential_config(config(1));
    narrow.fake.inject(Fault::NonJson(StatusCode::UNAUTHORIZED));
    assert_eq!(narrow.call(request(SONNET, false)).await, 401);
    assert_eq!(narrow.look().state, BreakerState::Open);
    sleep(36 * SECOND).await;
    narrow.occupy(100 * SECOND).await;
    let lost = narrow.start(50 * SECOND, request(SONNET, false)).await;
    sleep(61 * SECOND).await;
    let next = narrow.start(50 * SECOND, request(SONNET, false)).await;
    assert_eq!(lost.await.expect("no panic"), 401);
    assert_eq!(narrow.fake.log_len(), 3);
    sleep(40 * SECOND).await;
    // A lease after it was claimed, less from when it was sent.
    assert_eq!(narrow.call(request(SONNET, false)).await, 401);
    assert_eq!(next.await.expect("no panic"), 200);
    assert_eq!(narrow.look().opens, 1);
    assert_eq!(narrow.look().state, BreakerState::Closed);
}

/// An attempt that takes too long in the queue is no failure of the server.
#[tokio::test(start_paused = true)]
async fn timeout_in_the_queue_is_not_counted() {
    let narrow = Narrow::new(1);
    narrow.occupy(1_000 * SECOND).await;
    let timeouts = Timeouts::new().with_head(Some(10 * SECOND));
    let inside = narrow.bucket.layer(narrow.fake.clone());
    let service = RetryLayer::new()
        .with_timeouts(timeouts)
        .layer(narrow.breaker.layer(inside));
    for _ in 0..3 {
        let answer = send(&service, request(SONNET, false))
            .await
            .expect("an answer");
        assert_eq!(answer.status, 504);
    }
    assert_eq!(narrow.look().failures, 0);
    assert_eq!(narrow.fake.log_len(), 1);
}

/// A layer of others has given one attempt up in the queue, and sends the request again as it is.
#[tokio::test(start_paused = true)]
async fn probe_does_not_inherit_the_queue_of_an_earlier_attempt() {
    let narrow = Narrow::new(1);
    let context = Arc::new(Call::new(&Default::default(), Instant::now()));
    let watched = || {
        let mut request = request(SONNET, false);
        request.extensions_mut().insert(context.clone());
        request
    };
    narrow.occupy(10 * SECOND).await;
    let given_up = timeout(SECOND, narrow.call(watched())).await;
    assert!(given_up.is_err() && context.is_held_back());
    sleep(10 * SECOND).await;
    narrow.fail().await;
    let hung = narrow.start(3_000 * SECOND, watched()).await;
    sleep(61 * SECOND).await;
    assert_eq!(narrow.call(request(SONNET, false)).await, 529);
    assert_eq!(narrow.look().opens, 2, "it was sent, and has failed");
    hung.abort();
}

/// From sending to the first content: neither the count nor the queue makes a call slow.
#[tokio::test(start_paused = true)]
async fn call_that_waits_for_its_count_and_its_turn_is_not_slow() {
    let api = tower::service_fn(|request: Request<RequestBody>| async move {
        let counts = request.uri().path().ends_with("count_tokens");
        sleep(SECOND).await;
        let body = if counts {
            r#"{"input_tokens":3}"#
        } else {
            r#"{"type":"message","content":[],"stop_reason":"end_turn"}"#
        };
        Ok::<_, Infallible>(Response::new(FrameBody::full(body)))
    });
    let rate = SlowCallRate::new(3 * SECOND).with_share(NonZeroU32::MIN, 0.1);
    let config = BreakerConfig::new().with_slow_calls(Some(rate));
    let breaker = CircuitBreakerLayer::new().with_config(config);
    let bucket = TokenBucketLayer::over(LocalLimiter::new(at_once(1)));
    let counted = CountTokensLayer::new().layer(bucket.layer(api));
    let service = breaker.layer(counted);
    let calls = (0..8).map(|_| send(&service, request(SONNET, false)));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.expect("an answer").status, 200);
    }
    let circuit = breaker.handle().snapshot().circuits[0].breaker;
    assert_eq!(circuit.state, BreakerState::Closed);
}
