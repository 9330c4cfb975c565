//! The endpoints: errors, limits, pages and URLs.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower_claude_fake_claude::{FakeClaude, GroupLimits};

use crate::common::{messages, post, text};
use crate::{Answer, PATH, call, create, creation, get, params, send};

#[tokio::test(start_paused = true)]
async fn wrong_calls_get_the_errors_of_the_api() {
    let fake = FakeClaude::default();
    let id = create(&fake, &["a"]).await.id();
    let delete = Method::DELETE;
    for (method, path, status, kind, allow) in [
        (
            Method::GET,
            "/msgbatch_x".to_owned(),
            404,
            "not_found_error",
            None,
        ),
        (
            Method::GET,
            "/msgbatch_x/results".to_owned(),
            404,
            "not_found_error",
            None,
        ),
        (
            Method::POST,
            "/msgbatch_x/cancel".to_owned(),
            404,
            "not_found_error",
            None,
        ),
        (
            delete.clone(),
            "/msgbatch_x".to_owned(),
            404,
            "not_found_error",
            None,
        ),
        (
            Method::GET,
            format!("/{id}/other"),
            404,
            "not_found_error",
            None,
        ),
        (
            delete.clone(),
            String::new(),
            405,
            "invalid_request_error",
            Some("GET, POST"),
        ),
        (
            Method::POST,
            format!("/{id}"),
            405,
            "invalid_request_error",
            Some("GET, DELETE"),
        ),
        (
            delete,
            format!("/{id}/results"),
            405,
            "invalid_request_error",
            Some("GET"),
        ),
        (
            Method::GET,
            format!("/{id}/cancel"),
            405,
            "invalid_request_error",
            Some("POST"),
        ),
        (
            Method::GET,
            "?limit=0".to_owned(),
            400,
            "invalid_request_error",
            None,
        ),
        (
            Method::GET,
            "?limit=1001".to_owned(),
            400,
            "invalid_request_error",
            None,
        ),
        (
            Method::GET,
            "?after_id=x".to_owned(),
            400,
            "invalid_request_error",
            None,
        ),
        (
            Method::POST,
            String::new(),
            400,
            "invalid_request_error",
            None,
        ),
    ] {
        let answer = call(&fake, method.clone(), &path).await;
        assert_eq!(
            (answer.status, &*answer.error_type()),
            (status, kind),
            "{method} {path}"
        );
        let allowed = answer
            .headers
            .get("allow")
            .map(|allow| allow.to_str().unwrap());
        assert_eq!(allowed, allow, "{method} {path}");
        let last = fake.log().pop().unwrap();
        assert_eq!(
            (last.status, last.error_type),
            (status, Some(kind)),
            "{method} {path}"
        );
        assert!(!last.completed);
    }
    let twice = create(&fake, &["a", "a"]).await;
    assert_eq!(
        (twice.status, &*twice.error_type()),
        (400, "invalid_request_error")
    );
}

#[tokio::test(start_paused = true)]
async fn item_is_checked_by_the_rules_of_batches() {
    let fake = FakeClaude::builder().batch_time(Duration::ZERO).build();
    let long = json!({"max_tokens": 300_000});
    let refused = [
        json!({"stream": true}),
        json!({"max_tokens": 0}),
        json!({"speed": "fast"}),
        json!({"fallbacks": []}),
        json!({"thread": {}}),
        json!({"store": true}),
        json!({"billing_policy": {"bill_to": "user_profile"}}),
        json!({"max_tokens": 300_001}),
        json!({"model": "claude-fable-5-1", "max_tokens": 300_000}),
        json!({"temperature": 0.5}),
        json!({"messages": null, "model": null}),
    ];
    let ids: Vec<String> = (0..refused.len()).map(|index| index.to_string()).collect();
    let mut requests: Vec<(&str, Value)> = ids
        .iter()
        .map(|id| &**id)
        .zip(refused.into_iter().map(params))
        .collect();
    requests.push(("valid", params(json!({}))));
    requests.push(("long", params(long)));
    let count = |kind: &str, batch: &Answer| batch.json()["request_counts"][kind].as_u64().unwrap();
    let batch = send(&fake, creation(&requests)).await;
    assert_eq!(
        (count("succeeded", &batch), count("errored", &batch)),
        (1, 12)
    );
    let mut request = creation(&requests);
    let beta = "output-300k-2026-03-24".parse().unwrap();
    request.headers_mut().insert("anthropic-beta", beta);
    let batch = send(&fake, request).await;
    assert_eq!(
        (count("succeeded", &batch), count("errored", &batch)),
        (2, 11)
    );
    let results = get(&fake, &format!("/{}/results", batch.id())).await;
    for line in results.lines() {
        let index: Option<usize> = line["custom_id"].as_str().unwrap().parse().ok();
        let error = &line["result"]["error"]["error"]["message"];
        assert_eq!(error.is_string(), index.is_some(), "{line}");
        // The first seven are valid outside of a batch, with the right beta.
        let names_batch = error
            .as_str()
            .is_some_and(|error| error.ends_with("in a batch"));
        assert_eq!(names_batch, index.is_some_and(|index| index < 7), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_of_batches_and_messages_are_separate() {
    let fake = FakeClaude::builder()
        .group_limits("batches", GroupLimits::requests_only(3))
        .batch_time(Duration::from_secs(100))
        .batch_queue(10)
        .build();
    let ids: Vec<String> = (0..8).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
    let first = create(&fake, &ids).await;
    assert_eq!(first.headers["anthropic-ratelimit-requests-remaining"], "2");
    // 8 and 3 requests are more than the queue holds.
    let full_queue = create(&fake, &ids[..3]).await;
    assert_eq!(
        (full_queue.status, &*full_queue.error_type()),
        (429, "rate_limit_error")
    );
    assert_eq!(create(&fake, &ids[..2]).await.status, 200);
    let limited = get(&fake, "").await;
    assert_eq!(
        (limited.status, &*limited.error_type()),
        (429, "rate_limit_error")
    );
    assert_eq!(limited.headers["retry-after"], "20");
    let message = send(&fake, messages().body(text(false)).unwrap()).await;
    assert_eq!(message.status, 200);
    // Processed requests have left the queue before their batch has ended.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(create(&fake, &ids[..5]).await.status, 200);
    assert_eq!(create(&fake, &ids[..1]).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn list_has_pages_of_the_newest_first() {
    let fake = FakeClaude::default();
    let mut ids = Vec::new();
    for _ in 0..22 {
        ids.insert(0, create(&fake, &["a"]).await.id());
    }
    let first = get(&fake, "").await.json();
    assert_eq!(first["data"].as_array().map(Vec::len), Some(20));
    assert_eq!(
        (&first["has_more"], &first["first_id"]),
        (&json!(true), &json!(ids[0]))
    );
    let last = first["last_id"].as_str().unwrap();
    let second = get(&fake, &format!("?limit=20&after_id={last}"))
        .await
        .json();
    let found: Vec<&Value> = second["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| &batch["id"])
        .collect();
    assert_eq!(found, [&ids[20], &ids[21]]);
    assert_eq!(second["has_more"], false);
    let before = get(&fake, &format!("?limit=1&before_id={}", ids[20]))
        .await
        .json();
    assert_eq!(before["first_id"], json!(ids[19]));
    assert_eq!(before["has_more"], true);
}

#[tokio::test(start_paused = true)]
async fn results_url_is_that_of_the_client() {
    let fake = FakeClaude::builder().batch_time(Duration::ZERO).build();
    for (uri, host, base) in [
        (
            "/v1/messages/batches",
            Some("claude.example:8080"),
            "http://claude.example:8080",
        ),
        (
            "/team/v1/messages/batches",
            Some("a.example"),
            "http://a.example/team",
        ),
        (
            "https://b.example/v1/messages/batches",
            None,
            "https://b.example",
        ),
    ] {
        let (mut parts, body) = creation(&[("a", params(json!({})))]).into_parts();
        parts.uri = uri.parse().unwrap();
        if let Some(host) = host {
            parts.headers.insert("host", host.parse().unwrap());
        }
        let batch = send(&fake, Request::from_parts(parts, body)).await;
        let expected = format!("{base}{PATH}/{}/results", batch.id());
        assert_eq!(batch.json()["results_url"], expected);
    }
}

#[tokio::test(start_paused = true)]
async fn creation_may_be_larger_than_a_message() {
    let fake = FakeClaude::builder().batch_time(Duration::ZERO).build();
    let creation = creation(&[("a", params(json!({})))]);
    let body = creation.into_body().collect().await.unwrap().to_bytes();
    let mut long = body.to_vec();
    long.resize(33 * 1024 * 1024, b' ');
    let long = Bytes::from(long);
    let message = messages().body(Full::new(long.clone())).unwrap();
    assert_eq!(send(&fake, message).await.status, 413);
    let batch = post(PATH).body(Full::new(long)).unwrap();
    assert_eq!(send(&fake, batch).await.status, 200);
}
