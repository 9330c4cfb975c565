//! The headers of a call: its tolerance, and those that divide calls into pools.

use http::HeaderValue;
use tower_claude_batch::{BATCH_KEY, TOLERANCE, Tolerance};
use tower_claude_core::{CredentialId, Rejection, Tenant};
use tower_claude_tests::{post, with};

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn wrong_tolerance_is_rejected_with_its_name_and_value() {
    let world = World::new(api());
    let wrong: [&[u8]; 7] = [b"", b"an hour", b"-1", b"+5", b"1.5", b"1e3", b"\xff\xfe"];
    for value in wrong {
        let mut request = post("http://localhost", body("q"));
        let value = HeaderValue::from_bytes(value).unwrap();
        request.headers_mut().insert(TOLERANCE, value.clone());
        let answer = world.start(request).await.unwrap();
        assert_eq!(answer.status, 400);
        let shown = value
            .as_bytes()
            .escape_ascii()
            .to_string()
            .replace('\\', "\\\\");
        let json = answer.text();
        assert!(json.contains(&format!("not \\\"{shown}\\\"")), "{json}");
        assert!(json.contains("invalid_request_error") && json.contains(TOLERANCE.as_str()));
        assert_eq!(answer.header("x-tower-claude-refused-by"), "batch");
        assert_eq!(
            answer.header("content-length"),
            answer.body.len().to_string()
        );
        assert!(answer.extensions.get::<Rejection>().is_some());
        assert!(answer.class().local);
    }
    assert_eq!(world.fake.log_len(), 0);
}

#[tokio::test(start_paused = true)]
async fn huge_tolerance_is_bounded_and_the_extension_wins() {
    let world = World::new(api());
    let mut request = post("http://localhost", body("q"));
    let huge = HeaderValue::from_static("99999999999999999999999999");
    request.headers_mut().insert(TOLERANCE, huge);
    assert_eq!(world.start(request).await.unwrap().status, 200);
    assert_eq!(world.batched().len(), 1);
    let mut request = question("q", 5 * HOUR);
    request.extensions_mut().insert(Tolerance(SECOND));
    assert_eq!(world.start(request).await.unwrap().status, 200);
    assert_eq!((world.batched().len(), world.live()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn calls_that_differ_in_a_header_that_matters_share_no_batch() {
    let header = |name: &'static str, value: &'static str| {
        let mut request = question("q", 2 * HOUR);
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        request
    };
    let mut tenant = question("q", 2 * HOUR);
    tenant.extensions_mut().insert(Tenant("a".into()));
    let mut named = question("q", 2 * HOUR);
    named.extensions_mut().insert(CredentialId::new("project"));
    let different = [
        question("q", 2 * HOUR),
        header("x-api-key", "key-b"),
        header("anthropic-version", "2023-01-01"),
        header("anthropic-beta", "output-300k-2026-03-24"),
        header("anthropic-workspace-id", "wrkspc_1"),
        header("anthropic-user-profile-id", "profile"),
        header("x-own-gateway-key", "secret"),
        header("cookie", "a=b"),
        tenant,
        named,
    ];
    let world = World::new(api());
    let count = different.len();
    let calls: Vec<_> = different
        .into_iter()
        .map(|request| world.start(request))
        .collect();
    for call in calls {
        let _ = call.await.unwrap();
    }
    let creations: Vec<_> = world.fake.log();
    let creations = creations.iter().filter(|attempt| is_creation(attempt));
    let keys: Vec<String> = creations
        .map(|attempt| {
            assert_eq!(params(attempt).len(), 1);
            let headers = &attempt.request.as_ref().unwrap().headers;
            format!("{:?}", headers.get("x-api-key"))
        })
        .collect();
    assert_eq!(keys.len(), count);
    assert_eq!(keys.iter().filter(|key| key.contains("key-b")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_that_differ_in_other_headers_share_a_batch() {
    let header = |name: &'static str, value: &'static str| {
        let mut request = question(value, 2 * HOUR);
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        request
    };
    let calls = [
        header("x-request-id", "1"),
        header("traceparent", "2"),
        header("user-agent", "3"),
        header("x-stainless-retry-count", "4"),
        header("accept-encoding", "gzip"),
        header("idempotency-key", "6"),
        header("x-forwarded-for", "7"),
    ];
    let world = World::new(api());
    let calls = calls.map(|request| world.start(request));
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    let log = world.fake.log();
    let creation = log.iter().find(|attempt| is_creation(attempt)).unwrap();
    assert_eq!(params(creation).len(), 7);
    let headers = &creation.request.as_ref().unwrap().headers;
    assert_eq!(headers["content-type"], "application/json");
    for name in [
        "accept-encoding",
        "traceparent",
        "idempotency-key",
        "x-forwarded-for",
        "x-stainless-retry-count",
        TOLERANCE.as_str(),
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn batch_key_tells_equal_bodies_apart() {
    let world = World::new(api());
    let ask = |key: &'static str| {
        let request = question("q", 2 * HOUR);
        world.start(with(request, "x-tower-claude-batch-key", key))
    };
    assert_eq!(BATCH_KEY.as_str(), "x-tower-claude-batch-key");
    let first = ask("monday");
    tokio::time::sleep(6 * MINUTE).await;
    first.abort();
    let second = ask("tuesday");
    assert_eq!(second.await.unwrap().status, 200);
    assert_eq!((world.snapshot().attached, world.batched().len()), (0, 2));
}
