//! Requests by their host, path and credential: the layers keep apart what the API keeps apart, and
//! take as one what is one.

use std::{
    convert::Infallible,
    num::{NonZeroU32, NonZeroU64},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower_claude::{Limits, TokenBucketLayer, cache::Cacheable, limiter::Limiter, recommended};
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_core::{CredentialId, RequestBody, event::Event};
use tower_claude_fallback_model::{FallbackModelLayer, SERVED_MODEL};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_retry::RetryLayer;
use tower_claude_tests::{EventLog, OPUS, SONNET, request_to, send, summary};
use tower_layer::Layer;

type Api = BoxCloneSyncService<Request<RequestBody>, Response<Full<Bytes>>, Infallible>;

/// Returns a service with this answer, and the number of its calls.
fn api<F>(answer: F) -> (Api, Arc<AtomicUsize>)
where
    F: Fn(&Request<RequestBody>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        count.fetch_add(1, Ordering::Relaxed);
        let response = answer(&request);
        async move { Ok(response) }
    });
    (BoxCloneSyncService::new(service), calls)
}

fn message(model: &str) -> Response<Full<Bytes>> {
    let body = format!(
        r#"{{"id":"m","type":"message","role":"assistant","model":"{model}","content":[{{"type":"text","text":"Hi"}}],"stop_reason":"end_turn","usage":{{"input_tokens":1,"output_tokens":1}}}}"#
    );
    let response = Response::builder().header("content-type", "application/json");
    response.body(Full::from(body)).expect("a response")
}

fn error(status: u16, kind: &str) -> Response<Full<Bytes>> {
    let body = format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"x"}}}}"#);
    let mut response = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    if status == 429 {
        response = response
            .header("retry-after", "3600")
            .header("anthropic-ratelimit-requests-limit", "1")
            .header("anthropic-ratelimit-requests-remaining", "0");
    }
    response.body(Full::from(body)).expect("a response")
}

fn once() -> RetryLayer {
    RetryLayer::new().with_max_attempts(NonZeroU32::MIN)
}

/// A host that fails, one that works, and the first one in another form.
const HOSTS: [[&str; 3]; 4] = [
    ["https://a", "https://b", "https://A:443"],
    ["http://a:8080", "http://a:9090", "http://x:y@A.:8080"],
    ["host: a", "host: b", "host: A."],
    ["http://[::1]:80", "http://[::2]", "http://[::1]"],
];

/// Returns a request to this origin, which is in the `host` header only if it begins so.
fn request_at(origin: &str) -> Request<RequestBody> {
    let Some(host) = origin.strip_prefix("host: ") else {
        return request_to(origin, SONNET, false);
    };
    let mut request = request_to("http://x", SONNET, false);
    *request.uri_mut() = "/v1/messages".parse().expect("a path");
    let host = HeaderValue::from_str(host).expect("a host");
    request.headers_mut().insert("host", host);
    request
}

/// Fails at one host, works at another. After ten calls to the first, the first call to the other
/// is answered at once by the model that it names.
macro_rules! one_host_leaves_others_alone {
    ($layer:expr) => {
        for ((status, kind), [failing, working, same]) in [
            (529, "overloaded_error"),
            (500, "api_error"),
            (429, "rate_limit_error"),
            (401, "authentication_error"),
            (402, "billing_error"),
        ]
        .into_iter()
        .flat_map(|failure| HOSTS.map(|hosts| (failure, hosts)))
        {
            let (api, _) = api(move |request| {
                let host = request.headers().get("host");
                let host = match (request.uri().authority(), host) {
                    (Some(authority), _) => authority.as_str(),
                    (None, host) => host.and_then(|host| host.to_str().ok()).unwrap_or(""),
                };
                match working.ends_with(host) {
                    true => message(SONNET),
                    false => error(status, kind),
                }
            });
            let service = $layer.layer(api);
            let what = format!("{status} {failing}");
            for _ in 0..10 {
                let call = send(&service, request_at(failing));
                let _ = tokio::time::timeout(Duration::from_secs(2), call).await;
            }
            let start = Instant::now();
            let answer = send(&service, request_at(working)).await.unwrap();
            assert_eq!(
                (answer.status, start.elapsed()),
                (200, Duration::ZERO),
                "{what}"
            );
            assert_eq!(answer.header(SERVED_MODEL.as_str()), "", "{what}");
            // The same host in another form is the same host.
            let call = send(&service, request_at(same));
            let refused = tokio::time::timeout(Duration::from_secs(2), call).await;
            assert!(
                !refused.is_ok_and(|answer| answer.unwrap().status == 200),
                "{what}"
            );
        }
    };
}

#[tokio::test(start_paused = true)]
async fn host_that_fails_leaves_other_hosts_alone() {
    let haiku = ["claude-haiku-4-5"];
    one_host_leaves_others_alone!(CircuitBreakerLayer::new());
    one_host_leaves_others_alone!(CircuitBreakerLayer::new().with_credential(|_| 7));
    one_host_leaves_others_alone!(TokenBucketLayer::new(Limits::unlimited()));
    one_host_leaves_others_alone!(HeaderBudgetLayer::new());
    one_host_leaves_others_alone!(recommended().with_retry(once()));
    // The stand-in fails at host `a`, too.
    one_host_leaves_others_alone!(FallbackModelLayer::new(haiku));
    one_host_leaves_others_alone!(recommended().with_retry(once()).with_fallback(haiku));
}

#[tokio::test(start_paused = true)]
async fn outage_of_a_host_leaves_the_retries_at_others() {
    let (api, _) = {
        let failures = Arc::new(AtomicUsize::new(0));
        api(move |request| match request.uri().host() {
            Some("b") if failures.fetch_add(1, Ordering::Relaxed) > 0 => message(SONNET),
            _ => error(503, "api_error"),
        })
    };
    let service = RetryLayer::new().layer(api);
    for _ in 0..50 {
        let answer = send(&service, request_at("http://a")).await.unwrap();
        assert_eq!(answer.status, 503);
    }
    let answer = send(&service, request_at("http://b")).await.unwrap();
    assert_eq!(answer.status, 200, "retried once");
}

/// A layer of another kind sends the attempts of one call to different hosts.
#[tokio::test(start_paused = true)]
async fn layer_inside_a_failover_keeps_the_hosts_apart() {
    let (api, _) = api(|request| match request.uri().host() {
        Some("b") => error(401, "authentication_error"),
        Some("c") => error(429, "rate_limit_error"),
        _ => message(SONNET),
    });
    let inner = (CircuitBreakerLayer::new(), HeaderBudgetLayer::new());
    let budget = inner.1;
    let bucket = TokenBucketLayer::over(budget.limiter());
    let inner = inner.0.layer(budget.layer(api));
    let failover = tower::ServiceBuilder::new()
        .map_request(|mut request: Request<RequestBody>| {
            if let Some(host) = request.headers_mut().remove("x-fail-over-to") {
                let host = host.to_str().expect("a host");
                let uri = format!("http://{host}/v1/messages");
                *request.uri_mut() = uri.parse().expect("a URI");
            }
            request
        })
        .service(inner);
    let service = bucket.layer(failover);
    let to = |host: &'static str| {
        let mut request = request_at("http://a");
        let host = HeaderValue::from_static(host);
        request.headers_mut().insert("x-fail-over-to", host);
        request
    };
    for (host, status) in [("a", 200), ("b", 401), ("b", 401), ("c", 429), ("a", 200)] {
        let start = Instant::now();
        let answer = send(&service, to(host)).await.unwrap();
        assert_eq!(
            (answer.status, start.elapsed()),
            (status, Duration::ZERO),
            "{host}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn limits_count_for_each_host() {
    let limits = Limits::new().with_requests_per_minute(NonZeroU64::new(10).expect("not zero"));
    let bucket = TokenBucketLayer::new(limits).with_max_wait(Duration::ZERO);
    let (api, _) = api(|_| message(SONNET));
    let service = bucket.layer(api);
    let mut passed = [0; 2];
    for _ in 0..50 {
        for (host, passed) in ["https://a", "https://b"].into_iter().zip(&mut passed) {
            let answer = send(&service, request_to(host, SONNET, false))
                .await
                .unwrap();
            *passed += usize::from(answer.status == 200);
        }
    }
    assert_eq!(passed, [10, 10]);
    let mut hosts: Vec<_> = bucket
        .limiter()
        .snapshot()
        .into_iter()
        .map(|s| s.scope.host)
        .collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["a".into(), "b".into()] as [Arc<str>; 2]);
}

/// Returns a request of the number `n` with this credential only.
fn known_by(header: &'static str, value: &str, n: usize) -> Request<RequestBody> {
    let mut request = request_to("https://res.services.ai.azure.com/anthropic", SONNET, false);
    let body = format!(
        r#"{{"model":"{SONNET}","max_tokens":{},"messages":[]}}"#,
        n + 1
    );
    *request.body_mut() = RequestBody::from(body);
    request.headers_mut().remove("x-api-key");
    let value = HeaderValue::from_str(value).expect("a value");
    request.headers_mut().insert(header, value);
    request
}

#[tokio::test(start_paused = true)]
async fn revoked_key_is_not_served_the_answers_of_another_key() {
    for header in [
        "x-api-key",
        "authorization",
        "api-key",
        "x-goog-api-key",
        "cf-aig-authorization",
    ] {
        let (api, calls) =
            api(
                move |request| match request.headers()[header].as_bytes().ends_with(b"good") {
                    true => message(SONNET),
                    false => error(401, "authentication_error"),
                },
            );
        let stack = recommended();
        let service = stack.layer(api);
        let marked = |value| {
            let mut request = known_by(header, value, 1);
            request.extensions_mut().insert(Cacheable::new());
            request
        };
        let first = send(&service, marked("Bearer good")).await.unwrap();
        let again = send(&service, marked("bearer good")).await.unwrap();
        let label = "x-tower-claude-cache";
        assert_eq!(
            (first.header(label), again.header(label)),
            ("miss", "hit"),
            "{header}"
        );
        let revoked = send(&service, marked("Bearer revoked")).await.unwrap();
        assert_eq!(
            (revoked.status, revoked.header(label)),
            (401, "miss"),
            "{header}"
        );
        // Its circuit is open, and the other key has another.
        for n in 2..5 {
            let answer = send(&service, known_by(header, "Bearer revoked", n))
                .await
                .unwrap();
            assert_eq!(answer.status, 401, "{header}");
        }
        assert_eq!(stack.breaker().handle().snapshot().opened, 1, "{header}");
        assert_eq!(calls.load(Ordering::Relaxed), 2, "{header}");
        let good = send(&service, known_by(header, "Bearer good", 9))
            .await
            .unwrap();
        assert_eq!(good.status, 200, "{header}");
        assert_eq!(stack.bucket().limiter().snapshot().len(), 2, "{header}");
    }
}

#[tokio::test(start_paused = true)]
async fn credential_that_changes_by_itself_keeps_its_limits() {
    let signature = |n: usize| {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/202611{:02}/us-east-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date, Signature={n:064x}",
            n % 30 + 1
        )
    };
    let token = |n: usize| format!("Bearer token-{}", n / 10);
    type Credential<'a> = &'a dyn Fn(usize) -> (&'static str, String);
    let cases: [(Credential<'_>, bool); 4] = [
        (&|_| ("x-api-key", "good".to_owned()), false),
        (
            &|n| {
                if n % 2 == 0 {
                    ("x-api-key", "k".to_owned())
                } else {
                    ("authorization", "Bearer k".to_owned())
                }
            },
            false,
        ),
        (&|n| ("authorization", signature(n)), false),
        (&|n| ("authorization", token(n)), true),
    ];
    for (number, (credential, named)) in cases.into_iter().enumerate() {
        let limits = Limits::new().with_requests_per_minute(NonZeroU64::new(10).expect("not zero"));
        let bucket = TokenBucketLayer::new(limits).with_max_wait(Duration::ZERO);
        let (api, calls) = api(|_| message(SONNET));
        let service = bucket.layer(api);
        for n in 0..200 {
            let (header, value) = credential(n);
            let mut request = known_by(header, &value, n);
            if named {
                request.extensions_mut().insert(CredentialId::new("one"));
            }
            send(&service, request).await.unwrap();
        }
        assert_eq!(calls.load(Ordering::Relaxed), 10, "{number}");
        assert_eq!(bucket.limiter().snapshot().len(), 1, "{number}");
    }
}

/// A renewed token that is rejected closes the circuit of the name, and not of the token.
#[tokio::test(start_paused = true)]
async fn named_credential_has_one_circuit() {
    let (api, calls) = api(|_| error(401, "authentication_error"));
    let breaker = CircuitBreakerLayer::new();
    let service = breaker.layer(api);
    for n in 0..10 {
        let mut request = known_by("authorization", &format!("Bearer {n}"), n);
        request.extensions_mut().insert(CredentialId::new("one"));
        assert_eq!(send(&service, request).await.unwrap().status, 401);
    }
    assert_eq!(breaker.handle().snapshot().opened, 1);
    assert!(calls.load(Ordering::Relaxed) < 10);
}

#[tokio::test(start_paused = true)]
async fn prefix_of_a_gateway_changes_nothing() {
    for path in [
        "/v1/messages",
        "/v1/messages/",
        "/anthropic/v1/messages",
        "/v1/0123abcd/my-gateway/anthropic/v1/messages",
        "/v1/projects/p/locations/global/workspaces/w/invoke/v1/messages",
        "/api/v1/proxy/v1/messages",
        "//v1//messages",
        "/v1/messages?beta=true",
    ] {
        let (api, _) = api(|request| match request.body().model() {
            Some(OPUS) => error(529, "overloaded_error"),
            model => message(model.unwrap_or_default()),
        });
        let stack = recommended().with_fallback([SONNET]).with_retry(once());
        let service = stack.layer(api);
        let to = |model| {
            let mut request = request_to("https://gateway", model, false);
            *request.uri_mut() = format!("https://gateway{path}").parse().expect("a URI");
            request
        };
        let answer = send(&service, to(OPUS)).await.unwrap();
        let served = answer.header(SERVED_MODEL.as_str());
        assert_eq!((answer.status, served), (200, SONNET), "{path}");
        for expected in ["miss", "hit"] {
            let mut request = to(SONNET);
            request.extensions_mut().insert(Cacheable::new());
            let answer = send(&service, request).await.unwrap();
            assert_eq!(answer.header("x-tower-claude-cache"), expected, "{path}");
        }
        let mut scopes: Vec<_> = stack.bucket().limiter().snapshot();
        scopes.sort_by_key(|scope| scope.scope.to_string());
        let scopes: Vec<_> = scopes.iter().map(|scope| scope.scope.to_string()).collect();
        assert_eq!(
            scopes,
            ["messages/opus-5.5", "messages/sonnet-5.5"],
            "{path}"
        );
        let circuits = stack.breaker().handle().snapshot().circuits;
        assert!(
            circuits
                .iter()
                .all(|circuit| &*circuit.scope.host == "gateway"),
            "{path}"
        );
    }
}

/// At an unknown endpoint, the two layers that were asked for emit an event each, once.
#[tokio::test(start_paused = true)]
async fn layers_that_cannot_act_report_it_once() {
    let inactive = |event: &Event<'_>| summary(event).filter(|line| line.contains("inactive"));
    let events = EventLog::new(inactive);
    let (api, calls) = api(|_| error(529, "overloaded_error"));
    let stack = recommended()
        .with_fallback([OPUS])
        .with_retry(once())
        .with_observer(events.clone());
    let service = stack.layer(api);
    for n in 0..3 {
        let mut request = known_by("x-api-key", "k", n);
        *request.uri_mut() = "https://gateway/v2/chat".parse().expect("a URI");
        request.extensions_mut().insert(Cacheable::new());
        assert_eq!(send(&service, request).await.unwrap().status, 529);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    let mut lines = events.lines();
    lines.sort();
    assert_eq!(
        lines,
        [
            "cache inactive endpoint",
            "fallback-model inactive endpoint"
        ]
    );
}

/// The paths of clouds name the model: it has its own limits, circuits and costs.
#[tokio::test(start_paused = true)]
async fn model_in_the_path_has_its_own_scope() {
    let (api, _) = api(|request| match request.uri().path().contains("opus") {
        true => error(529, "overloaded_error"),
        false => message(SONNET),
    });
    let stack = recommended().with_retry(once());
    let service = stack.layer(api);
    let to = |path: &str| {
        let body = r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}"#;
        let mut request = known_by("authorization", "Bearer k", 1);
        *request.body_mut() = RequestBody::from(body);
        *request.uri_mut() = format!("https://cloud{path}").parse().expect("a URI");
        request
    };
    for _ in 0..10 {
        let opus = to("/model/us.anthropic.claude-opus-4-5-20251101-v1%3A0/invoke");
        assert_eq!(send(&service, opus).await.unwrap().status, 529);
    }
    for path in [
        "/model/us.anthropic.claude-sonnet-4-6/invoke",
        "/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-5-5:rawPredict",
    ] {
        assert_eq!(
            send(&service, to(path)).await.unwrap().status,
            200,
            "{path}"
        );
    }
    let scopes = stack.bucket().limiter().snapshot();
    let mut scopes: Vec<_> = scopes.iter().map(|scope| scope.scope.to_string()).collect();
    scopes.sort();
    assert_eq!(
        scopes,
        [
            // Clouds limit each model, in a region.
            "messages/claude-opus-4-5",
            "messages/claude-sonnet-4-6",
            "messages/claude-sonnet-5-5"
        ]
    );
    let circuits = stack.breaker().handle().snapshot().circuits;
    let opened = circuits.iter().filter(|circuit| circuit.breaker.opens > 0);
    let opened: Vec<_> = opened.map(|circuit| circuit.scope.to_string()).collect();
    assert_eq!(opened, ["messages/claude-opus-4-5"]);
}
