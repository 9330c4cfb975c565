//! Marks of cacheable requests.

use http::{HeaderName, HeaderValue, Method, header::CACHE_CONTROL};
use tower::Layer;
use tower_claude_cache::Cacheable;
use tower_claude_core::{CredentialId, RequestBody, Tenant};
use tower_claude_tests::EventLog;

use crate::api::*;

/// Sends the same request twice. Returns the number of calls and the status of the second response.
async fn twice(
    layer: &tower_claude_cache::CacheLayer,
    request: impl Fn() -> http::Request<RequestBody>,
) -> (usize, String) {
    let (upstream, scripts) = upstream();
    let service = layer.layer(upstream);
    filled(&service, &scripts, request()).await;
    let second = tokio::select! {
        got = send(&service, request()) => got.expect("an answer"),
        script = scripts.next() => {
            drop(script);
            filled(&service, &scripts, request()).await
        }
    };
    (scripts.calls().min(2), second.cache_status().to_owned())
}

const HIT: (usize, &str) = (1, "hit");
const BYPASS: (usize, &str) = (2, "bypass");
const UNASKED: (usize, &str) = (2, "");

async fn check(
    layer: tower_claude_cache::CacheLayer,
    expected: (usize, &str),
    request: impl Fn() -> http::Request<RequestBody>,
) {
    let (calls, said) = twice(&layer, request).await;
    assert_eq!((calls, said.as_str()), expected);
}

#[tokio::test(start_paused = true)]
async fn unmarked_request_is_not_cached() {
    check(layer(), HIT, request).await;
    check(layer(), UNASKED, || bare(body("Hi", false))).await;
}

#[tokio::test(start_paused = true)]
async fn header_marks_a_request() {
    const CACHE_ME: HeaderName = HeaderName::from_static("x-cache-me");
    let with = |value: &'static str| {
        move || {
            let mut request = bare(body("Hi", false));
            request
                .headers_mut()
                .insert(CACHE_ME, HeaderValue::from_static(value));
            request
        }
    };
    for yes in ["1", "true", "max-age=60"] {
        check(layer().with_header(CACHE_ME), HIT, with(yes)).await;
        check(layer(), UNASKED, with(yes)).await;
    }
    for no in ["0", "false", "", "max-age=x"] {
        check(layer().with_header(CACHE_ME), UNASKED, with(no)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn policy_function_replaces_marks() {
    let all = || layer().with_policy(|_| Some(Cacheable::new()));
    check(all(), HIT, || bare(body("Hi", false))).await;
    let none = layer().with_policy(|_| None);
    check(none, UNASKED, request).await;
}

#[tokio::test(start_paused = true)]
async fn no_store_bypasses_the_cache() {
    for value in ["no-store", "no-cache, No-Store"] {
        let request = || {
            let mut request = request();
            request
                .headers_mut()
                .insert(CACHE_CONTROL, HeaderValue::from_static(value));
            request
        };
        check(layer(), BYPASS, request).await;
        check(
            layer().with_policy(|_| Some(Cacheable::new())),
            BYPASS,
            request,
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn request_without_a_key_bypasses_the_cache() {
    for text in [
        "not json",
        "[1]",
        r#"{"model":"a","model":"a"}"#,
        r#"{"model":"a","mod\u0065l":"a"}"#,
        r#"{"model":"claude-sonnet-5-5","max_tokens":0}"#,
        r#"{"model":"claude-sonnet-5-5","max_tokens": 0.0}"#,
        "",
    ] {
        check(layer(), BYPASS, || {
            let mut request = bare(text);
            request.extensions_mut().insert(Cacheable::new());
            request
        })
        .await;
    }
    check(layer(), BYPASS, || {
        let long = tower_claude_tests::FrameBody::default();
        request().map(|_| RequestBody::new(long))
    })
    .await;
}

/// The API may reject a request for a field that the key leaves out.
#[tokio::test(start_paused = true)]
async fn request_that_the_api_would_reject_is_not_answered_by_a_stored_response() {
    let with_field = |field: &str| {
        let text = body("Hi", false).replace(r#""stream""#, &format!(r#"{field},"stream""#));
        request().map(|_| RequestBody::from(text))
    };
    let long = format!(r#""metadata":{{"user_id":"{}"}}"#, "x".repeat(257));
    let rejected = [
        r#""metadata":{"user_id":5}"#,
        r#""metadata":{"user_id":"u","user_id":"u"}"#,
        r#""metadata":{"user_id":"u","other":1}"#,
        r#""metadata":{"user_id":tru}"#,
        r#""metadata":{"user_id":"u" 1}"#,
        r#""metadata":{"user_id":"\ud800"}"#,
        r#""metadata":{"user_id":"\x"}"#,
        "\"metadata\":{\"user_id\":\"\n\"}",
        r#""metadata":[]"#,
        r#""metadata":"u""#,
        r#""metadata":nul"#,
        r#""metadata":{}{}"#,
        r#""service_tier":"priority""#,
        r#""service_tier":"AUTO""#,
        r#""service_tier":1"#,
        r#""service_tier":auto"#,
        &long,
    ];
    let accepted = [
        r#""metadata":{"user_id":"u"}"#,
        r#""metadata":{ "user_id" : null }"#,
        r#""metadata":{}"#,
        r#""service_tier":"auto""#,
        r#""service_tier":"standard_only","metadata":{"user_id":"v"}"#,
    ];
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    filled(&service, &scripts, request()).await;
    for field in accepted {
        let got = send(&service, with_field(field)).await.expect("an answer");
        assert_eq!(got.cache_status(), "hit", "{field}");
    }
    let bytes = |text: Vec<u8>| request().map(|_| RequestBody::from(text));
    let mut trailing = body("Hi", false).into_bytes();
    trailing.extend_from_slice(b" x");
    let mut marked = b"\xEF\xBB\xBF".to_vec();
    marked.extend_from_slice(body("Hi", false).as_bytes());
    let split = with_field("\"metadata\":{\"user_id\":\"@\"}");
    let mut invalid = split.body().bytes().expect("buffered").to_vec();
    let at = invalid
        .iter()
        .position(|byte| *byte == b'@')
        .expect("in the text");
    invalid[at] = 0xFF;
    let token = |name: &'static str, value: &'static str| {
        let mut request = request();
        request.headers_mut().remove("x-api-key");
        tower_claude_tests::with(request, name, value)
    };
    let oauth = token("authorization", "Bearer sk-ant-oat01-x");
    filled(&service, &scripts, oauth).await;
    let requests = rejected.into_iter().map(with_field);
    let requests = requests.chain([bytes(trailing), bytes(marked), bytes(invalid)]);
    // A token that is accepted in the other header only.
    let requests = requests.chain([token("x-api-key", "sk-ant-oat01-x")]);
    for request in requests {
        let what = format!("{:?}", request.body().bytes());
        let call = send(&service, request);
        let (got, ()) = tokio::join!(tokio::time::timeout(SECOND, call), async {
            let script = tokio::time::timeout(SECOND, scripts.next()).await;
            script
                .unwrap_or_else(|_| panic!("no call: {what}"))
                .json(400, "{}");
        });
        let got = got.expect("in time").expect("an answer");
        assert_eq!(got.status, 400, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn field_that_counts_do_not_have_is_a_part_of_their_key() {
    let (upstream, scripts) = upstream();
    let service = layer().with_count_tokens().layer(upstream);
    let count = |field: &str| {
        let text = body("Hi", false).replace(r#""stream""#, &format!(r#"{field}"stream""#));
        let mut request = request().map(|_| RequestBody::from(text));
        *request.uri_mut() = "/v1/messages/count_tokens".parse().expect("a URI");
        request
    };
    for (field, status) in [("", 200), (r#""metadata":{"user_id":"u"},"#, 400)] {
        let (got, ()) = tokio::join!(send(&service, count(field)), async {
            scripts.next().await.json(status, r#"{"input_tokens":14}"#);
        });
        assert_eq!(got.expect("an answer").status, status);
    }
}

#[tokio::test(start_paused = true)]
async fn only_messages_and_enabled_token_counts_are_cached() {
    let to = |method: Method, path: &'static str| {
        move || {
            let mut request = request();
            *request.method_mut() = method.clone();
            *request.uri_mut() = path.parse().expect("a URI");
            request
        }
    };
    for (method, path, expected) in [
        (Method::GET, "/v1/messages", UNASKED),
        (Method::GET, "/v1/models", UNASKED),
        (Method::POST, "/v1/messages/batches", UNASKED),
        (Method::POST, "/v1/messages/count_tokens", UNASKED),
        // Another service.
        (Method::GET, "/price", BYPASS),
        (Method::POST, "/price", BYPASS),
    ] {
        check(layer(), expected, to(method.clone(), path)).await;
        let all = layer().with_policy(|_| Some(Cacheable::new()));
        check(all, expected, to(method, path)).await;
    }
    check(
        layer(),
        HIT,
        to(Method::POST, "/proxy/v1/messages?beta=true"),
    )
    .await;
    let (upstream, scripts) = upstream();
    let service = layer().with_count_tokens().layer(upstream);
    let count = to(Method::POST, "/v1/messages/count_tokens");
    let (first, ()) = tokio::join!(send(&service, count()), async {
        scripts.next().await.json(200, r#"{"input_tokens":14}"#);
    });
    let second = send(&service, count()).await.expect("an answer");
    assert_eq!(
        (
            first.expect("an answer").cache_status(),
            second.cache_status()
        ),
        ("miss", "hit")
    );
    assert_eq!(
        (second.text(), scripts.calls()),
        (r#"{"input_tokens":14}"#, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn nested_cache_of_the_same_layer_does_not_deadlock() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(layer.layer(upstream));
    let got = filled(&service, &scripts, request()).await;
    assert_eq!((got.text(), scripts.calls()), (MESSAGE, 1));
}

/// The id of its response can be continued once only.
#[tokio::test(start_paused = true)]
async fn request_with_a_thread_bypasses_the_cache() {
    for thread in [
        r#"{"type":"create"}"#,
        r#"{"type":"continue","previous_message_id":"msg_1"}"#,
    ] {
        let body = body("Hi", false);
        let body = body.replace(r#""stream""#, &format!(r#""thread":{thread},"stream""#));
        check(layer(), BYPASS, || {
            request().map(|_| RequestBody::from(body.clone()))
        })
        .await;
    }
}

/// Returns a marked request without any known credential.
fn anonymous() -> http::Request<RequestBody> {
    let mut request = request();
    request.headers_mut().remove("x-api-key");
    request
}

#[tokio::test(start_paused = true)]
async fn request_without_a_known_credential_is_shared_only_on_demand() {
    const USER: HeaderName = HeaderName::from_static("x-user");
    let user = || {
        let mut request = anonymous();
        request
            .headers_mut()
            .insert(USER, HeaderValue::from_static("a"));
        request.extensions_mut().insert(Tenant("t".into()));
        request
    };
    check(layer(), BYPASS, anonymous).await;
    check(layer(), BYPASS, user).await;
    check(
        layer().with_policy(|_| Some(Cacheable::new())),
        BYPASS,
        anonymous,
    )
    .await;
    check(layer().with_key_header(USER), BYPASS, anonymous).await;
    check(layer().with_key_header(USER), HIT, user).await;
    check(layer().with_anonymous(), HIT, anonymous).await;
    check(layer(), HIT, || {
        let mut request = anonymous();
        request.extensions_mut().insert(CredentialId::new("a"));
        request
    })
    .await;
    for name in [
        "api-key",
        "x-goog-api-key",
        "authorization",
        "cf-aig-authorization",
    ] {
        check(layer(), HIT, || {
            let mut request = anonymous();
            let value = HeaderValue::from_static("Bearer k");
            request.headers_mut().insert(name, value);
            request
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn mark_without_effect_is_reported_once() {
    let elsewhere = || {
        let mut request = request();
        *request.uri_mut() = "/v2/chat".parse().expect("a URI");
        request
    };
    let events = EventLog::default();
    let layer = layer().with_observer(events.clone());
    let price = || {
        let mut request = elsewhere();
        *request.method_mut() = Method::GET;
        request
    };
    for _ in 0..3 {
        check(layer.clone(), BYPASS, price).await;
        check(layer.clone(), BYPASS, elsewhere).await;
        check(layer.clone(), BYPASS, anonymous).await;
    }
    assert_eq!(events.count("cache inactive endpoint"), 1);
    assert_eq!(events.count("cache inactive credential"), 1);
    // Each of the nine checks sends three requests.
    assert_eq!(layer.handle().snapshot().bypassed, 27);
}

#[tokio::test(start_paused = true)]
async fn path_of_a_gateway_or_cloud_is_cached() {
    for path in [
        "/v1/acct0/gw/anthropic/v1/messages",
        "/v1/projects/p/locations/global/workspaces/w/invoke/v1/messages",
        "/api/v1/proxy/v1/messages/",
        "/publishers/anthropic/models/claude-sonnet-5-5:rawPredict",
        "/model/claude-sonnet-5-5/invoke",
    ] {
        check(layer(), HIT, || {
            let mut request = request();
            *request.uri_mut() = path.parse().expect("a URI");
            request
        })
        .await;
    }
}
