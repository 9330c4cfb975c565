//! Calls that wait for a batch, and those that do not.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::HeaderValue;
use tokio::time::{Instant, sleep, timeout};
use tower::Layer;
use tower_claude_batch::{BATCH, BatchLayer, SAVED, Tolerance};
use tower_claude_core::{Call, Deadline, Priority, Tenant};
use tower_claude_fake_claude::FakeClaude;
use tower_claude_tests::{Received, post, request, send, settle, with};

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn calls_that_can_wait_share_a_batch_and_get_ordinary_responses() {
    let world = World::new(api());
    let calls: Vec<_> = (0..3)
        .map(|n| world.ask(&format!("q{n}"), 2 * HOUR))
        .collect();
    let direct = world.start(post("http://localhost", body("now")));
    assert_eq!(direct.await.unwrap().status, 200);
    sleep(MINUTE).await;
    let snapshot = world.snapshot();
    assert_eq!((snapshot.queued, snapshot.oldest), (3, Some(MINUTE)));
    for (n, call) in calls.into_iter().enumerate() {
        let answer = call.await.unwrap();
        assert_eq!((answer.status, answer.error), (200, None), "{n}");
        assert_eq!(answer.header("content-type"), "application/json");
        assert!(answer.header(BATCH.as_str()).starts_with("msgbatch_"));
        assert!(
            answer.header(SAVED.as_str()).starts_with("0.000"),
            "{:?}",
            answer.headers
        );
        assert!(
            answer.contains(r#""service_tier":"batch""#),
            "{}",
            answer.text()
        );
        assert_eq!(
            answer.header("content-length"),
            answer.body.len().to_string()
        );
    }
    assert_eq!(
        world.batched(),
        ["q0", "q1", "q2"].map(body),
        "bytes in are bytes in params"
    );
    assert_eq!((world.live(), world.requests()[0].as_str()), (1, "create"));
    let snapshot = world.snapshot();
    assert_eq!((snapshot.answered, snapshot.sent_twice), (3, 0));
    assert!(
        snapshot.saved > Default::default()
            && snapshot.saved == snapshot.cost
            && snapshot.tokens > 0
    );
    let known = &snapshot.latency[SONNET];
    assert!(known.batches == 1 && known.p50 >= 4 * MINUTE, "{known:?}");
    let log = world.log.take();
    let expected = [
        "queued  1",
        "queued  1",
        "queued  1",
        "created  3",
        "ended  3",
    ];
    assert_eq!(log[..5], expected);
    assert!(
        log.iter()
            .filter(|line| line.starts_with("answered"))
            .count()
            > 0
    );
}

#[tokio::test(start_paused = true)]
async fn queue_is_sent_after_five_minutes_or_a_tenth_of_the_tolerance() {
    for (tolerance, wait) in [(20 * HOUR, 5 * MINUTE), (HOUR, 6 * MINUTE)] {
        let world = World::new(api());
        let wait = wait.min(tolerance / 10);
        let call = world.ask("q", tolerance);
        sleep(wait - SECOND).await;
        // The p95 of an unknown model is an hour, so a call that can wait for less is sent at once.
        let is_sent = usize::from(tolerance <= HOUR);
        assert_eq!(world.batched().len(), is_sent, "{tolerance:?}");
        sleep(2 * SECOND).await;
        assert_eq!(world.batched().len(), 1, "{tolerance:?}");
        assert_eq!(call.await.unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn full_queue_is_sent_at_once() {
    let builder = BatchLayer::in_memory().with_max_batch(2, usize::MAX);
    let world = World::with(api().build(), builder);
    let calls: Vec<_> = (0..4)
        .map(|n| world.ask(&n.to_string(), 5 * HOUR))
        .collect();
    sleep(SECOND).await;
    assert_eq!(world.batched().len(), 4);
    assert_eq!(world.requests(), ["create", "create"]);
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_no_batch_takes_are_sent_at_once() {
    let cases = [
        (r#""stream":true"#, "stream"),
        (r#""speed":"fast""#, "field"),
        (r#""fallbacks":["claude-opus-5-5"]"#, "field"),
        (r#""thread":{"type":"create"}"#, "field"),
        (r#""max_tokens":0"#, "max_tokens"),
    ];
    let world = World::new(api());
    for (field, because) in cases {
        let body = format!(r#"{{"model":"{SONNET}","messages":[],{field}}}"#);
        let mut request = post("http://localhost", body);
        request.extensions_mut().insert(Tolerance(5 * HOUR));
        let started = Instant::now();
        let _ = world.start(request).await.unwrap();
        assert!(started.elapsed() < MINUTE);
        assert_eq!(world.log.take(), [format!("passed {because} 1")], "{field}");
    }
    let damaged = ["{", "[]", "{} x", "", r#"{"a":1,}"#];
    for body in damaged {
        let mut request = post("http://localhost", body);
        request.extensions_mut().insert(Tolerance(5 * HOUR));
        let _ = world.start(request).await.unwrap();
        assert_eq!(world.log.take(), ["passed body 1"], "{body}");
    }
    for (tolerance, because) in [(9 * MINUTE, "tolerance"), (11 * MINUTE, "latency")] {
        let _ = world.ask("q", tolerance).await.unwrap();
        assert_eq!(world.log.take(), [format!("passed {because} 1")]);
    }
    let mut request = post("https://bedrock-runtime.us-east-1.amazonaws.com", body("q"));
    request.extensions_mut().insert(Tolerance(5 * HOUR));
    let _ = world.start(request).await.unwrap();
    assert_eq!(world.log.take(), ["passed platform 1"]);
    // The signature is that of the call, and does not hold for a batch.
    let mut request = with(
        question("q", 5 * HOUR),
        "authorization",
        "AWS4-HMAC-SHA256 Credential=AK/20261130/us-east-1/aws-external-anthropic/aws4_request",
    );
    request.headers_mut().remove("x-api-key");
    let _ = world.start(request).await.unwrap();
    assert_eq!(world.log.take(), ["passed signature 1"]);
    assert!(world.requests().is_empty());
    assert_eq!(world.snapshot().passed.values().sum::<u64>(), 14);
}

#[tokio::test(start_paused = true)]
async fn deadline_of_the_caller_bounds_the_tolerance() {
    let world = World::new(api());
    let mut request = question("q", 5 * HOUR);
    request
        .extensions_mut()
        .insert(Deadline(Instant::now() + 5 * MINUTE));
    let _ = world.start(request).await.unwrap();
    assert_eq!(world.log.take(), ["passed latency 1"]);
}

#[tokio::test(start_paused = true)]
async fn late_batch_sends_its_calls_live_in_time_and_is_cancelled() {
    let world = World::new(api().batch_time(20 * HOUR));
    let started = Instant::now();
    let call = world.ask("q", 2 * HOUR);
    let answer = call.await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(!answer.contains("\"batch\""));
    assert_eq!(
        started.elapsed(),
        2 * HOUR - 2 * MINUTE,
        "one live answer before the end"
    );
    sleep(MINUTE).await;
    assert_eq!(
        (world.live(), world.requests().last().unwrap().as_str()),
        (1, "cancel")
    );
    let snapshot = world.snapshot();
    assert_eq!(
        (snapshot.sent_twice, snapshot.went_live["deadline"]),
        (1, 1)
    );
    assert_eq!((snapshot.in_batches, snapshot.batches), (0, 0));
    assert!(
        snapshot.latency[SONNET].p95 > 2 * HOUR,
        "the latency is known to be longer"
    );
}

#[tokio::test(start_paused = true)]
async fn live_call_has_the_batch_priority_and_the_deadline() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(None));
    let kept = seen.clone();
    let (layer, driver) = BatchLayer::in_memory().pair();
    let fake = FakeClaude::builder().build();
    let service = tower::util::MapRequest::new(
        fake,
        move |request: http::Request<tower_claude_core::RequestBody>| {
            let extensions = request.extensions();
            let found = (
                extensions.get::<Priority>().copied(),
                extensions.get::<Deadline>().map(|deadline| deadline.0),
            );
            *kept.lock().unwrap() = Some(found);
            assert!(
                request
                    .headers()
                    .keys()
                    .all(|name| !name.as_str().starts_with("x-tower-claude"))
            );
            request
        },
    );
    let started = Instant::now();
    let call = send(&layer.layer(service), question("q", 2 * HOUR));
    let answer: Answer = call.await.expect("a response");
    assert_eq!(answer.status, 200);
    let expected = (Some(Priority::Batch), Some(started + 2 * HOUR));
    assert_eq!(
        *seen.lock().unwrap(),
        Some(expected),
        "although the driver never ran"
    );
    assert_eq!(started.elapsed(), 2 * HOUR - 2 * MINUTE);
    drop(driver);
    let call = send(
        &layer.layer(FakeClaude::builder().build()),
        question("q", 2 * HOUR),
    );
    let started = Instant::now();
    assert_eq!(call.await.expect("a response").status, 200);
    assert_eq!(started.elapsed(), Duration::ZERO, "the driver is gone");
    assert_eq!(layer.handle().snapshot().passed["driver"], 1);
}

#[tokio::test(start_paused = true)]
async fn live_call_has_a_record_of_its_own_if_an_outer_layer_made_one() {
    for raised in [None, Some(Priority::Interactive)] {
        let (seen, (layer, _driver)) = (Arc::new(Mutex::new(None)), BatchLayer::in_memory().pair());
        let kept = seen.clone();
        let service = tower::util::MapRequest::new(
            FakeClaude::builder().build(),
            move |request: http::Request<tower_claude_core::RequestBody>| {
                let call = Call::of(&request).expect("the record");
                let tenant = call.tenant().cloned();
                let times = (call.first_arrival(), call.deadline());
                *kept.lock().unwrap() = Some((times, call.priority(), tenant));
                request
            },
        );
        let (started, mut request) = (Instant::now(), question("q", 2 * HOUR));
        let mut extensions = http::Extensions::new();
        extensions.insert(Tenant("t".into()));
        let call = Arc::new(Call::new(&extensions, started));
        raised.into_iter().for_each(|to| call.raise_priority(to));
        call.attach(&mut request);
        let answer: Answer = send(&layer.layer(service), request)
            .await
            .expect("a response");
        assert_eq!(answer.status, 200);
        let times = (started + 2 * HOUR - 2 * MINUTE, Some(started + 2 * HOUR));
        let priority = raised.unwrap_or(Priority::Batch);
        let expected = (times, priority, Some(Tenant("t".into())));
        assert_eq!(*seen.lock().unwrap(), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn driver_that_stops_in_the_middle_delays_no_call() {
    let world = World::new(api());
    let call = world.ask("q", 2 * HOUR);
    sleep(10 * MINUTE).await;
    assert_eq!(world.batched().len(), 1);
    world.driver.abort();
    let answer = timeout(2 * HOUR, call).await.expect("in time").unwrap();
    assert_eq!((answer.status, world.live()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn dropped_call_leaves_the_queue_and_its_batch() {
    let world = World::new(api());
    let call = world.ask("q", 2 * HOUR);
    settle().await;
    assert_eq!(world.snapshot().queued, 1);
    call.abort();
    sleep(10 * MINUTE).await;
    assert_eq!((world.snapshot().queued, world.requests().len()), (0, 0));

    let call = world.ask("q", 2 * HOUR);
    sleep(6 * MINUTE).await;
    assert_eq!(world.snapshot().in_batches, 1);
    call.abort();
    sleep(3 * MINUTE).await;
    assert!(
        world.requests().contains(&"cancel".to_owned()),
        "nobody waits for it"
    );
    assert_eq!(world.snapshot().batches, 0);
}

#[tokio::test(start_paused = true)]
async fn client_that_asks_again_after_a_timeout_is_attached() {
    let world = World::new(api());
    let call = world.ask("q", 2 * HOUR);
    sleep(6 * MINUTE).await;
    call.abort();
    sleep(SECOND).await;
    let call = world.ask("q", 2 * HOUR);
    assert_eq!(call.await.unwrap().status, 200);
    assert_eq!((world.batched().len(), world.live()), (1, 0));
    assert_eq!(world.snapshot().attached, 1);
    // An answered question is a new one.
    let call = world.ask("q", 2 * HOUR);
    assert_eq!(call.await.unwrap().status, 200);
    assert_eq!(world.batched().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn equal_questions_at_the_same_time_get_answers_of_their_own() {
    let world = World::new(api());
    let calls: Vec<_> = (0..3).map(|_| world.ask("q", 2 * HOUR)).collect();
    let mut ids = std::collections::BTreeSet::new();
    for call in calls {
        let answer = call.await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        ids.insert(json["id"].as_str().unwrap().to_owned());
    }
    assert_eq!((ids.len(), world.batched().len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn many_equal_layers_share_one_queue() {
    let world = World::new(api());
    let copy = world.layer.clone();
    let first = world.ask("a", 2 * HOUR);
    let service = copy.layer(world.fake.clone());
    let second = tokio::spawn(async move { send(&service, question("b", 2 * HOUR)).await });
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(second.await.unwrap().expect("a response").status, 200);
    assert_eq!(
        world
            .requests()
            .iter()
            .filter(|path| *path == "create")
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn other_requests_pass_through() {
    let world = World::new(api());
    let answer: Received<_> = world.start(request(SONNET, true)).await.unwrap();
    assert_eq!(answer.status, 200);
    let count = with(
        question("q", 5 * HOUR),
        "x-a",
        HeaderValue::from_static("b"),
    );
    let (mut parts, body) = count.into_parts();
    parts.uri = "http://localhost/v1/messages/count_tokens".parse().unwrap();
    let request = http::Request::from_parts(parts, body);
    assert_eq!(world.start(request).await.unwrap().status, 200);
    assert_eq!(world.log.take(), ["passed endpoint 1"]);
}
