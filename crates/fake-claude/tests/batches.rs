//! Message Batches.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{full, messages, post, text};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_claude_fake_claude::{BatchOutcome, Endpoint, FakeClaude, GroupLimits, Reply};

const PATH: &str = "/v1/messages/batches";

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn error_type(&self) -> String {
        self.json()["error"]["type"].as_str().unwrap().to_owned()
    }

    fn id(&self) -> String {
        self.json()["id"].as_str().unwrap().to_owned()
    }

    /// Returns the results, one value per line.
    fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).expect("UTF-8");
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("JSON lines")
    }
}

async fn send(fake: &FakeClaude, request: Request<Full<Bytes>>) -> Answer {
    let response = fake.clone().oneshot(request).await.expect("a response");
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.expect("a complete body").to_bytes(),
    }
}

async fn call(fake: &FakeClaude, method: Method, path: &str) -> Answer {
    let request = post(&format!("{PATH}{path}")).method(method);
    send(fake, request.body(full("")).unwrap()).await
}

async fn get(fake: &FakeClaude, path: &str) -> Answer {
    call(fake, Method::GET, path).await
}

fn params(more: Value) -> Value {
    let mut params = json!({"model": "claude-sonnet-5-5", "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}]});
    if let (Value::Object(params), Value::Object(more)) = (&mut params, more) {
        params.extend(more);
    }
    params
}

/// Returns a creation of requests with these ids and params.
fn creation(requests: &[(&str, Value)]) -> Request<Full<Bytes>> {
    let requests: Vec<Value> = requests
        .iter()
        .map(|(id, params)| json!({"custom_id": id, "params": params}))
        .collect();
    let body = json!({"requests": requests}).to_string();
    post(PATH).body(full(body)).unwrap()
}

/// Creates a batch of valid requests.
async fn create(fake: &FakeClaude, ids: &[&str]) -> Answer {
    let requests: Vec<(&str, Value)> = ids.iter().map(|id| (*id, params(json!({})))).collect();
    send(fake, creation(&requests)).await
}

#[tokio::test(start_paused = true)]
async fn batch_ends_with_results_in_another_order() {
    let fake = FakeClaude::builder()
        .batch_time(Duration::from_secs(60))
        .build();
    let requests = [
        ("a", params(json!({}))),
        ("b", params(json!({"max_tokens": "many"}))),
        ("c", params(json!({}))),
    ];
    let created = send(&fake, creation(&requests)).await;
    assert_eq!(created.status, 200);
    let counts = |of: [u64; 5]| {
        json!({"processing": of[0], "succeeded": of[1], "errored": of[2],
            "canceled": of[3], "expired": of[4]})
    };
    let batch = created.json();
    assert_eq!(batch["type"], "message_batch");
    assert_eq!(batch["processing_status"], "in_progress");
    assert_eq!(batch["request_counts"], counts([3, 0, 0, 0, 0]));
    for name in [
        "ended_at",
        "archived_at",
        "cancel_initiated_at",
        "results_url",
    ] {
        assert_eq!(batch.get(name), Some(&Value::Null), "{name}");
    }
    let id = created.id();
    assert!(id.starts_with("msgbatch_"), "{id}");

    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(get(&fake, &format!("/{id}")).await.json(), batch);
    assert_eq!(get(&fake, &format!("/{id}/results")).await.status, 404);
    let deleted = call(&fake, Method::DELETE, &format!("/{id}")).await;
    assert_eq!(
        (deleted.status, &*deleted.error_type()),
        (400, "invalid_request_error")
    );

    tokio::time::advance(Duration::from_secs(1)).await;
    let batch = get(&fake, &format!("/{id}")).await.json();
    assert_eq!(batch["processing_status"], "ended");
    assert_eq!(batch["request_counts"], counts([0, 2, 1, 0, 0]));
    let time = |name: &str| {
        batch[name]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    let between = |from, to| (time(to) - time(from)).get_seconds();
    assert_eq!(between("created_at", "ended_at"), 60);
    assert_eq!(between("created_at", "expires_at"), 86_400);

    let results = get(&fake, &format!("/{id}/results")).await;
    assert_eq!(results.headers["content-type"], "application/x-jsonl");
    let lines = results.lines();
    let ids: Vec<&str> = lines
        .iter()
        .map(|line| line["custom_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["c", "b", "a"]);
    let message = &lines[0]["result"]["message"];
    assert_eq!(lines[0]["result"]["type"], "succeeded");
    assert_eq!(message["usage"]["service_tier"], "batch");
    assert_eq!(message["usage"]["output_tokens"], 16);
    assert_eq!(message["stop_reason"], "end_turn");
    assert_eq!(lines[1]["result"]["type"], "errored");
    let error = &lines[1]["result"]["error"];
    assert_eq!(error["error"]["type"], "invalid_request_error");
    assert!(error["request_id"].is_string());

    let deleted = call(&fake, Method::DELETE, &format!("/{id}")).await;
    assert_eq!(
        deleted.json(),
        json!({"id": id, "type": "message_batch_deleted"})
    );
    assert_eq!(get(&fake, &format!("/{id}")).await.status, 404);
    assert!(
        fake.log()
            .iter()
            .all(|attempt| attempt.endpoint == Endpoint::Batches)
    );
}

#[tokio::test(start_paused = true)]
async fn scripted_outcomes_are_the_results() {
    let fake = FakeClaude::builder()
        .batch_time(Duration::ZERO)
        .reply_with(|request| {
            let asked = std::str::from_utf8(&request.body)
                .unwrap()
                .contains("claude-opus-5-5");
            asked.then(|| Reply::text("selected"))
        })
        .build();
    fake.batch_outcome("a", BatchOutcome::Succeeded(Reply::text("scripted")));
    fake.batch_outcome("c", BatchOutcome::Canceled);
    for body in [
        json!({"custom_id": "b", "outcome": "errored", "error_type": "overloaded_error", "message": "m"}),
        json!({"custom_id": "d", "outcome": "expired"}),
        json!({"custom_id": "e", "outcome": "succeeded", "text": "over HTTP"}),
    ] {
        let request = post("/fake/batches").body(full(body.to_string())).unwrap();
        assert_eq!(send(&fake, request).await.status, 200);
    }
    let opus = ("f", params(json!({"model": "claude-opus-5-5"})));
    let mut requests = vec![opus];
    requests.extend(["a", "b", "c", "d", "e"].map(|id| (id, params(json!({})))));
    let batch = send(&fake, creation(&requests)).await;
    assert_eq!(batch.json()["request_counts"]["succeeded"], 3);
    let results = get(&fake, &format!("/{}/results", batch.id())).await;
    let summaries: Vec<Value> = results
        .lines()
        .iter()
        .map(|line| {
            let result = &line["result"];
            let detail = match result["type"].as_str().unwrap() {
                "succeeded" => result["message"]["content"][0]["text"].clone(),
                "errored" => result["error"]["error"].clone(),
                _ => Value::Null,
            };
            json!([line["custom_id"], result["type"], detail])
        })
        .collect();
    let error = json!({"type": "overloaded_error", "message": "m"});
    let mut error_seen = summaries[3][2].clone();
    error_seen
        .as_object_mut()
        .unwrap()
        .retain(|name, _| name != "details");
    assert_eq!(error_seen, error);
    assert_eq!(summaries[0], json!(["e", "succeeded", "over HTTP"]));
    assert_eq!(summaries[1], json!(["d", "expired", null]));
    assert_eq!(summaries[2], json!(["c", "canceled", null]));
    assert_eq!(summaries[4], json!(["a", "succeeded", "scripted"]));
    assert_eq!(summaries[5], json!(["f", "succeeded", "selected"]));

    // Not a fault, but removed with the faults.
    fake.clear_injected();
    let batch = create(&fake, &["b", "c", "d"]).await;
    assert_eq!(batch.json()["request_counts"]["succeeded"], 3);
    let wrong = json!({"custom_id": "a", "outcome": "lost"}).to_string();
    let request = post("/fake/batches").body(full(wrong)).unwrap();
    assert_eq!(send(&fake, request).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn cancelled_batch_ends_soon_with_partial_results() {
    let fake = FakeClaude::default();
    let mut request = creation(&["a", "b", "c", "d"].map(|id| (id, params(json!({})))));
    let hour = "3600".parse().unwrap();
    request.headers_mut().insert("x-fake-batch-seconds", hour);
    let id = send(&fake, request).await.id();
    tokio::time::advance(Duration::from_secs(1_800)).await;
    for _ in 0..2 {
        let batch = call(&fake, Method::POST, &format!("/{id}/cancel"))
            .await
            .json();
        assert_eq!(batch["processing_status"], "canceling");
        assert!(batch["cancel_initiated_at"].is_string());
        assert_eq!(batch["request_counts"]["processing"], 4);
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    let batch = get(&fake, &format!("/{id}")).await.json();
    assert_eq!(batch["processing_status"], "ended");
    assert_eq!(batch["request_counts"]["succeeded"], 2);
    assert_eq!(batch["request_counts"]["canceled"], 2);
    let late = call(&fake, Method::POST, &format!("/{id}/cancel")).await;
    assert_eq!(
        (late.status, &*late.error_type()),
        (400, "invalid_request_error")
    );
}

#[tokio::test(start_paused = true)]
async fn batch_of_more_than_a_day_expires() {
    let fake = FakeClaude::builder()
        .batch_time(Duration::from_secs(4 * 86_400))
        .build();
    let id = create(&fake, &["a", "b", "c", "d"]).await.id();
    tokio::time::advance(Duration::from_secs(86_400)).await;
    let batch = get(&fake, &format!("/{id}")).await.json();
    assert_eq!(batch["request_counts"]["succeeded"], 1);
    assert_eq!(batch["request_counts"]["expired"], 3);
    assert_eq!(batch["ended_at"], batch["expires_at"]);
    tokio::time::advance(Duration::from_secs(28 * 86_400)).await;
    let batch = get(&fake, &format!("/{id}")).await.json();
    assert!(batch["archived_at"].is_string());
    assert!(batch["results_url"].is_null());
    assert_eq!(get(&fake, &format!("/{id}/results")).await.status, 404);
}

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
