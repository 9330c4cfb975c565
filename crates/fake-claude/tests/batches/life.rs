//! The states of a batch, and its results.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tower_claude_fake_claude::{
    BatchOutcome, Endpoint, FakeClaude, FakeError, LostCreation, Reply,
};

use crate::common::{full, post};
use crate::{call, create, creation, get, params, send};

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
async fn lost_creation_is_executed_without_a_clear_answer() {
    let fake = FakeClaude::builder().build();
    fake.lose_creation(LostCreation::ServerError);
    fake.lose_creation(LostCreation::Reset);
    let first = create(&fake, &["a"]).await;
    assert_eq!((first.status, &*first.error_type()), (500, "api_error"));
    let request = creation(&[("b", params(json!({})))]);
    let second = tower::ServiceExt::oneshot(fake.clone(), request).await;
    assert_eq!(second.err(), Some(FakeError::Reset));
    assert_eq!(create(&fake, &["c"]).await.status, 200);
    let list = get(&fake, "").await.json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(3), "all exist");
    // A creation that is rejected uses none.
    fake.lose_creation(LostCreation::Reset);
    assert_eq!(send(&fake, creation(&[])).await.status, 400);
    fake.clear_injected();
    assert_eq!(create(&fake, &["d"]).await.status, 200);
    let request = |body: Value| post("/fake/batches").body(full(body.to_string())).unwrap();
    assert_eq!(
        send(&fake, request(json!({"lost_creation": "server_error"})))
            .await
            .status,
        200
    );
    assert_eq!(create(&fake, &["e"]).await.status, 500);
    assert_eq!(
        send(&fake, request(json!({"lost_creation": "no"})))
            .await
            .status,
        400
    );
}

#[tokio::test(start_paused = true)]
async fn hidden_batch_is_processed_and_found_later() {
    let fake = FakeClaude::builder()
        .batch_time(Duration::from_secs(10))
        .batch_hidden(Duration::from_secs(60))
        .build();
    let id = create(&fake, &["a"]).await.id();
    for seconds in [0, 30, 29] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        assert_eq!(get(&fake, &format!("/{id}")).await.status, 404);
        assert_eq!(get(&fake, &format!("/{id}/results")).await.status, 404);
        assert_eq!(get(&fake, "").await.json()["data"], json!([]));
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    let batch = get(&fake, &format!("/{id}")).await.json();
    assert_eq!(batch["processing_status"], "ended");
    assert_eq!(get(&fake, &format!("/{id}/results")).await.lines().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn outcome_by_content_yields_to_the_one_of_the_id() {
    let fake = FakeClaude::builder()
        .batch_time(Duration::ZERO)
        .batch_outcome_with(|id, params| {
            assert!(params.starts_with(b"{"));
            (id != "c").then_some(BatchOutcome::Expired)
        })
        .build();
    fake.batch_outcome("b", BatchOutcome::Canceled);
    let id = create(&fake, &["a", "b", "c"]).await.id();
    let lines = get(&fake, &format!("/{id}/results")).await.lines();
    let kinds: Vec<&str> = lines
        .iter()
        .map(|line| line["result"]["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["succeeded", "canceled", "expired"]);
}
