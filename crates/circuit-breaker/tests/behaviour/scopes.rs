//! Tests of the scopes of circuits.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::{HeaderValue, Request, StatusCode};
use tokio::time::{Instant, sleep};
use tower::Layer;
use tower_claude_circuit_breaker::{
    BreakerConfig, BreakerState, CircuitBreakerLayer, CircuitSnapshot,
};
use tower_claude_core::{HttpClassify, Kind, RequestBody, Scope};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_retry::{RetryLayer, Timeouts};
use tower_claude_tests::{FrameBody, Reply, Script};

use crate::common::{HAIKU, SECOND, SONNET, calls, fake, layer, look, request, send};

fn with_key(key: &'static str, model: &str) -> Request<RequestBody> {
    let mut request = request(model, false);
    let key = HeaderValue::from_static(key);
    request.headers_mut().insert("x-api-key", key);
    request
}

/// The circuit of the only credential.
fn credential(layer: &CircuitBreakerLayer) -> CircuitSnapshot {
    let circuits = layer.handle().snapshot().circuits;
    let mut circuits = circuits.into_iter();
    let found = circuits.find(|one| one.scope.credential != 0);
    found.expect("a circuit")
}

/// A 401, and the time after which the credential is asked again.
async fn refused_once(layer: &CircuitBreakerLayer, fake: &FakeClaude) {
    fake.inject(Fault::NonJson(StatusCode::UNAUTHORIZED));
    calls(layer, fake, 1).await;
    assert_eq!(credential(layer).breaker.state, BreakerState::Open);
    sleep(36 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn model_that_is_down_opens_only_its_own_circuit() {
    let (layer, _) = layer();
    let fake = fake();
    fake.inject_times(Fault::Overloaded, 5);
    calls(&layer, &fake, 5).await;
    let service = layer.layer(fake.clone());
    let other = send(&service, request(HAIKU, false)).await.expect("it");
    assert_eq!(other.status, 200);
    let mut count = request(SONNET, false);
    *count.uri_mut() = "https://api.anthropic.com/v1/messages/count_tokens"
        .parse()
        .expect("a uri");
    assert_eq!(send(&service, count).await.expect("it").status, 200);
    assert_eq!(look(&layer, SONNET).state, BreakerState::Open);
    assert_eq!(look(&layer, HAIKU).state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn single_401_opens_the_credential_for_all_models() {
    let (layer, events) = layer();
    let script = Script::new([
        Reply::claude_error(401, "authentication_error"),
        Reply::message(),
    ]);
    let service = layer.layer(script.clone());
    let first = send(&service, with_key("bad", SONNET)).await.expect("it");
    assert!(!first.is_rejected());
    let answer = send(&service, with_key("bad", HAIKU)).await.expect("it");
    assert_eq!((answer.status, answer.is_rejected()), (401, true));
    let class = answer.class();
    assert_eq!((class.kind, class.local), (Kind::Unauthorized, true));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains("authentication_error"), "{text}");
    let other = send(&service, with_key("good", SONNET)).await.expect("it");
    assert_eq!((other.status, script.calls()), (200, 2));
    let expected = [
        "opened other/credential unauthorized 1",
        "refused other/credential unauthorized",
    ];
    assert_eq!(events.lines(), expected);

    // One probe that is accepted is enough.
    sleep(36 * SECOND).await;
    let probe = send(&service, with_key("bad", SONNET)).await.expect("it");
    assert_eq!(probe.status, 200);
    assert_eq!(
        events.lines().last().expect("a line"),
        "closed other/credential"
    );
}

/// A gateway with a stale cache of keys answers with a single 401.
#[tokio::test(start_paused = true)]
async fn single_401_of_a_key_that_has_worked_opens_nothing() {
    let refusal = || Reply::claude_error(401, "authentication_error");
    let (layer, events) = layer();
    let replies = [Reply::message(), refusal(), Reply::message(), refusal()];
    let script = Script::new(replies.into_iter().chain([refusal()]));
    let service = layer.layer(script.clone());
    for status in [200, 401, 200, 401] {
        let answer = send(&service, with_key("good", SONNET)).await.expect("it");
        assert_eq!((answer.status, answer.is_rejected()), (status, false));
    }
    assert!(events.lines().is_empty(), "{:?}", events.lines());
    // The second in a row, for another model.
    send(&service, with_key("good", HAIKU)).await.expect("it");
    assert_eq!(events.lines(), ["opened other/credential unauthorized 1"]);
    let refused = send(&service, with_key("good", SONNET)).await.expect("it");
    assert_eq!((refused.status, refused.is_rejected()), (401, true));
}

/// All calls under way get the 401 of one incident.
#[tokio::test(start_paused = true)]
async fn simultaneous_401s_of_a_key_that_has_worked_count_once() {
    let (layer, events) = layer();
    let fake = fake();
    let service = layer.layer(fake.clone());
    send(&service, with_key("good", SONNET)).await.expect("it");
    let refused = layer.layer(tower::service_fn(|_| async {
        sleep(SECOND).await;
        let answer = http::Response::builder().status(401);
        let body = FrameBody::full("{}");
        Ok::<_, std::convert::Infallible>(answer.body(body).expect("valid"))
    }));
    join_all((0..8).map(|_| send(&refused, with_key("good", SONNET)))).await;
    let next = send(&service, with_key("good", SONNET)).await.expect("it");
    assert_eq!((next.status, events.lines().len()), (200, 0));
}

#[tokio::test(start_paused = true)]
async fn spend_limit_opens_the_credential_and_no_model() {
    for fault in [Fault::SpendCap, Fault::OwnSpendLimit] {
        let (layer, _) = layer();
        let fake = fake();
        fake.inject(fault.clone());
        calls(&layer, &fake, 3).await;
        assert_eq!(fake.log_len(), 1, "{fault:?}");
        assert_eq!(look(&layer, SONNET).state, BreakerState::Closed);
        let service = layer.layer(fake.clone());
        let refused = send(&service, request(SONNET, false)).await.expect("it");
        let kind = refused.kind();
        assert_eq!((refused.status, kind), (402, Some(Kind::SpendLimit)));
        let other = send(&service, with_key("another", SONNET)).await;
        assert_eq!(other.expect("it").status, 200);
    }
}

/// The response names the end of the month, or a wait of days. The cap is raised by hand before.
#[tokio::test(start_paused = true)]
async fn spend_limit_is_probed_sparsely_until_it_is_raised() {
    let texts = [
        (
            429,
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"capped","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2027-01-01 at 00:00 UTC."}}"#,
        ),
    ];
    for (status, text) in texts {
        let (layer, _) = layer();
        let raised = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(AtomicUsize::new(0));
        let capped = {
            let (raised, calls) = (raised.clone(), calls.clone());
            tower::service_fn(move |_| {
                calls.fetch_add(1, Ordering::Relaxed);
                let (status, body) = match raised.load(Ordering::Relaxed) {
                    true => (200, r#"{"type":"message","content":[]}"#),
                    false => (status, text),
                };
                let response = http::Response::builder()
                    .status(status)
                    .header("content-type", "application/json")
                    .header("date", "Mon, 30 Nov 2026 00:00:00 GMT")
                    .header("retry-after", "2592000")
                    .body(FrameBody::full(body));
                std::future::ready(Ok::<_, std::convert::Infallible>(response.expect("valid")))
            })
        };
        let service = layer.layer(capped);
        for _ in 0..3_600 {
            let _ = send(&service, request(SONNET, false)).await;
            sleep(SECOND).await;
        }
        let probes = calls.load(Ordering::Relaxed);
        assert!((10..=25).contains(&probes), "{probes} in an hour: {text}");
        raised.store(true, Ordering::Relaxed);
        let start = Instant::now();
        while send(&service, request(SONNET, false))
            .await
            .expect("it")
            .status
            != 200
        {
            sleep(SECOND).await;
        }
        let shut = start.elapsed();
        assert!(shut <= Duration::from_secs(361), "{shut:?}: {text}");
    }
}

/// The 401 belongs to a call from before the circuit opened and closed again.
#[tokio::test(start_paused = true)]
async fn late_401_of_an_older_generation_opens_nothing() {
    let (layer, _) = layer();
    let fake = fake();
    let slow = tower::service_fn(|_| async {
        sleep(100 * SECOND).await;
        let answer = http::Response::builder().status(401);
        let body = FrameBody::full("{}");
        Ok::<_, std::convert::Infallible>(answer.body(body).expect("valid"))
    });
    let slow = layer.layer(slow);
    let late = tokio::spawn(async move { send(&slow, request(SONNET, false)).await });
    tokio::task::yield_now().await;
    refused_once(&layer, &fake).await;
    calls(&layer, &fake, 1).await;
    assert_eq!(late.await.expect("no panic").expect("it").status, 401);
    assert_eq!(credential(&layer).breaker.state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn probe_of_a_credential_is_reported_only_if_the_model_passes() {
    let (layer, events) = layer();
    let fake = fake();
    refused_once(&layer, &fake).await;
    layer
        .handle()
        .force_open(&Scope::of_model(&request(SONNET, false)));
    calls(&layer, &fake, 3).await;
    assert_eq!(layer.handle().snapshot().probes, 0);
    assert!(!events.lines().iter().any(|line| line.starts_with("probe")));
    layer
        .handle()
        .resume_automatic(&Scope::of_model(&request(SONNET, false)));
    calls(&layer, &fake, 1).await;
    assert_eq!(credential(&layer).breaker.state, BreakerState::Closed);
    assert_eq!(layer.handle().snapshot().probes, 1);
}

/// A missing response is no evidence about the credential.
#[tokio::test(start_paused = true)]
async fn probe_of_a_credential_without_a_response_keeps_the_cause() {
    let (layer, _) = layer();
    let config = BreakerConfig::new().with_attempt_timeout(60 * SECOND);
    let (layer, fake) = (layer.with_credential_config(config), fake());
    refused_once(&layer, &fake).await;
    fake.inject(Fault::SlowHead(3_000 * SECOND));
    let service = layer.layer(fake.clone());
    let hung = tokio::spawn({
        let service = service.clone();
        async move { send(&service, request(SONNET, false)).await }
    });
    sleep(61 * SECOND).await;
    let refused = send(&service, request(HAIKU, false)).await.expect("it");
    assert_eq!((refused.status, refused.is_rejected()), (401, true));
    assert_eq!(credential(&layer).because, Some(Kind::Unauthorized));
    hung.abort();
}

/// An outage is no evidence about the credential, so its probe frees the place.
#[tokio::test(start_paused = true)]
async fn outage_of_a_model_does_not_affect_the_credential() {
    let (layer, _) = layer();
    let replies = [
        Reply::claude_error(401, "authentication_error"),
        Reply::claude_error(529, "overloaded_error"),
        Reply::message(),
    ];
    let script = Script::new(replies);
    let service = layer.layer(script.clone());
    let _ = send(&service, request(SONNET, false)).await;
    sleep(36 * SECOND).await;
    for _ in 0..2 {
        let _ = send(&service, request(SONNET, false)).await;
    }
    let credential = credential(&layer).breaker;
    assert_eq!(
        (credential.state, credential.opens),
        (BreakerState::Closed, 1)
    );
    assert_eq!(script.calls(), 3);
}

/// A model that answers no call in time is no evidence about the credential or about other models.
#[tokio::test(start_paused = true)]
async fn timeout_is_ignored_by_the_credential() {
    let (layer, _) = layer();
    let fake = fake();
    refused_once(&layer, &fake).await;
    calls(&layer, &fake, 1).await;
    assert_eq!(credential(&layer).breaker.state, BreakerState::Closed);
    fake.inject_times(Fault::SlowHead(3_000 * SECOND), 10);
    let timeouts = Timeouts::new().with_head(Some(5 * SECOND));
    let service = RetryLayer::new()
        .with_timeouts(timeouts)
        .layer(layer.layer(fake.clone()));
    for _ in 0..3 {
        let _ = send(&service, request(SONNET, false)).await;
    }
    assert_eq!(look(&layer, SONNET).state, BreakerState::Open);
    fake.clear_injected();
    let other = send(&service, request(HAIKU, false)).await.expect("it");
    assert_eq!(other.status, 200);
}

#[tokio::test(start_paused = true)]
async fn request_without_a_credential_has_no_credential_circuit() {
    let (layer, _) = layer();
    let script = Script::always(Reply::claude_error(401, "authentication_error"));
    let service = layer.layer(script.clone());
    for _ in 0..20 {
        let mut bare = request(SONNET, false);
        bare.headers_mut().remove("x-api-key");
        let _ = send(&service, bare).await;
    }
    assert_eq!(script.calls(), 20);
}

#[tokio::test(start_paused = true)]
async fn response_403_opens_nothing() {
    let (layer, _) = layer();
    let script = Script::always(Reply::claude_error(403, "permission_error"));
    let service = layer.layer(script.clone());
    for _ in 0..20 {
        let _ = send(&service, request(SONNET, false)).await;
    }
    assert_eq!(script.calls(), 20);
}

#[tokio::test(start_paused = true)]
async fn scope_function_of_the_user_groups_requests() {
    let (layer, _) = layer();
    let layer = layer.with_scope(|_| Scope::named("everything"));
    let fake = fake();
    fake.inject_times(Fault::Overloaded, 5);
    calls(&layer, &fake, 5).await;
    let service = layer.layer(fake.clone());
    let other = send(&service, request(HAIKU, false)).await.expect("it");
    assert_eq!((other.status, other.is_rejected()), (529, true));
}

#[tokio::test(start_paused = true)]
async fn full_table_evicts_only_idle_circuits() {
    let (layer, _) = layer();
    let layer = layer.with_most_circuits(NonZeroUsize::new(8).expect("not 0"));
    let fake = fake();
    fake.inject_times(Fault::Overloaded, 5);
    calls(&layer, &fake, 5).await;
    let script = Script::always(Reply::claude_error(404, "not_found_error"));
    let service = layer.layer(script.clone());
    for name in 0..1_000 {
        let _ = send(&service, request(&format!("claude-nonsense-{name}"), false)).await;
        assert!(layer.handle().snapshot().circuits.len() <= 8);
    }
    assert_eq!(script.calls(), 1_000);
    assert_eq!(look(&layer, SONNET).state, BreakerState::Open);

    // Where all of them matter, further models pass unwatched.
    let script = Script::always(Reply::claude_error(529, "overloaded_error"));
    let service = layer.layer(script.clone());
    for name in 0..100 {
        let _ = send(&service, request(&format!("claude-nonsense-{name}"), false)).await;
        assert!(layer.handle().snapshot().circuits.len() <= 8);
    }
    assert_eq!(script.calls(), 100);
}

/// A call in flight keeps its circuit.
#[tokio::test(start_paused = true)]
async fn circuit_with_a_call_is_not_evicted() {
    let (layer, _) = layer();
    let layer = layer.with_most_circuits(NonZeroUsize::MIN);
    let late = tower::service_fn(|_| async {
        sleep(SECOND).await;
        let answer = http::Response::builder().status(529);
        let body = FrameBody::full("{}");
        Ok::<_, std::convert::Infallible>(answer.body(body).expect("valid"))
    });
    let service = layer.layer(late);
    let down = join_all((0..5).map(|_| send(&service, request(SONNET, false))));
    let fake = fake();
    let other = layer.layer(fake.clone());
    tokio::join!(down, async {
        sleep(SECOND / 2).await;
        let _ = send(&other, request(HAIKU, false)).await;
    });
    // The five failed together, so they count once.
    assert_eq!(look(&layer, SONNET).failures, 1);
}

#[tokio::test(start_paused = true)]
async fn mistyped_model_names_leave_no_circuits() {
    let layer = CircuitBreakerLayer::new();
    for (status, kind) in [(404, "not_found_error"), (400, "invalid_request_error")] {
        let script = Script::always(Reply::claude_error(status, kind));
        let service = layer.layer(script.clone());
        for name in 0..200 {
            let _ = send(&service, request(&format!("claude-sonet-{name}"), false)).await;
        }
        assert_eq!(script.calls(), 200);
    }
    assert_eq!(layer.handle().snapshot().circuits, []);
    // A circuit with failures, or of a model that the catalog lists, stays.
    let broken = [529, 404].map(|status| Reply::claude_error(status, "api_error"));
    let service = layer.layer(Script::new(broken));
    let _ = send(&service, request("my-deployment", false)).await;
    let _ = send(&service, request("my-deployment", false)).await;
    assert_eq!(look(&layer, "my-deployment").failures, 1);
}

/// A service other than Claude, at two hosts.
#[tokio::test(start_paused = true)]
async fn two_hosts_of_another_service_share_no_circuit() {
    for with_header in [false, true] {
        let layer = CircuitBreakerLayer::new().with_classifier(HttpClassify::default());
        let service = layer.layer(tower::service_fn(
            move |request: Request<RequestBody>| async move {
                let header = request
                    .headers()
                    .get("host")
                    .and_then(|host| host.to_str().ok());
                let is_down = header.or(request.uri().host()) == Some("a.example");
                let answer = http::Response::builder().status(if is_down { 503 } else { 200 });
                let body = FrameBody::full(r#"{"price":1}"#);
                Ok::<_, std::convert::Infallible>(answer.body(body).expect("valid"))
            },
        ));
        let get = |host: &'static str| {
            let uri = if with_header {
                "/price"
            } else {
                &format!("http://{host}/price")
            };
            let request = Request::get(uri);
            let request = if with_header {
                request.header("host", host)
            } else {
                request
            };
            request.body(RequestBody::from("")).expect("valid")
        };
        for _ in 0..5 {
            let down = send(&service, get("a.example")).await.expect("it");
            assert!(!down.is_rejected());
        }
        assert!(
            send(&service, get("a.example"))
                .await
                .expect("it")
                .is_rejected()
        );
        let other = send(&service, get("b.example")).await.expect("it");
        assert_eq!((other.status, other.is_rejected()), (200, false));
    }
}
